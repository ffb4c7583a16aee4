//! What happened in a run, and whether a broker that keeps its word could have
//! let it happen.
//!
//! Tests note what they asked for and what they saw, in the order in which they
//! learnt it, and [`History::anomalies`] tells what does not go together:
//!
//! - an acked event is in its topic, at the place of its ack, once;
//! - an event whose publish got no answer is there once or not at all, and one
//!   that was refused is not there, nor is it ever delivered or read;
//! - what was delivered or read is there, at that place, and what is there was
//!   published;
//! - a place has one event for good, and offsets have no gaps;
//! - the places of a request follow each other, and those of a producer's next
//!   request come after them;
//! - a reader gets every offset, in order, also across crashes;
//! - what was acked by its worker, durably, is not delivered again to that group;
//! - events of one key are delivered one after the other; after a crash a key may begin
//!   again, with the first event whose ack is not known to be durable.
//!
//! That covers the anomalies of
//! [Jepsen's Kafka workload](https://github.com/jepsen-io/redpanda), whose names
//! [`Anomaly::name`] gives, and those of groups and crashes besides.
//!
//! Several tasks note things, and may be late with it. So what came after what in
//! a group is told by the leases, which the broker gives in growing order, and
//! not by the order of the notes.

mod anomaly;
mod check;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

pub use self::anomaly::Anomaly;

/// Where an event is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Name of the topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// Which lease: the broker's log epoch and the counter within it.
pub type Lease = (i64, i64);

/// A delivery to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Name of the group, unique in the run.
    pub group: String,
    /// The event.
    pub id: String,
    /// Its key, in a group that is ordered by key.
    pub key: Option<String>,
    /// Where it is.
    pub place: Place,
    /// The lease that came with it.
    pub lease: Lease,
}

/// What became of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Publish {
    /// It was sent; no answer came.
    Unknown,
    /// The broker said that it is durable, there.
    Acked(Place),
    /// The broker said that it did not take it.
    Refused,
}

/// A run, as far as it was seen. Events are named by their ids, which the test
/// makes unique.
#[derive(Clone, Debug, Default)]
pub struct History {
    publishes: BTreeMap<String, Publish>,
    /// By producer and number of the request, the places of each request.
    sent: BTreeMap<String, BTreeMap<u64, Vec<Place>>>,
    /// By reader, what it got at a time.
    polls: BTreeMap<String, Vec<Vec<(String, Place)>>>,
    deliveries: Vec<Delivered>,
    /// The lease with which a group's event was settled.
    settled: BTreeMap<(String, String), Lease>,
    read: Vec<(String, Place)>,
}

impl History {
    /// Nothing happened.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An event is about to be published. Trying again changes nothing.
    pub fn publish_invoked(&mut self, id: &str) {
        self.publishes
            .entry(id.to_owned())
            .or_insert(Publish::Unknown);
    }

    /// The broker said that it is durable.
    pub fn publish_acked(&mut self, id: &str, place: Place) {
        self.publishes.insert(id.to_owned(), Publish::Acked(place));
    }

    /// The broker said that these events of one request are durable. A producer's
    /// requests are numbered in the order in which it sent them; their answers may
    /// come in another.
    pub fn batch_acked(&mut self, producer: &str, number: u64, batch: Vec<(String, Place)>) {
        let mut places = Vec::with_capacity(batch.len());
        for (id, place) in batch {
            self.publish_acked(&id, place.clone());
            places.push(place);
        }
        self.sent
            .entry(producer.to_owned())
            .or_default()
            .insert(number, places);
    }

    /// A reader that began at the beginning got these events next, at once.
    pub fn polled(&mut self, reader: &str, page: Vec<(String, Place)>) {
        self.polls.entry(reader.to_owned()).or_default().push(page);
    }

    /// The broker said that it did not take it.
    pub fn publish_refused(&mut self, id: &str) {
        self.publishes.insert(id.to_owned(), Publish::Refused);
    }

    /// A worker got it.
    pub fn delivered(&mut self, delivered: Delivered) {
        self.deliveries.push(delivered);
    }

    /// The broker said that the ack of this lease is durable.
    pub fn settled(&mut self, group: &str, id: &str, lease: Lease) {
        self.settled
            .insert((group.to_owned(), id.to_owned()), lease);
    }

    /// The read from the beginning of each topic, after everything else, gave
    /// this event next.
    pub fn read(&mut self, id: &str, place: Place) {
        self.read.push((id.to_owned(), place));
    }

    /// How many events were acked, how many got no answer, and how many
    /// deliveries there were: to see that a run was worth checking.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let of = |what: fn(&Publish) -> bool| self.publishes.values().filter(|p| what(p)).count();
        (
            of(|publish| matches!(publish, Publish::Acked(_))),
            of(|publish| *publish == Publish::Unknown),
            self.deliveries.len(),
        )
    }

    /// How many events readers got.
    #[must_use]
    pub fn polled_count(&self) -> usize {
        self.polls.values().flatten().map(Vec::len).sum()
    }
}
