//! Brings the PDF files of a folder in.

use std::{collections::HashSet, fs, io, path::Path};

use futures_util::StreamExt;
use sluice_client::{Client, Error};

use crate::{events, topology::UPLOADED};

/// Largest file that fits an event of the embedded broker, with room for what is
/// around it.
const FILE_BYTES_MAX: u64 = (8 << 20) - (64 << 10);

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The document's id.
    pub document: String,
    /// The file's name.
    pub name: String,
    content: Vec<u8>,
}

/// Reads the PDF files of a folder, in order of name.
///
/// # Errors
/// When the folder or a file cannot be read, or a file is too large.
pub fn find(folder: &Path) -> io::Result<Vec<Upload>> {
    let mut uploads = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_pdf = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("pdf"));
        if !is_pdf || !path.is_file() {
            continue;
        }
        let size = path.metadata()?.len();
        if size > FILE_BYTES_MAX {
            let message = format!(
                "{} is {size} bytes long, the limit is {FILE_BYTES_MAX}",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        let content = fs::read(&path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        uploads.push(Upload {
            document: events::document_id(&name, &content),
            name: name.into_owned(),
            content,
        });
    }
    uploads.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(uploads)
}

/// Publishes the documents that are not there yet.
///
/// # Errors
/// When the broker does not take them.
pub async fn publish(client: &Client, uploads: &[Upload]) -> Result<(), Error> {
    let mut there = HashSet::new();
    let mut events = client.read(UPLOADED).events().await?;
    while let Some(event) = events.next().await {
        there.insert(event?.event.id().to_owned());
    }
    let producer = client.named_producer("docflow-feed").await?;
    for upload in uploads {
        if !there.contains(&upload.document) {
            let event = events::uploaded(&upload.name, upload.content.clone());
            producer.publish(UPLOADED, event).await?;
        }
    }
    Ok(())
}
