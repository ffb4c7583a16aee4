//! What each stage does with an event: plain functions, without a broker.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::Serialize;
use sluice_client::{Event, Outputs, StageError, derive_id};

use crate::{
    entities,
    events::{PageEntities, PageReady, PageText, SOURCE},
    ocr, pdf,
    topology::{ENTITIES, PAGES, TEXTS},
};

/// An output whose id derives from its input, so that doing the work again makes
/// the same event.
fn output(
    input: &Event,
    event_type: &str,
    page: u32,
    payload: &impl Serialize,
) -> Result<Event, StageError> {
    let name = format!("{event_type}/{page}");
    let subject = format!("{}/page/{page}", input.key().unwrap_or_default());
    Ok(Event::new(SOURCE, event_type)
        .with_id(derive_id(input, &name))
        .with_subject(subject)
        .json(payload)?)
}

/// A document into its pages.
///
/// # Errors
/// When it is no readable PDF.
pub fn render(input: &Event) -> Result<Outputs, StageError> {
    let pages = pdf::split(input.data())?;
    let count = pages.len() as u32;
    (1..)
        .zip(pages)
        .map(|(number, page)| {
            let payload = PageReady {
                document: input.id().to_owned(),
                name: input.subject().to_owned(),
                page: number,
                pages: count,
                text_layer: !page.text.is_empty(),
                text: page.text,
                image: BASE64.encode(page.image),
            };
            Ok((PAGES, output(input, PAGES, number, &payload)?))
        })
        .collect()
}

/// A page with a text layer into that text.
///
/// # Errors
/// When the event is none of a page.
pub fn text(input: &Event) -> Result<Outputs, StageError> {
    let page: PageReady = input.parse()?;
    page_text(input, page, "layer", |page| Ok(page.text.clone()))
}

/// A page's image into the text on it.
///
/// # Errors
/// When the event is none of a page, or the image cannot be read.
pub fn read_image(input: &Event) -> Result<Outputs, StageError> {
    let page: PageReady = input.parse()?;
    page_text(input, page, "ocr", |page| {
        let image = BASE64.decode(&page.image)?;
        Ok(ocr::read(&image)?)
    })
}

fn page_text(
    input: &Event,
    page: PageReady,
    method: &str,
    read: impl FnOnce(&PageReady) -> Result<String, StageError>,
) -> Result<Outputs, StageError> {
    let text = read(&page)?;
    let payload = PageText {
        text,
        document: page.document,
        name: page.name,
        page: page.page,
        pages: page.pages,
        method: method.to_owned(),
    };
    let event = output(input, TEXTS, page.page, &payload)?;
    Ok(Outputs::one(TEXTS, event))
}

/// A page's text into what it speaks of.
///
/// # Errors
/// When the event is none of a page's text.
pub fn extract(input: &Event) -> Result<Outputs, StageError> {
    let page: PageText = input.parse()?;
    let payload = PageEntities {
        entities: entities::find(&page.text),
        characters: page.text.chars().count() as u64,
        document: page.document,
        name: page.name,
        page: page.page,
        pages: page.pages,
        method: page.method,
    };
    let event = output(input, ENTITIES, page.page, &payload)?;
    Ok(Outputs::one(ENTITIES, event))
}
