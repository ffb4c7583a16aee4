//! The payloads of the events, and what identifies a document.

use serde::{Deserialize, Serialize};
use sluice_client::Event;
use uuid::Uuid;

use crate::entities::Entity;

/// Where the events come from, as their `source`.
pub const SOURCE: &str = "/docflow";

/// A page as an image. Payload of `page.ready`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PageReady {
    /// The document.
    pub document: String,
    /// The document's file name.
    pub name: String,
    /// The page, from 1.
    pub page: u32,
    /// How many pages the document has.
    pub pages: u32,
    /// The page has text in it, which need not be read from the image.
    pub text_layer: bool,
    /// That text; empty without a text layer.
    pub text: String,
    /// The page as PNG, in base64.
    pub image: String,
}

/// A page's text. Payload of `page.text`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PageText {
    /// As in [`PageReady`].
    pub document: String,
    /// As in [`PageReady`].
    pub name: String,
    /// As in [`PageReady`].
    pub page: u32,
    /// As in [`PageReady`].
    pub pages: u32,
    /// "layer" or "ocr".
    pub method: String,
    /// The text.
    pub text: String,
}

/// What a page speaks of. Payload of `doc.entities`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PageEntities {
    /// As in [`PageReady`].
    pub document: String,
    /// As in [`PageReady`].
    pub name: String,
    /// As in [`PageReady`].
    pub page: u32,
    /// As in [`PageReady`].
    pub pages: u32,
    /// As in [`PageText`].
    pub method: String,
    /// Characters of the text.
    pub characters: u64,
    /// What was found.
    pub entities: Vec<Entity>,
}

/// Identifies a document: the same for the same name and content.
#[must_use]
pub fn document_id(name: &str, content: &[u8]) -> String {
    let of_content = Uuid::new_v5(&Uuid::NAMESPACE_OID, content);
    let id = Uuid::new_v5(&of_content, name.as_bytes());
    format!("doc-{}", &id.simple().to_string()[..16])
}

/// The event that brings a document in. Its id is the document's, and its trace
/// id derives from it.
#[must_use]
pub fn uploaded(name: &str, content: Vec<u8>) -> Event {
    let document = document_id(name, &content);
    let trace = Uuid::new_v5(&Uuid::NAMESPACE_OID, document.as_bytes()).simple();
    let traceparent = format!("00-{trace}-{}-01", &document["doc-".len()..]);
    Event::new(SOURCE, "doc.uploaded")
        .with_id(document.clone())
        .with_key(document.clone())
        .with_subject(name)
        .attribute("correlationid", document)
        .attribute("traceparent", traceparent)
        .bytes("application/pdf", content)
}
