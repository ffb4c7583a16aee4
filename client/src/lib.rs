//! Client for Sluice, an event broker for AI pipelines.
//!
//! A stage worker takes events of a group, works, and publishes what comes of it
//! together with its ack: all of it happens, or nothing does.
//!
//! ```no_run
//! use sluice_client::{Client, Event, Outputs, StageError};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), sluice_client::Error> {
//!     let client = Client::connect("http://127.0.0.1:7070").await?;
//!     let stage = client
//!         .stage("image.ready", "ocr")
//!         .concurrency(4)
//!         .start(|job| async move {
//!             let image = job.event.data().clone();
//!             let text = read_text(&image)?;
//!             let output = Event::new("/ocr", "text.extracted").text(text);
//!             Ok::<_, StageError>(Outputs::one("text.extracted", output))
//!         })
//!         .await?;
//!     tokio::signal::ctrl_c().await.expect("the signal can be awaited");
//!     stage.stop().await;
//!     Ok(())
//! }
//! # fn read_text(_: &[u8]) -> Result<String, std::io::Error> { Ok(String::new()) }
//! ```
//!
//! | to … | use |
//! |---|---|
//! | publish | [`Producer`] |
//! | work on events and settle each yourself | [`Consumer`], [`Delivery`] |
//! | run a stage from topic to topics | [`Stage`] |
//! | say how far the work on an event is | [`Progress`] |
//! | read a topic without settling | [`Client::read`] |
//! | create topics and groups, look after dead letters | [`Admin`] |

mod admin;
mod client;
pub mod cloudevents;
mod commit;
mod consumer;
mod delivery;
mod error;
mod event;
mod grants;
mod limits;
mod options;
mod producer;
mod progress;
mod read;
mod retry;
mod sequence;
mod stage;
mod trace;

pub use sluice_proto::pb;

pub use self::{
    admin::{Admin, Backup},
    client::{Client, ClientOptions},
    consumer::{Consumer, ConsumerBuilder},
    delivery::{Acker, Delivery},
    error::Error,
    event::{Event, derive_id},
    options::{GroupOptions, TopicOptions},
    producer::{Position, Producer, PublishReceipt},
    progress::Progress,
    read::{ReadBuilder, ReadEvent},
    retry::Backoff,
    stage::{Job, Outputs, Stage, StageBuilder, StageError},
};
