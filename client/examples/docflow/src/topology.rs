//! Which topics and groups there are, as data.

use std::time::Duration;

use sluice_client::{Admin, Error, GroupOptions};

/// Documents as they came.
pub const UPLOADED: &str = "doc.uploaded";
/// Pages as images.
pub const PAGES: &str = "page.ready";
/// Pages as text.
pub const TEXTS: &str = "page.text";
/// What pages speak of.
pub const ENTITIES: &str = "doc.entities";

/// A stage's group: its topic, its name, and the events that it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageGroup {
    /// What it reads.
    pub topic: &'static str,
    /// Its name.
    pub group: &'static str,
    /// CEL; empty for all.
    pub filter: &'static str,
}

/// Splits documents into pages.
pub const RENDER: StageGroup = StageGroup {
    topic: UPLOADED,
    group: "render",
    filter: "",
};
/// Takes the text that is in a page.
pub const TEXT: StageGroup = StageGroup {
    topic: PAGES,
    group: "text",
    filter: "event.data.text_layer == true",
};
/// Reads the text off a page's image.
pub const OCR: StageGroup = StageGroup {
    topic: PAGES,
    group: "ocr",
    filter: "event.data.text_layer == false",
};
/// Finds what pages speak of.
pub const EXTRACT: StageGroup = StageGroup {
    topic: TEXTS,
    group: "entities",
    filter: "",
};
/// Writes the database.
pub const STORE: StageGroup = StageGroup {
    topic: ENTITIES,
    group: "store",
    filter: "",
};

/// Every stage.
pub const STAGES: [StageGroup; 5] = [RENDER, TEXT, OCR, EXTRACT, STORE];

/// Makes the topics and groups that are not there yet.
///
/// # Errors
/// When they are there with another configuration, or the broker does not
/// answer.
pub async fn create(admin: &Admin) -> Result<(), Error> {
    for topic in [UPLOADED, PAGES, TEXTS, ENTITIES] {
        admin.create_topic(topic, 4).await?;
    }
    for stage in STAGES {
        admin
            .create_group(stage.topic, stage.group, group_options(stage.filter))
            .await?;
    }
    Ok(())
}

/// How every stage's group is: silent workers lose their events after 5
/// seconds; three attempts.
#[must_use]
pub fn group_options(filter: &str) -> GroupOptions {
    GroupOptions::default()
        .filter(filter)
        .lease(Duration::from_secs(5))
        .max_attempts(3)
        .retry_delay(Duration::from_millis(200), Duration::from_secs(2))
}
