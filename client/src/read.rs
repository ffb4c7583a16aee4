//! Reads a topic without a group.

use std::time::SystemTime;

use futures_util::{Stream, StreamExt, stream};
use sluice_proto::pb::{self, read_start::At};

use crate::{client::Client, error::Error, event::Event};

/// An event as it is stored.
#[derive(Clone, Debug)]
pub struct ReadEvent {
    /// The event.
    pub event: Event,
    /// Its partition.
    pub partition: i32,
    /// Its offset in it.
    pub offset: i64,
    /// Tells the offset from an earlier one with the same number, which a
    /// restart took away; 0 in topics whose stored events are never lost.
    pub epoch: i64,
    /// When the broker stored it.
    pub append_time: Option<SystemTime>,
    /// In a topic of dead letters: where it comes from, and what was tried.
    pub dead_letter: Option<pb::DeadLetterHistory>,
}

/// Sets up a read. It begins at the earliest event and ends where the topic
/// ended when it began, unless it is told otherwise.
///
/// It does not reconnect: an error ends it.
///
/// ```no_run
/// # async fn example(client: sluice_client::Client) -> Result<(), sluice_client::Error> {
/// use futures_util::StreamExt;
/// let mut events = client.read("uploads").filter("event.key == 'doc123'").events().await?;
/// while let Some(event) = events.next().await {
///     println!("{}", event?.event.id());
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ReadBuilder {
    client: Client,
    request: pb::ReadRequest,
}

impl ReadBuilder {
    pub(crate) fn new(client: Client, topic: &str) -> Self {
        Self {
            client,
            request: pb::ReadRequest {
                topic: topic.to_owned(),
                ..pb::ReadRequest::default()
            },
        }
    }

    /// Begins after the last event that is there now.
    #[must_use]
    pub fn from_latest(self) -> Self {
        self.start(At::Latest(pb::Latest {}))
    }

    /// Begins at this offset in every partition.
    #[must_use]
    pub fn from_offset(self, offset: i64) -> Self {
        self.start(At::Offset(offset))
    }

    /// Begins at this offset in every partition, if the topic has not lost events
    /// below it since it was in this epoch; both as in [`ReadEvent`].
    #[must_use]
    pub fn from_position(mut self, offset: i64, epoch: i64) -> Self {
        let at = Some(At::Offset(offset));
        self.request.start = Some(pb::ReadStart { at, epoch });
        self
    }

    /// Begins at the first event that was stored at this time or later.
    #[must_use]
    pub fn from_time(self, time: SystemTime) -> Self {
        self.start(At::Time(time.into()))
    }

    /// Begins here.
    #[must_use]
    pub fn start(mut self, at: At) -> Self {
        self.request.start = Some(pb::ReadStart {
            at: Some(at),
            epoch: 0,
        });
        self
    }

    /// Only these partitions.
    #[must_use]
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = i32>) -> Self {
        self.request.partitions = partitions.into_iter().collect();
        self
    }

    /// Only events for which this CEL expression is true.
    #[must_use]
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.request.filter = filter.into();
        self
    }

    /// Only events for which all of these are true, in the place of
    /// [`ReadBuilder::filter`].
    #[must_use]
    pub fn filters(mut self, filters: impl IntoIterator<Item = pb::EventFilter>) -> Self {
        self.request.filters = filters.into_iter().collect();
        self
    }

    /// Goes on with new events.
    #[must_use]
    pub fn follow(mut self) -> Self {
        self.request.follow = true;
        self
    }

    /// Ends after so many events.
    #[must_use]
    pub fn max_events(mut self, events: i64) -> Self {
        self.request.max_events = events;
        self
    }

    /// Begins to read.
    ///
    /// # Errors
    /// When the broker refuses it; errors later are in the stream.
    pub async fn events(
        self,
    ) -> Result<impl Stream<Item = Result<ReadEvent, Error>> + Unpin + Send, Error> {
        let api = self.client.consume_api();
        let request = self.request;
        let responses = self
            .client
            .retrying(|| {
                let mut api = api.clone();
                let request = request.clone();
                async move { Ok(api.read(request).await?.into_inner()) }
            })
            .await?;
        let events = responses.flat_map(|response| {
            stream::iter(match response {
                Ok(response) => response
                    .events
                    .into_iter()
                    .map(from_message)
                    .map(Ok)
                    .collect(),
                Err(status) => vec![Err(status.into())],
            })
        });
        Ok(events)
    }
}

fn from_message(read: pb::ReadEvent) -> ReadEvent {
    ReadEvent {
        event: read.event.unwrap_or_default().into(),
        partition: read.partition,
        offset: read.offset,
        epoch: read.epoch,
        append_time: read.append_time.and_then(|time| time.try_into().ok()),
        dead_letter: read.dead_letter,
    }
}
