//! A worker of the stage `ocr`: takes images, and publishes their texts together
//! with the acks. Ends at Ctrl-C, when what it has begun is done.
//!
//! ```sh
//! cargo run -p sluice-client --example worker [URL]
//! ```

use sluice_client::{Client, Event, GroupOptions, Outputs, StageError, derive_id};

#[tokio::main]
async fn main() -> Result<(), sluice_client::Error> {
    let url = std::env::args().nth(1);
    let client = Client::connect(url.as_deref().unwrap_or("http://127.0.0.1:7070")).await?;

    // Nothing happens when they are there already.
    let admin = client.admin();
    admin.create_topic("uploads", 1).await?;
    admin.create_topic("texts", 1).await?;
    // The broker skips every other event for us.
    let images = GroupOptions::default().filter("event.type == 'image.ready'");
    admin.create_group("uploads", "ocr", images).await?;

    let stage = client
        .stage("uploads", "ocr")
        .concurrency(4)
        .start(|job| async move {
            let text = read_text(job.event.data())?;
            // The same input gives the same id, so that a reader can tell a
            // repetition.
            let output = Event::new("/workers/ocr", "text.extracted")
                .with_id(derive_id(&job.event, "text"))
                .text(text);
            println!("done {}", job.event.id());
            Ok::<_, StageError>(Outputs::one("texts", output))
        })
        .await?;
    println!("working");
    // Where no signals can be had, the worker ends at once.
    let _ = tokio::signal::ctrl_c().await;
    stage.stop().await;
    Ok(())
}

/// The work. It may take milliseconds or hours.
fn read_text(image: &[u8]) -> Result<String, StageError> {
    if image.is_empty() {
        // To the dead letters at once: trying again would not help.
        return Err(StageError::reject("the image is empty"));
    }
    Ok(format!("the text of {} bytes", image.len()))
}
