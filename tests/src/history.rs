//! What happened in a run, and whether a broker that keeps its word could have
//! let it happen.
//!
//! Tests note what they asked for and what they saw, in the order in which they
//! learnt it, and [`History::anomalies`] tells what does not go together:
//!
//! - an acked event is in its topic, at the place of its ack, once;
//! - an event whose publish got no answer is there once or not at all, and one
//!   that was refused is not there;
//! - what was delivered is there, at that place, and what is there was published;
//! - a place has one event for good, and offsets have no gaps;
//! - what was acked by its worker, durably, is not delivered again to that group;
//! - events of one key are delivered one after the other.
//!
//! Several tasks note things, and may be late with it. So what came after what in
//! a group is told by the leases, which the broker gives in growing order, and
//! not by the order of the notes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

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
    deliveries: Vec<Delivered>,
    /// The lease with which a group's event was settled.
    settled: BTreeMap<(String, String), Lease>,
    read: Vec<(String, Place)>,
}

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
    /// A refused event is in its topic.
    #[error("{id} was refused and is at {place}")]
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

fn join(places: &[Place]) -> String {
    let places: Vec<_> = places.iter().map(Place::to_string).collect();
    places.join(", ")
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

    /// Everything in which the run contradicts what the broker promises.
    #[must_use]
    pub fn anomalies(&self) -> Vec<Anomaly> {
        let mut found = Vec::new();
        let mut places: BTreeMap<&str, Vec<Place>> = BTreeMap::new();
        for (id, place) in &self.read {
            places.entry(id).or_default().push(place.clone());
        }
        self.check_publishes(&places, &mut found);
        self.check_origins(&places, &mut found);
        self.check_places(&mut found);
        self.check_offsets(&mut found);
        self.check_deliveries(&mut found);
        found
    }

    /// Events of the topic that the group never got. Only to be asked when the
    /// group has no filter and has caught up.
    #[must_use]
    pub fn undelivered(&self, group: &str, topic: &str) -> Vec<Anomaly> {
        let to_group = self.deliveries.iter().filter(|d| d.group == group);
        let delivered: BTreeSet<_> = to_group.map(|d| &d.id).collect();
        let in_topic = self.read.iter().filter(|(_, place)| place.topic == topic);
        in_topic
            .filter(|(id, _)| !delivered.contains(id))
            .map(|(id, place)| Anomaly::Undelivered {
                group: group.to_owned(),
                id: id.clone(),
                place: place.clone(),
            })
            .collect()
    }

    fn check_publishes(&self, places: &BTreeMap<&str, Vec<Place>>, found: &mut Vec<Anomaly>) {
        for (id, publish) in &self.publishes {
            let id = id.clone();
            let there = places.get(id.as_str()).map_or(&[][..], Vec::as_slice);
            match (publish, there) {
                (Publish::Acked(place), []) => found.push(Anomaly::Lost {
                    id,
                    place: place.clone(),
                }),
                (Publish::Acked(acked), [only]) if only != acked => found.push(Anomaly::Moved {
                    id,
                    acked: acked.clone(),
                    found: only.clone(),
                }),
                (Publish::Refused, [first, ..]) => found.push(Anomaly::RefusedButThere {
                    id,
                    place: first.clone(),
                }),
                (Publish::Acked(_) | Publish::Unknown, [_, _, ..]) => {
                    found.push(Anomaly::Duplicated {
                        id,
                        places: there.to_vec(),
                    });
                }
                _ => {}
            }
        }
    }

    fn check_origins(&self, places: &BTreeMap<&str, Vec<Place>>, found: &mut Vec<Anomaly>) {
        for (id, place) in self.seen() {
            let anomaly = Anomaly::Invented {
                id: id.clone(),
                place: place.clone(),
            };
            if !self.publishes.contains_key(id) && !found.contains(&anomaly) {
                found.push(anomaly);
            }
        }
        for Delivered { id, place, .. } in &self.deliveries {
            let anomaly = Anomaly::Phantom {
                id: id.clone(),
                place: place.clone(),
            };
            if !places.contains_key(id.as_str()) && !found.contains(&anomaly) {
                found.push(anomaly);
            }
        }
    }

    fn check_places(&self, found: &mut Vec<Anomaly>) {
        let acked = self
            .publishes
            .iter()
            .filter_map(|(id, publish)| match publish {
                Publish::Acked(place) => Some((id, place)),
                Publish::Unknown | Publish::Refused => None,
            });
        let mut events: BTreeMap<&Place, BTreeSet<&String>> = BTreeMap::new();
        for (id, place) in acked.chain(self.seen()) {
            events.entry(place).or_default().insert(id);
        }
        for (place, ids) in events.into_iter().filter(|(_, ids)| ids.len() > 1) {
            found.push(Anomaly::Inconsistent {
                place: place.clone(),
                ids: ids.into_iter().cloned().collect(),
            });
        }
    }

    /// Every event that was delivered or read, with its place.
    fn seen(&self) -> impl Iterator<Item = (&String, &Place)> {
        let deliveries = self.deliveries.iter().map(|d| (&d.id, &d.place));
        deliveries.chain(self.read.iter().map(|(id, place)| (id, place)))
    }

    fn check_deliveries(&self, found: &mut Vec<Anomaly>) {
        let mut in_order: Vec<_> = self.deliveries.iter().collect();
        in_order.sort_by_key(|delivered| delivered.lease);
        let mut reached: BTreeMap<_, i64> = BTreeMap::new();
        for delivered in in_order {
            let Delivered {
                group,
                id,
                key,
                place,
                lease,
            } = delivered;
            let settled = self.settled.get(&(group.clone(), id.clone()));
            if settled.is_some_and(|settled| settled < lease) {
                found.push(Anomaly::Redelivered {
                    group: group.clone(),
                    id: id.clone(),
                });
            }
            let Some(key) = key else { continue };
            let line = (group, key, &place.topic, place.partition);
            let furthest = reached.entry(line).or_insert(place.offset);
            if place.offset < *furthest {
                found.push(Anomaly::OutOfOrder {
                    group: group.clone(),
                    key: key.clone(),
                    id: id.clone(),
                    place: place.clone(),
                });
            }
            *furthest = place.offset.max(*furthest);
        }
    }

    fn check_offsets(&self, found: &mut Vec<Anomaly>) {
        let mut next: BTreeMap<(&str, i32), i64> = BTreeMap::new();
        for (_, place) in &self.read {
            let expected = next.entry((&place.topic, place.partition)).or_insert(0);
            if place.offset != *expected {
                found.push(Anomaly::Gap {
                    expected: *expected,
                    found: place.clone(),
                });
            }
            *expected = place.offset + 1;
        }
    }
}

#[cfg(test)]
mod tests;
