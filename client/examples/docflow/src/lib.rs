//! Docflow, an intelligent document pipeline on Sluice.
//!
//! ```text
//!  feed ─ doc.uploaded ─> render ─ page.ready ─┬─(text layer)──> text ─┬─ page.text ─> entities ─ doc.entities ─> store
//!                                              └─(no text layer)─> ocr ─┘                                        (SQLite)
//! ```
//!
//! Each stage knows its own topics and nothing of the others. [`topology`] says
//! which topics and groups there are; the handlers in [`stages`] are plain
//! functions from an event's payload to the payloads of what comes of it.

pub mod entities;
pub mod events;
pub mod feed;
pub mod ocr;
pub mod pdf;
pub mod pipeline;
pub mod progress;
pub mod python;
pub mod stages;
pub mod store;
pub mod topology;
