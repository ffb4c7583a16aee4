//! How far the documents are: what the topics, the dead letters and the database
//! say together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use comfy_table::{Table, presets::NOTHING};
use futures_util::StreamExt;
use sluice_client::{Client, Error};
use tokio::task::JoinHandle;

use crate::{
    events::PageReady,
    feed::Upload,
    store::Store,
    topology::{PAGES, RENDER},
};

/// How far one document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its file name.
    pub name: String,
    /// Pages that it has; `None` while nobody knows.
    pub pages: Option<u32>,
    /// Pages in the database.
    pub stored: u32,
    /// Pages that can only be read by OCR and are not in the database.
    pub images: u32,
    /// Entities in the database.
    pub entities: u32,
    /// Why it is a dead letter, if it is.
    pub failed: Option<String>,
}

impl Progress {
    /// Whether nothing more will happen to it; without an OCR worker, images
    /// wait for one.
    #[must_use]
    pub fn is_settled(&self, ocr: bool) -> bool {
        let waiting = if ocr { 0 } else { self.images };
        self.failed.is_some()
            || self
                .pages
                .is_some_and(|pages| self.stored + waiting >= pages)
    }

    fn state(&self) -> State<'_> {
        match (&self.failed, self.pages) {
            (Some(reason), _) => State::Failed(reason),
            (None, Some(pages)) if self.stored >= pages => State::Stored,
            (None, Some(pages)) if self.stored + self.images >= pages => {
                State::Waiting(pages - self.stored)
            }
            _ => State::UnderWay,
        }
    }
}

enum State<'a> {
    Stored,
    Waiting(u32),
    UnderWay,
    Failed(&'a str),
}

impl fmt::Display for State<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored => f.write_str("stored"),
            Self::Waiting(1) => f.write_str("1 page waits for OCR"),
            Self::Waiting(pages) => write!(f, "{pages} pages wait for OCR"),
            Self::UnderWay => f.write_str("under way"),
            Self::Failed(reason) => write!(f, "dead letter: {reason}"),
        }
    }
}

/// The table at the end.
#[must_use]
pub fn table(documents: &[Progress]) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(["document", "pages", "stored", "entities", "state"]);
    for of in documents {
        table.add_row([
            of.name.clone(),
            of.pages
                .map_or_else(|| "-".into(), |pages| pages.to_string()),
            of.stored.to_string(),
            of.entities.to_string(),
            of.state().to_string(),
        ]);
    }
    let stored = documents
        .iter()
        .filter(|of| matches!(of.state(), State::Stored));
    let failed = documents.iter().filter(|of| of.failed.is_some());
    let waiting: u32 = documents
        .iter()
        .map(|of| match of.state() {
            State::Waiting(pages) => pages,
            _ => 0,
        })
        .sum();
    let counted = |count: usize, what: &str| {
        let ending = if count == 1 { "" } else { "s" };
        format!("{count} {what}{ending}")
    };
    format!(
        "{table}\n{}: {} stored, {}, {} waiting for OCR",
        counted(documents.len(), "document"),
        stored.count(),
        counted(failed.count(), "dead letter"),
        counted(waiting as usize, "page"),
    )
}

/// Pages that were seen, by document.
type Pages = Arc<Mutex<BTreeMap<String, SeenPages>>>;

#[derive(Clone, Debug, Default)]
struct SeenPages {
    count: u32,
    images: BTreeSet<u32>,
}

/// Watches the documents.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    uploads: Vec<Upload>,
    store: Store,
    pages: Pages,
    follower: JoinHandle<()>,
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the database cannot be opened.
    pub fn start(client: Client, uploads: Vec<Upload>, database: &Path) -> rusqlite::Result<Self> {
        let pages = Pages::default();
        let follower = tokio::spawn(follow(client.clone(), pages.clone()));
        Ok(Self {
            client,
            uploads,
            store: Store::open(database)?,
            pages,
            follower,
        })
    }

    /// How far each document is.
    ///
    /// # Errors
    /// When the broker does not answer, or the database cannot be read.
    pub async fn progress(&self) -> anyhow::Result<Vec<Progress>> {
        let letters = self
            .client
            .admin()
            .list_dead_letters(RENDER.topic, RENDER.group)
            .await?;
        let reasons: BTreeMap<String, String> = letters
            .into_iter()
            .map(|letter| {
                let reason = letter.history.unwrap_or_default().reason;
                (letter.event.unwrap_or_default().id, reason)
            })
            .collect();
        let mut documents = Vec::with_capacity(self.uploads.len());
        for upload in &self.uploads {
            let (stored, entities) = self.store.counts(&upload.document)?;
            let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = pages.get(&upload.document).cloned();
            documents.push(Progress {
                name: upload.name.clone(),
                pages: seen.as_ref().map(|seen| seen.count),
                images: seen.map_or(0, |seen| seen.images.len() as u32),
                stored,
                entities,
                failed: reasons.get(&upload.document).cloned(),
            });
        }
        Ok(documents)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// Notes every page, again from the beginning after an interruption.
async fn follow(client: Client, pages: Pages) {
    loop {
        if let Err(error) = follow_once(&client, &pages).await {
            tracing::debug!(%error, "watching is interrupted");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn follow_once(client: &Client, pages: &Pages) -> Result<(), Error> {
    let mut events = client.read(PAGES).follow().events().await?;
    while let Some(event) = events.next().await {
        let Ok(page) = event?.event.parse::<PageReady>() else {
            continue;
        };
        let mut pages = pages.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = pages.entry(page.document).or_default();
        seen.count = page.pages;
        if !page.text_layer {
            seen.images.insert(page.page);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_what_became_of_each_document() {
        let document = |name: &str, pages, stored, images, failed: Option<&str>| Progress {
            name: name.into(),
            pages,
            stored,
            images,
            entities: 3,
            failed: failed.map(str::to_owned),
        };
        let documents = [
            document("a.pdf", Some(2), 2, 0, None),
            document("scan.pdf", Some(3), 1, 2, None),
            document("bad.pdf", None, 0, 0, Some("no PDF")),
            document("new.pdf", None, 0, 0, None),
        ];
        let table = table(&documents);
        assert!(table.contains("2 pages wait for OCR"), "{table}");
        assert!(table.contains("dead letter: no PDF"), "{table}");
        assert!(table.contains("under way"), "{table}");
        assert!(
            table.ends_with("4 documents: 1 stored, 1 dead letter, 2 pages waiting for OCR"),
            "{table}"
        );
        let settled = documents.map(|of| (of.is_settled(true), of.is_settled(false)));
        assert_eq!(
            settled,
            [(true, true), (false, true), (true, true), (false, false)]
        );
    }
}
