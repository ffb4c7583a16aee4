//! Publishes an upload and its image, and waits until both are durable.
//!
//! ```sh
//! cargo run -p sluice-client --example publish [URL]
//! ```

use sluice_client::{Client, Event};

#[tokio::main]
async fn main() -> Result<(), sluice_client::Error> {
    let url = std::env::args().nth(1);
    let client = Client::connect(url.as_deref().unwrap_or("http://127.0.0.1:7070")).await?;
    client.admin().create_topic("uploads", 1).await?;

    let producer = client.producer().await?;
    let upload = Event::new("/web", "file_upload")
        .with_key("doc123")
        .text("doc123.pdf");
    // Events of one key keep their order.
    let image = Event::new("/render", "image.ready")
        .with_key("doc123")
        .bytes("image/png", b"page 1".to_vec());
    for event in [upload, image] {
        let at = producer.publish("uploads", event).await?;
        println!("stored at {}/{}", at.partition, at.offset);
    }
    Ok(())
}
