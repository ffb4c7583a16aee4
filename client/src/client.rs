//! The connections to a broker.

use std::{future::Future, time::Duration};

use sluice_proto::pb::{
    admin_service_client::AdminServiceClient, broker_service_client::BrokerServiceClient,
};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    admin::Admin, consumer::ConsumerBuilder, error::Error, producer::Producer, read::ReadBuilder,
    retry::Backoff, stage::StageBuilder,
};

/// Larger than any message that a broker sends.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Above what a consumer grants in bytes, so that a stream never waits for
/// another's window.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 20;
/// Messages of up to 200 KiB come in one frame, instead of one for each 16 KiB, each of
/// which the broker gives to the system by itself.
const FRAME_BYTES: u32 = 256 << 10;

/// How a client behaves.
///
/// ```
/// use sluice_client::ClientOptions;
/// use std::time::Duration;
/// let patient = ClientOptions {
///     give_up_after: Duration::from_secs(600),
///     ..ClientOptions::default()
/// };
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// How long one connection attempt may take. Default 5 s.
    pub connect_timeout: Duration,
    /// Waits between tries.
    pub backoff: Backoff,
    /// How long a single call is tried again while the broker cannot be
    /// reached. Producers, consumers and stages go on for good. Default 60 s.
    pub give_up_after: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            backoff: Backoff::default(),
            give_up_after: Duration::from_secs(60),
        }
    }
}

/// A broker's client. Cheap to clone; reconnects by itself.
///
/// Publishing, consuming and administration each have a connection of their own,
/// so that none waits behind the data of another.
///
/// ```no_run
/// # async fn example() -> Result<(), sluice_client::Error> {
/// use sluice_client::{Client, Event};
/// let client = Client::connect("http://127.0.0.1:7070").await?;
/// let producer = client.producer().await?;
/// let position = producer
///     .publish("uploads", Event::new("/web", "file_upload").with_key("doc123").text("hello"))
///     .await?;
/// println!("stored at {}/{}", position.partition, position.offset);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    publishing: Channel,
    consuming: Channel,
    administering: Channel,
    options: ClientOptions,
}

impl Client {
    /// Connects to the broker at `url`, for example `http://127.0.0.1:7070`.
    ///
    /// # Errors
    /// When the URL is none, or no broker answers there.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::connect_with(url, ClientOptions::default()).await
    }

    /// As [`Client::connect`], with options.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(url: &str, options: ClientOptions) -> Result<Self, Error> {
        let url = &with_scheme(url);
        let no_address = || {
            let message =
                format!("{url:?} is no address of a broker; it is as in http://127.0.0.1:7070");
            Error::new(Code::InvalidArgument, message)
        };
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|_| no_address())?;
        if endpoint.uri().scheme_str() != Some("http") {
            return Err(no_address());
        }
        let endpoint = endpoint
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES);
        let administering = endpoint.connect().await.map_err(|error| {
            let message = format!("no broker answers at {url}: {}", chain(&error));
            Error::new(Code::Unavailable, message)
        })?;
        Ok(Self {
            publishing: endpoint.connect_lazy(),
            consuming: endpoint.connect_lazy(),
            administering,
            options,
        })
    }

    /// A producer with a session of its own.
    ///
    /// # Errors
    /// When the broker does not open a session.
    pub async fn producer(&self) -> Result<Producer, Error> {
        Producer::open(self.clone(), String::new()).await
    }

    /// A producer that takes over from the one that was open under this name:
    /// what that one still sends is refused.
    ///
    /// # Errors
    /// When the broker does not open a session.
    pub async fn named_producer(&self, name: &str) -> Result<Producer, Error> {
        Producer::open(self.clone(), name.to_owned()).await
    }

    /// A member of a group.
    #[must_use]
    pub fn consumer(&self, topic: &str, group: &str) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), topic, group)
    }

    /// A worker that turns events of a group into events of other topics.
    #[must_use]
    pub fn stage(&self, topic: &str, group: &str) -> StageBuilder {
        StageBuilder::new(self.clone(), topic, group)
    }

    /// Reads a topic without a group.
    #[must_use]
    pub fn read(&self, topic: &str) -> ReadBuilder {
        ReadBuilder::new(self.clone(), topic)
    }

    /// Topics, groups and dead letters.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    pub(crate) fn options(&self) -> ClientOptions {
        self.options
    }

    pub(crate) fn publish_api(&self) -> BrokerServiceClient<Channel> {
        BrokerServiceClient::new(self.publishing.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn consume_api(&self) -> BrokerServiceClient<Channel> {
        BrokerServiceClient::new(self.consuming.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn admin_api(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.administering.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Makes a call again while it fails in a way that can pass.
    pub(crate) async fn retrying<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, tonic::Status>>,
    {
        let started = tokio::time::Instant::now();
        let mut attempt = 0;
        loop {
            let error = match call().await {
                Ok(answer) => return Ok(answer),
                Err(status) => Error::from(status),
            };
            if !error.is_retryable() || started.elapsed() >= self.options.give_up_after {
                return Err(error);
            }
            tracing::debug!(%error, attempt, "trying again");
            self.options.backoff.wait(attempt).await;
            attempt += 1;
        }
    }
}

/// `HOST:PORT` is as good as `http://HOST:PORT`.
fn with_scheme(url: &str) -> String {
    if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    }
}

/// An error with what led to it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        // Some libraries' errors say what their causes say.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}
