//! Producer sessions: which sequences were applied, and with what result.
//!
//! Each producer remembers the results of its last [`SEQUENCES_REMEMBERED`]
//! sequences. Numbers may come out of order and with gaps:
//!
//! ```text
//!            too old      |      remembered, or may still come      |  too new
//!  ... ------------------ ( highest - N  ......  highest  .....  highest + N ] ---
//! ```

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use sluice_proto::{Offset, PartitionId, ProducerId, TopicId};

use super::record::{ProducerOpened, ProducerSequence};

/// How many results are remembered per producer, which is also how many
/// requests of one session may be in flight.
pub const SEQUENCES_REMEMBERED: u64 = 64;

/// Events of one request in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Their topic.
    pub topic: TopicId,
    /// Their partition.
    pub partition: PartitionId,
    /// Offset of the first one.
    pub first: Offset,
    /// How many.
    pub count: u32,
    /// When, milliseconds since 1970.
    pub time_ms: u64,
}

/// What a sequence number means for a request that carries it.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It is new: append.
    Fresh,
    /// It was applied, with this result.
    Applied(&'a [Appended]),
}

/// Why a sequence number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// The id was never given out, or was forgotten.
    #[error("producer {0} is not known here; open a new session")]
    UnknownProducer(ProducerId),
    /// Another session of the producer is the current one.
    #[error("producer epoch {sent} is not the current one, which is {current}")]
    WrongEpoch {
        /// The request's.
        sent: u64,
        /// The session's that is open.
        current: u64,
    },
    /// Its result is no longer remembered.
    #[error(
        "sequence {sent} is {SEQUENCES_REMEMBERED} or more below {highest}, \
         the highest one applied, so its outcome is not remembered"
    )]
    TooOld {
        /// The request's.
        sent: u64,
        /// The highest one applied.
        highest: u64,
    },
    /// It is too far ahead.
    #[error(
        "sequence {sent} is more than {SEQUENCES_REMEMBERED} above {highest}, \
         the highest one applied"
    )]
    TooNew {
        /// The request's.
        sent: u64,
        /// The highest one applied.
        highest: u64,
    },
}

/// One producer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    name: String,
    epoch: u64,
    highest: u64,
    results: BTreeMap<u64, Vec<Appended>>,
    last_used_ms: u64,
    volatile: Volatile,
    /// The session is from before this run of the broker, and has not been used
    /// in it: what it appended to memory topics is not known any more, so its
    /// next sequence may be any.
    resumed: bool,
}

/// Results of which the log does not know all, or anything, as memory topics
/// have a part in them. Gone with this run of the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Volatile {
    highest: u64,
    results: BTreeMap<u64, Vec<Appended>>,
    last_used_ms: u64,
}

impl Producer {
    fn highest(&self) -> u64 {
        self.highest.max(self.volatile.highest)
    }

    fn last_used_ms(&self) -> u64 {
        self.last_used_ms.max(self.volatile.last_used_ms)
    }

    fn result(&self, sequence: u64) -> Option<&Vec<Appended>> {
        let volatile = self.volatile.results.get(&sequence);
        volatile.or_else(|| self.results.get(&sequence))
    }
}

/// Every producer that the broker knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    by_id: BTreeMap<ProducerId, Producer>,
    by_name: HashMap<String, ProducerId>,
}

impl Producers {
    /// What a request with this sequence is to get.
    ///
    /// # Errors
    /// When the session is not the current one, or the number is outside the
    /// window.
    pub fn check(&self, sequence: ProducerSequence) -> Result<Verdict<'_>, SequenceError> {
        let producer = self
            .by_id
            .get(&sequence.producer)
            .ok_or(SequenceError::UnknownProducer(sequence.producer))?;
        if producer.epoch != sequence.epoch {
            return Err(SequenceError::WrongEpoch {
                sent: sequence.epoch,
                current: producer.epoch,
            });
        }
        let (sent, highest) = (sequence.sequence, producer.highest());
        if let Some(result) = producer.result(sent) {
            return Ok(Verdict::Applied(result));
        }
        if sent.saturating_add(SEQUENCES_REMEMBERED) <= highest {
            return Err(SequenceError::TooOld { sent, highest });
        }
        if !producer.resumed && sent > highest.saturating_add(SEQUENCES_REMEMBERED) {
            return Err(SequenceError::TooNew { sent, highest });
        }
        Ok(Verdict::Fresh)
    }

    /// Remembers a result and forgets those that leave the window.
    pub fn applied(&mut self, sequence: ProducerSequence, result: Vec<Appended>, time_ms: u64) {
        // A frame is only written for a session that is current, and replay
        // sees the frames in the same order.
        let Some(producer) = self.by_id.get_mut(&sequence.producer) else {
            return;
        };
        producer.results.insert(sequence.sequence, result);
        producer.highest = producer.highest.max(sequence.sequence);
        producer.last_used_ms = time_ms;
        producer.resumed = false;
        let first_kept = (producer.highest + 1).saturating_sub(SEQUENCES_REMEMBERED);
        producer.results = producer.results.split_off(&first_kept);
    }

    /// As [`Producers::applied`], for a result of which the log does not know
    /// all. It is remembered in this run of the broker alone.
    pub fn applied_in_memory(
        &mut self,
        sequence: ProducerSequence,
        result: Vec<Appended>,
        time_ms: u64,
    ) {
        let Some(producer) = self.by_id.get_mut(&sequence.producer) else {
            return;
        };
        let highest = producer.highest().max(sequence.sequence);
        let volatile = &mut producer.volatile;
        volatile.results.insert(sequence.sequence, result);
        volatile.highest = highest;
        volatile.last_used_ms = time_ms;
        let first_kept = (highest + 1).saturating_sub(SEQUENCES_REMEMBERED);
        volatile.results = volatile.results.split_off(&first_kept);
        producer.resumed = false;
    }

    /// A new run of the broker begins with these sessions.
    pub fn resume(&mut self) {
        for producer in self.by_id.values_mut() {
            producer.resumed = true;
        }
    }

    /// The id and epoch that the next session under `name` gets; `fresh` is the
    /// id for a name that is new, or empty. A session that follows another has at
    /// least `epoch`, the log's, so that of two brokers of which one is a copy of
    /// the other none gives what the other does.
    #[must_use]
    pub fn next_session(&self, name: &str, fresh: ProducerId, epoch: u64) -> (ProducerId, u64) {
        let known = self.by_name.get(name).and_then(|id| {
            let producer = self.by_id.get(id)?;
            Some((*id, (producer.epoch + 1).max(epoch)))
        });
        known.unwrap_or((fresh, 1))
    }

    /// Whom to forget so that one more fits under `limit`: those unused for
    /// longest, if they have been idle since before `idle_since_ms`.
    #[must_use]
    pub fn forgettable(&self, limit: usize, idle_since_ms: u64) -> Vec<ProducerId> {
        let surplus = (self.by_id.len() + 1).saturating_sub(limit);
        if surplus == 0 {
            return Vec::new();
        }
        let mut idle: Vec<_> = self
            .by_id
            .iter()
            .filter(|(_, p)| p.last_used_ms() < idle_since_ms)
            .map(|(id, p)| (p.last_used_ms(), *id))
            .collect();
        idle.sort_unstable();
        // Some more than needed, so that not every open has to look again.
        let wanted = surplus + limit / 16;
        idle.into_iter().take(wanted).map(|(_, id)| id).collect()
    }

    /// Opens a session as the log says.
    pub fn opened(&mut self, record: &ProducerOpened, time_ms: u64) {
        for id in &record.forgotten {
            self.forget(ProducerId(*id));
        }
        let id = ProducerId(record.producer);
        if !record.name.is_empty() {
            self.by_name.insert(record.name.clone(), id);
        }
        self.by_id.insert(
            id,
            Producer {
                name: record.name.clone(),
                epoch: record.epoch,
                highest: 0,
                results: BTreeMap::new(),
                last_used_ms: time_ms,
                volatile: Volatile::default(),
                resumed: false,
            },
        );
    }

    fn forget(&mut self, id: ProducerId) {
        if let Some(producer) = self.by_id.remove(&id) {
            self.by_name.remove(&producer.name);
        }
    }

    /// The id of every producer, in order.
    pub fn ids(&self) -> impl Iterator<Item = ProducerId> {
        self.by_id.keys().copied()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// One producer for the view; `None` when it was forgotten.
    #[must_use]
    pub fn save(&self, id: ProducerId) -> Option<Vec<u8>> {
        let producer = self.by_id.get(&id)?;
        let results = producer
            .results
            .iter()
            .map(|(sequence, result)| SavedResult {
                sequence: *sequence,
                appended: result.iter().copied().map(SavedAppended::from).collect(),
            })
            .collect();
        let saved = SavedProducer {
            name: producer.name.clone(),
            epoch: producer.epoch,
            highest: producer.highest,
            last_used_ms: producer.last_used_ms,
            results,
        };
        Some(saved.encode_to_vec())
    }

    /// Takes back what [`Producers::save`] gave.
    ///
    /// # Errors
    /// When the bytes are not such.
    pub fn load(&mut self, id: ProducerId, bytes: &[u8]) -> Result<(), prost::DecodeError> {
        let saved = SavedProducer::decode(bytes)?;
        if !saved.name.is_empty() {
            self.by_name.insert(saved.name.clone(), id);
        }
        let results = saved
            .results
            .into_iter()
            .map(|r| (r.sequence, r.appended.into_iter().map(Into::into).collect()))
            .collect();
        self.by_id.insert(
            id,
            Producer {
                name: saved.name,
                epoch: saved.epoch,
                highest: saved.highest,
                results,
                last_used_ms: saved.last_used_ms,
                volatile: Volatile::default(),
                resumed: false,
            },
        );
        Ok(())
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
struct SavedProducer {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    highest: u64,
    #[prost(uint64, tag = "4")]
    last_used_ms: u64,
    #[prost(message, repeated, tag = "5")]
    results: Vec<SavedResult>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct SavedResult {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(message, repeated, tag = "2")]
    appended: Vec<SavedAppended>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct SavedAppended {
    #[prost(uint64, tag = "1")]
    topic: u64,
    #[prost(uint32, tag = "2")]
    partition: u32,
    #[prost(uint64, tag = "3")]
    first: u64,
    #[prost(uint32, tag = "4")]
    count: u32,
    #[prost(uint64, tag = "5")]
    time_ms: u64,
}

impl From<Appended> for SavedAppended {
    fn from(a: Appended) -> Self {
        Self {
            topic: a.topic.0,
            partition: a.partition.0,
            first: a.first.0,
            count: a.count,
            time_ms: a.time_ms,
        }
    }
}

impl From<SavedAppended> for Appended {
    fn from(a: SavedAppended) -> Self {
        Self {
            topic: TopicId(a.topic),
            partition: PartitionId(a.partition),
            first: Offset(a.first),
            count: a.count,
            time_ms: a.time_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(producers: &mut Producers, id: u64, name: &str, epoch: u64, time_ms: u64) {
        producers.opened(
            &ProducerOpened {
                producer: id,
                epoch,
                name: name.into(),
                forgotten: Vec::new(),
            },
            time_ms,
        );
    }

    fn sequence(producer: u64, epoch: u64, sequence: u64) -> ProducerSequence {
        ProducerSequence {
            producer: ProducerId(producer),
            epoch,
            sequence,
        }
    }

    fn result(first: u64) -> Vec<Appended> {
        vec![Appended {
            topic: TopicId(1),
            partition: PartitionId(0),
            first: Offset(first),
            count: 1,
            time_ms: 5,
        }]
    }

    #[test]
    fn a_newer_session_of_a_name_fences_the_older() {
        let mut producers = Producers::default();
        assert_eq!(
            producers.next_session("a", ProducerId(1), 1),
            (ProducerId(1), 1)
        );
        open(&mut producers, 1, "a", 1, 0);
        assert_eq!(
            producers.next_session("a", ProducerId(2), 1),
            (ProducerId(1), 2)
        );
        open(&mut producers, 1, "a", 2, 0);
        assert_eq!(
            producers.check(sequence(1, 1, 1)),
            Err(SequenceError::WrongEpoch {
                sent: 1,
                current: 2
            })
        );
        assert_eq!(producers.check(sequence(1, 2, 1)), Ok(Verdict::Fresh));
    }

    #[test]
    fn only_the_idle_are_forgotten_and_the_oldest_first() {
        let mut producers = Producers::default();
        for (id, used) in [(1, 30), (2, 10), (3, 20)] {
            open(&mut producers, id, "", 1, used);
        }
        assert!(producers.forgettable(4, 100).is_empty());
        assert_eq!(producers.forgettable(3, 100), [ProducerId(2)]);
        assert_eq!(
            producers.forgettable(2, 100),
            [ProducerId(2), ProducerId(3)]
        );
        assert!(producers.forgettable(2, 5).is_empty());
    }

    #[test]
    fn what_memory_topics_got_is_remembered_until_the_next_run() {
        let mut producers = Producers::default();
        open(&mut producers, 1, "", 1, 0);
        let saved = producers.save(ProducerId(1)).expect("known");
        for s in 1..=100 {
            assert_eq!(producers.check(sequence(1, 1, s)), Ok(Verdict::Fresh));
            producers.applied_in_memory(sequence(1, 1, s), result(s), 7);
        }
        assert_eq!(
            producers.check(sequence(1, 1, 100)),
            Ok(Verdict::Applied(&result(100)))
        );
        assert_eq!(
            producers.check(sequence(1, 1, 36)),
            Err(SequenceError::TooOld {
                sent: 36,
                highest: 100
            })
        );
        assert!(producers.forgettable(1, 7).is_empty());
        // The log knows nothing of it.
        assert_eq!(producers.save(ProducerId(1)), Some(saved.clone()));

        let mut later = Producers::default();
        later.load(ProducerId(1), &saved).expect("valid");
        let too_new = Err(SequenceError::TooNew {
            sent: 101,
            highest: 0,
        });
        assert_eq!(later.check(sequence(1, 1, 101)), too_new);
        // The first one of a run goes on from wherever the session was.
        later.resume();
        assert_eq!(later.check(sequence(1, 1, 101)), Ok(Verdict::Fresh));
        later.applied(sequence(1, 1, 101), result(0), 8);
        assert_eq!(later.check(sequence(1, 1, 100)), Ok(Verdict::Fresh));
        assert!(later.check(sequence(1, 1, 166)).is_err());
    }

    proptest! {
        /// Against a model that remembers everything: what was applied within
        /// the window is answered with its own result, and nothing is ever
        /// taken for fresh twice.
        #[test]
        fn a_sequence_is_fresh_once(sequences in proptest::collection::vec(1_u64..300, 1..300)) {
            let mut producers = Producers::default();
            open(&mut producers, 1, "", 1, 0);
            let mut model = std::collections::HashMap::new();
            let mut highest = 0;
            for (at, s) in sequences.into_iter().enumerate() {
                match producers.check(sequence(1, 1, s)) {
                    Ok(Verdict::Fresh) => {
                        prop_assert!(model.insert(s, at as u64).is_none(), "{s} twice");
                        highest = highest.max(s);
                        producers.applied(sequence(1, 1, s), result(at as u64), 0);
                    }
                    Ok(Verdict::Applied(r)) => {
                        prop_assert_eq!(model.get(&s).copied(), Some(r[0].first.0));
                    }
                    Err(SequenceError::TooOld { .. }) => prop_assert!(s + SEQUENCES_REMEMBERED <= highest),
                    Err(SequenceError::TooNew { .. }) => prop_assert!(s > highest + SEQUENCES_REMEMBERED),
                    Err(other) => prop_assert!(false, "{other}"),
                }
                let mut loaded = Producers::default();
                loaded.load(ProducerId(1), &producers.save(ProducerId(1)).expect("known")).expect("valid");
                prop_assert_eq!(&loaded, &producers);
            }
        }
    }
}
