//! What must not happen, with a name for each.

use super::Place;

/// Something that must not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Anomaly {
    /// An acked event is not in its topic.
    #[error("{id} was acked at {place} and is gone")]
    Lost {
        /// The event.
        id: String,
        /// Where the ack put it.
        place: Place,
    },
    /// An acked event is elsewhere than its ack said.
    #[error("{id} was acked at {acked} and is at {found}")]
    Moved {
        /// The event.
        id: String,
        /// Where the ack put it.
        acked: Place,
        /// Where it is.
        found: Place,
    },
    /// An event is in its topic more than once.
    #[error("{id} is there {} times: {}", places.len(), join(places))]
    Duplicated {
        /// The event.
        id: String,
        /// Where it is.
        places: Vec<Place>,
    },
    /// A refused event is in its topic, or was delivered or read.
    #[error("{id} was refused and is, or was, at {place}")]
    RefusedButThere {
        /// The event.
        id: String,
        /// Where it is.
        place: Place,
    },
    /// An event that nobody published.
    #[error("{id} at {place} was never published")]
    Invented {
        /// The event.
        id: String,
        /// Where it was delivered or read.
        place: Place,
    },
    /// A delivered event is not in its topic.
    #[error("{id} was delivered from {place} and is gone")]
    Phantom {
        /// The event.
        id: String,
        /// Where it was said to be.
        place: Place,
    },
    /// A place had different events.
    #[error("{place} had several events: {}", ids.join(", "))]
    Inconsistent {
        /// The place.
        place: Place,
        /// The events that were acked, delivered or read there.
        ids: Vec<String>,
    },
    /// Offsets of a partition begin above 0, leave something out, or come in
    /// another order.
    #[error("offset {expected} was to be read where {found} came")]
    Gap {
        /// The offset that follows those before.
        expected: i64,
        /// What came.
        found: Place,
    },
    /// An event was delivered after its ack was durable.
    #[error("{id} was delivered to {group} again after its ack was durable")]
    Redelivered {
        /// The group.
        group: String,
        /// The event.
        id: String,
    },
    /// An event was delivered after a later one of its key.
    #[error("{id} at {place} was delivered to {group} after a later event of its key {key}")]
    OutOfOrder {
        /// The group.
        group: String,
        /// The key.
        key: String,
        /// The event.
        id: String,
        /// Where it is.
        place: Place,
    },
    /// The places of a producer's events do not grow.
    #[error("{producer} had {place} acked after offset {after}")]
    NonmonotonicSend {
        /// The producer.
        producer: String,
        /// The offset before.
        after: i64,
        /// Where the next event went.
        place: Place,
        /// Both were in one request.
        within: bool,
    },
    /// The places of one request leave something out.
    #[error("{producer} had {place} acked in one request with offset {after}")]
    SkippingSend {
        /// The producer.
        producer: String,
        /// The offset before.
        after: i64,
        /// Where the next event went.
        place: Place,
    },
    /// A reader got an earlier event after a later one, or one twice.
    #[error("{reader} got {place} after offset {after}")]
    NonmonotonicPoll {
        /// The reader.
        reader: String,
        /// The offset before.
        after: i64,
        /// What came next.
        place: Place,
        /// Both came at once.
        within: bool,
    },
    /// A reader missed something.
    #[error("{reader} got {place} right after offset {after}")]
    SkippingPoll {
        /// The reader.
        reader: String,
        /// The offset before.
        after: i64,
        /// What came next.
        place: Place,
        /// Both came at once.
        within: bool,
    },
    /// A reader that has read to the end never got an event of the topic.
    #[error("{id} at {place} was never read by {reader}")]
    Unseen {
        /// The reader.
        reader: String,
        /// The event.
        id: String,
        /// Where it is.
        place: Place,
    },
    /// An event of the topic was never delivered.
    #[error("{id} at {place} was never delivered to {group}")]
    Undelivered {
        /// The group.
        group: String,
        /// The event.
        id: String,
        /// Where it is.
        place: Place,
    },
}

impl Anomaly {
    /// What Jepsen's Kafka workload calls it, where it knows it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "lost-write",
            Self::Moved { .. } => "moved",
            Self::Duplicated { .. } => "duplicate",
            Self::RefusedButThere { .. } => "aborted-read",
            Self::Invented { .. } => "invented",
            Self::Phantom { .. } => "phantom",
            Self::Inconsistent { .. } => "inconsistent-offsets",
            Self::Gap { .. } => "gap",
            Self::Redelivered { .. } => "redelivered",
            Self::OutOfOrder { .. } => "out-of-order",
            Self::NonmonotonicSend { within: true, .. } => "int-nonmonotonic-send",
            Self::NonmonotonicSend { within: false, .. } => "nonmonotonic-send",
            Self::SkippingSend { .. } => "int-send-skip",
            Self::NonmonotonicPoll { within: true, .. } => "int-nonmonotonic-poll",
            Self::NonmonotonicPoll { within: false, .. } => "nonmonotonic-poll",
            Self::SkippingPoll { within: true, .. } => "int-poll-skip",
            Self::SkippingPoll { within: false, .. } => "poll-skip",
            Self::Unseen { .. } | Self::Undelivered { .. } => "unseen",
        }
    }
}

fn join(places: &[Place]) -> String {
    let places: Vec<_> = places.iter().map(Place::to_string).collect();
    places.join(", ")
}
