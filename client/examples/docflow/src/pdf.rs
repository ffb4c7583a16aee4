//! PDF files: pages, their text, their images.
//!
//! The libraries are not written against hostile files; a panic in one of them
//! must cost that file and nothing else.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use hayro::{
    PixmapSettings, RenderCache, RenderSettings, hayro_interpret::InterpreterSettings,
    hayro_syntax::Pdf, render, vello_cpu::color::palette::css::WHITE,
};
use lopdf::Document;

/// Most pages of a document.
pub const PAGES_MAX: usize = 500;
/// Dots per inch of page images; what OCR needs, and no more.
const DPI: f32 = 150.0;
/// Most pixels of an image's longer side.
const SIDE_MAX: f32 = 4000.0;

/// A page that was taken out of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The text in it; empty if it has none.
    pub text: String,
    /// It as a grey PNG.
    pub image: Vec<u8>,
}

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PdfError {
    /// It is no PDF, or a damaged one.
    #[error("the file is no readable PDF: {0}")]
    Unreadable(String),
    /// It has no pages.
    #[error("the PDF has no pages")]
    Empty,
    /// It has too many pages.
    #[error("the PDF has {0} pages, the limit is {PAGES_MAX}")]
    TooLong(usize),
    /// A page cannot be drawn.
    #[error("page {0} cannot be drawn")]
    Undrawable(usize),
}

/// Splits a document into its pages.
///
/// # Errors
/// When it is no PDF that can be read.
pub fn split(content: &[u8]) -> Result<Vec<Page>, PdfError> {
    catch_unwind(AssertUnwindSafe(|| split_unguarded(content)))
        .unwrap_or_else(|_| Err(PdfError::Unreadable("the reader failed on it".into())))
}

fn split_unguarded(content: &[u8]) -> Result<Vec<Page>, PdfError> {
    let unreadable = |error: lopdf::Error| PdfError::Unreadable(error.to_string());
    let texts = Document::load_mem(content).map_err(unreadable)?;
    let drawn = Pdf::new(Arc::new(content.to_vec()))
        .map_err(|error| PdfError::Unreadable(format!("{error:?}")))?;
    let pages = drawn.pages();
    match pages.len() {
        0 => return Err(PdfError::Empty),
        many if many > PAGES_MAX => return Err(PdfError::TooLong(many)),
        _ => {}
    }
    let cache = RenderCache::new();
    let mut split = Vec::with_capacity(pages.len());
    for (at, page) in pages.iter().enumerate() {
        let number = at + 1;
        // A page whose text cannot be taken is as good as one without.
        let text = texts.extract_text(&[number as u32]).unwrap_or_default();
        let (width, height) = page.render_dimensions();
        let scale = (DPI / 72.0).min(SIDE_MAX / width.max(height).max(1.0));
        let pixels = render(
            page,
            &cache,
            &InterpreterSettings::default(),
            &RenderSettings::default(),
            &PixmapSettings {
                x_scale: scale,
                y_scale: scale,
                bg_color: WHITE,
            },
        );
        let image = grey_png(
            u32::from(pixels.width()),
            u32::from(pixels.height()),
            pixels.data_as_u8_slice(),
        )
        .ok_or(PdfError::Undrawable(number))?;
        split.push(Page {
            text: tidy(&text),
            image,
        });
    }
    Ok(split)
}

/// Text without empty lines and surplus spaces.
fn tidy(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    lines.join("\n")
}

/// A grey PNG of pixels of red, green, blue and alpha on white.
fn grey_png(width: u32, height: u32, rgba: &[u8]) -> Option<Vec<u8>> {
    let grey: Vec<u8> = rgba
        .chunks_exact(4)
        .map(|pixel| {
            let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
            ((red * 299 + green * 587 + blue * 114) / 1000) as u8
        })
        .collect();
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().ok()?.write_image_data(&grey).ok()?;
    Some(out)
}
