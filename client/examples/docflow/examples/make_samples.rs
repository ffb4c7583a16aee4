//! Makes the sample documents. They are the same every time.
//!
//! `cargo run -p docflow --example make_samples -- client/examples/docflow/samples`

use std::{io::Write, path::Path};

use flate2::{Compression, write::ZlibEncoder};
use hayro::{
    PixmapSettings, RenderCache, RenderSettings, hayro_interpret::InterpreterSettings,
    hayro_syntax::Pdf as Drawn, render, vello_cpu::color::palette::css::WHITE,
};
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect, Ref, Str};

const A4: Rect = Rect {
    x1: 0.0,
    y1: 0.0,
    x2: 595.0,
    y2: 842.0,
};

fn main() -> anyhow::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "samples".into());
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("invoice.pdf"), digital(&[&invoice()]))?;
    std::fs::write(folder.join("letter.pdf"), digital(&letter()))?;
    std::fs::write(folder.join("contract.pdf"), digital(&contract()))?;
    std::fs::write(
        folder.join("scan.pdf"),
        scanned(&digital(&[&delivery_note()]))?,
    )?;
    let whole = digital(&[&invoice()]);
    std::fs::write(folder.join("broken.pdf"), &whole[..100])?;
    Ok(())
}

type Lines = Vec<&'static str>;

fn invoice() -> Lines {
    vec![
        "Northwind Scanning GmbH",
        "Invoice No. INV-2026-0042",
        "Date: 24 November 2026",
        "",
        "Digitising 1,200 pages       EUR 1,080.00",
        "Express surcharge            EUR 54.50",
        "Total                        EUR 1,134.50",
        "",
        "Payable until 2026-12-08 to IBAN DE89 3704 0044 0532 0130 00",
        "Questions: billing@northwind-scanning.example",
    ]
}

fn letter() -> Vec<&'static Lines> {
    static PAGES: std::sync::LazyLock<Vec<Lines>> = std::sync::LazyLock::new(|| {
        vec![
            vec![
                "Dear Ms Rivera,",
                "thank you for your letter of 3 October 2026.",
                "We have looked into the archive and found the three files",
                "that you asked for. The search took until October 19, 2026.",
            ],
            vec![
                "The first file holds the plans of the harbour, drawn in 1931.",
                "Copies cost GBP 35.00 each, and GBP 12.50 for postage.",
            ],
            vec![
                "Please write to archive@harbour-museum.example to order.",
                "With kind regards,",
                "The Harbour Museum, 02.11.2026",
            ],
        ]
    });
    PAGES.iter().collect()
}

fn contract() -> Vec<&'static Lines> {
    static PAGES: std::sync::LazyLock<Vec<Lines>> = std::sync::LazyLock::new(|| {
        vec![
            vec![
                "Service contract",
                "between Lindqvist AB and Harbour Museum",
                "1. The contract begins on 2027-01-01 and ends on 2028-12-31.",
                "2. The yearly fee is CHF 24,000.00, payable in advance.",
            ],
            vec![
                "3. Notices go to legal@lindqvist.example.",
                "4. Payments go to IBAN GB82 WEST 1234 5698 7654 32.",
                "Signed on 24.11.2026",
            ],
        ]
    });
    PAGES.iter().collect()
}

fn delivery_note() -> Lines {
    vec![
        "DELIVERY NOTE",
        "",
        "Date: 2026-11-20",
        "Goods worth EUR 310.00 were delivered.",
        "Refunds to IBAN DE02 1203 0000 0000 2020 51",
        "Contact: depot@harbour.example",
    ]
}

/// A PDF with a text layer: one page for each list of lines.
fn digital(pages: &[&Lines]) -> Vec<u8> {
    let mut pdf = Pdf::new();
    let (catalog, tree, font) = (Ref::new(1), Ref::new(2), Ref::new(3));
    let page_ref = |at: usize| Ref::new(4 + 2 * at as i32);
    let content_ref = |at: usize| Ref::new(5 + 2 * at as i32);
    pdf.catalog(catalog).pages(tree);
    pdf.pages(tree)
        .kids((0..pages.len()).map(page_ref))
        .count(pages.len() as i32);
    pdf.type1_font(font)
        .base_font(Name(b"Helvetica"))
        .encoding_predefined(Name(b"WinAnsiEncoding"));
    for (at, lines) in pages.iter().enumerate() {
        let mut page = pdf.page(page_ref(at));
        page.media_box(A4).parent(tree).contents(content_ref(at));
        page.resources().fonts().pair(Name(b"F1"), font);
        page.finish();
        let mut content = Content::new();
        for (row, line) in lines.iter().enumerate() {
            content
                .begin_text()
                .set_font(Name(b"F1"), 14.0)
                .next_line(60.0, 760.0 - 26.0 * row as f32)
                .show(Str(line.as_bytes()))
                .end_text();
        }
        pdf.stream(content_ref(at), &content.finish());
    }
    pdf.finish()
}

/// A PDF of images only: the first page of another, drawn at 150 dots per inch,
/// with the noise of a scanner.
fn scanned(of: &[u8]) -> anyhow::Result<Vec<u8>> {
    let drawn = Drawn::new(of.to_vec()).map_err(|e| anyhow::anyhow!("{e:?}"))?;
    let scale = 150.0 / 72.0;
    let pixels = render(
        &drawn.pages()[0],
        &RenderCache::new(),
        &InterpreterSettings::default(),
        &RenderSettings::default(),
        &PixmapSettings {
            x_scale: scale,
            y_scale: scale,
            bg_color: WHITE,
        },
    );
    // A generator of its own, so that the noise is the same for good
    // (<https://www.pcg-random.org>'s multiplier).
    let mut state = 42_u64;
    let grey: Vec<u8> = pixels
        .data_as_u8_slice()
        .chunks_exact(4)
        .map(|pixel| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let noise = if state >> 56 < 8 {
                (state >> 40) as u8 / 6
            } else {
                0
            };
            pixel[1].saturating_sub(noise)
        })
        .collect();
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&grey)?;
    let packed = packed.finish()?;

    let mut pdf = Pdf::new();
    let [catalog, tree, page_ref, image_ref, content_ref] = [1, 2, 3, 4, 5].map(Ref::new);
    pdf.catalog(catalog).pages(tree);
    pdf.pages(tree).kids([page_ref]).count(1);
    let mut page = pdf.page(page_ref);
    page.media_box(A4).parent(tree).contents(content_ref);
    page.resources().x_objects().pair(Name(b"Im1"), image_ref);
    page.finish();
    let mut image = pdf.image_xobject(image_ref, &packed);
    image.filter(Filter::FlateDecode);
    image.width(pixels.width().into());
    image.height(pixels.height().into());
    image.color_space().device_gray();
    image.bits_per_component(8);
    image.finish();
    let mut content = Content::new();
    content
        .save_state()
        .transform([A4.x2, 0.0, 0.0, A4.y2, 0.0, 0.0])
        .x_object(Name(b"Im1"))
        .restore_state();
    pdf.stream(content_ref, &content.finish());
    Ok(pdf.finish())
}
