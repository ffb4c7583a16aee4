//! The database: one row per document, page and entity.
//!
//! Every write can be done again without a trace, so that an event that is
//! delivered twice leaves the rows as they were. Each row tells the event that
//! made it.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OptionalExtension, params};
use sluice_client::Event;

use crate::events::PageEntities;

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS documents (
        document TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        pages INTEGER NOT NULL,
        first_page INTEGER NOT NULL,
        event_id TEXT NOT NULL,
        correlation_id TEXT NOT NULL,
        traceparent TEXT NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS pages (
        document TEXT NOT NULL,
        page INTEGER NOT NULL,
        method TEXT NOT NULL,
        characters INTEGER NOT NULL,
        event_id TEXT NOT NULL,
        correlation_id TEXT NOT NULL,
        traceparent TEXT NOT NULL,
        PRIMARY KEY (document, page)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS entities (
        document TEXT NOT NULL,
        page INTEGER NOT NULL,
        kind TEXT NOT NULL,
        value TEXT NOT NULL,
        event_id TEXT NOT NULL,
        correlation_id TEXT NOT NULL,
        traceparent TEXT NOT NULL,
        PRIMARY KEY (document, page, kind, value)
    ) STRICT;
";

/// An open database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

/// A row, and the event that made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// What it says, without the event.
    pub content: String,
    /// The event.
    pub event_id: String,
    /// Its correlationid.
    pub correlation_id: String,
    /// Its traceparent.
    pub traceparent: String,
}

impl Store {
    /// Opens the database, or makes it.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(30))?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self { connection })
    }

    /// Writes the rows of one page.
    ///
    /// # Errors
    /// When the database does not take them; none is written then.
    pub fn save(&mut self, event: &Event, page: &PageEntities) -> rusqlite::Result<()> {
        let (correlation, trace) = (
            event.get("correlationid").unwrap_or_default(),
            event.get("traceparent").unwrap_or_default(),
        );
        let transaction = self.connection.transaction()?;
        // Pages come in any order; the document's row is of the first of them.
        transaction.execute(
            "INSERT INTO documents VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT DO UPDATE SET first_page = ?4, event_id = ?5, correlation_id = ?6,
                 traceparent = ?7 WHERE excluded.first_page <= documents.first_page",
            params![
                page.document,
                page.name,
                page.pages,
                page.page,
                event.id(),
                correlation,
                trace
            ],
        )?;
        transaction.execute(
            "INSERT OR REPLACE INTO pages VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                page.document,
                page.page,
                page.method,
                page.characters as i64,
                event.id(),
                correlation,
                trace
            ],
        )?;
        for entity in &page.entities {
            transaction.execute(
                "INSERT OR REPLACE INTO entities VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    page.document,
                    page.page,
                    entity.kind.name(),
                    entity.value,
                    event.id(),
                    correlation,
                    trace
                ],
            )?;
        }
        transaction.commit()
    }

    /// How many pages of a document are stored, and how many entities.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn counts(&self, document: &str) -> rusqlite::Result<(u32, u32)> {
        let count = |table: &str| {
            let query = format!("SELECT count(*) FROM {table} WHERE document = ?1");
            let found = self
                .connection
                .query_row(&query, [document], |row| row.get(0));
            found.optional().map(Option::unwrap_or_default)
        };
        Ok((count("pages")?, count("entities")?))
    }

    /// Every row of every table, in order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn rows(&self) -> rusqlite::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for query in [
            "SELECT 'document ' || document || ' ' || name || ' ' || pages,
                 event_id, correlation_id, traceparent FROM documents",
            "SELECT 'page ' || document || ' ' || page || ' ' || method || ' ' || characters,
                 event_id, correlation_id, traceparent FROM pages",
            "SELECT 'entity ' || document || ' ' || page || ' ' || kind || ' ' || value,
                 event_id, correlation_id, traceparent FROM entities",
        ] {
            let mut statement = self.connection.prepare(query)?;
            let found = statement.query_map([], |row| {
                Ok(Row {
                    content: row.get(0)?,
                    event_id: row.get(1)?,
                    correlation_id: row.get(2)?,
                    traceparent: row.get(3)?,
                })
            })?;
            for row in found {
                rows.push(row?);
            }
        }
        rows.sort();
        Ok(rows)
    }
}
