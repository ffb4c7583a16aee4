//! Compacted topics: of the events with one key only the last stays.
//!
//! A partition is gone through when as much is new in it as has been gone
//! through: once to learn the last offset of each key, and once to write again
//! what stays of the ranges of which something goes. What may still be in the
//! head of the index is left for later, so compaction runs behind by the tail
//! cache.

use std::collections::HashMap;

use bytes::Bytes;
use sluice_proto::{Offset, event::EventRef};

use super::rewrite::{Rewriting, settled_end};
use crate::commit::{
    Catalog, Partition, ReadError, Store, StoredEvent, Unavailable,
    record::{Channel, Retention, Source},
};

/// Events that must be new before a partition is gone through.
const NEW_EVENTS_MIN: u64 = 1000;

/// How far each partition was gone through, in this run of the broker.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    done: HashMap<Source, Done>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// Everything below was gone through.
    end: Offset,
    /// When the oldest of the tombstones goes that were met.
    tombstone_due_ms: Option<u64>,
}

impl Compaction {
    /// Goes through the partitions in which enough is new.
    pub(super) fn turn(
        &mut self,
        catalog: &Catalog,
        store: &Store,
        keys_max: usize,
        now_ms: u64,
        rewriting: &mut Rewriting<'_>,
    ) -> Result<(), Unavailable> {
        for topic in catalog.topics() {
            let retention = topic.retention();
            if !retention.compact || topic.channel == Channel::Memory {
                continue;
            }
            for partition in &topic.partitions {
                let done = self.done.entry(partition.source).or_default();
                if !is_due(partition, *done, now_ms) {
                    continue;
                }
                match compact(partition, store, &retention, keys_max, now_ms, rewriting) {
                    Ok(now) => *done = now,
                    Err(CompactError::Unavailable(error)) => return Err(error),
                    Err(CompactError::Read(error)) => {
                        tracing::warn!(%error, topic = %topic.name, "cannot compact");
                    }
                }
                rewriting.flush()?;
            }
        }
        self.done
            .retain(|source, _| catalog.topic_by_id(source.topic).is_some());
        Ok(())
    }
}

fn is_due(partition: &Partition, done: Done, now_ms: u64) -> bool {
    let start = partition.start_offset();
    let end = settled_end(partition);
    let new = end.0.saturating_sub(done.end.max(start).0);
    let old = done.end.0.saturating_sub(start.0);
    let tombstones_due = done.tombstone_due_ms.is_some_and(|due| due <= now_ms);
    (new >= NEW_EVENTS_MIN && new >= old) || tombstones_due
}

enum CompactError {
    Unavailable(Unavailable),
    Read(ReadError),
}

impl From<Unavailable> for CompactError {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error)
    }
}

impl From<ReadError> for CompactError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// What matters of an event here.
struct Keyed {
    key: Option<Bytes>,
    tombstone: bool,
}

impl Keyed {
    fn of(stored: &StoredEvent) -> Self {
        // It was checked when it was published.
        let event = EventRef::read(&stored.event).ok();
        let key = event.as_ref().and_then(|event| event.key());
        let key = key.map(|key| Bytes::copy_from_slice(key.as_bytes()));
        let no_data = event.is_some_and(|event| event.data().is_empty());
        Self {
            tombstone: key.is_some() && no_data,
            key,
        }
    }
}

fn compact(
    partition: &Partition,
    store: &Store,
    retention: &Retention,
    keys_max: usize,
    now_ms: u64,
    rewriting: &mut Rewriting<'_>,
) -> Result<Done, CompactError> {
    let mut last: HashMap<Bytes, Offset> = HashMap::new();
    let start = partition.start_offset();
    let mut end = start;
    // As far as the keys fit into memory.
    for_each_entry(
        partition,
        store,
        settled_end(partition),
        |entry_end, events| {
            for (event, keyed) in events {
                if let Some(key) = keyed.key {
                    last.insert(key, event.offset);
                }
            }
            end = entry_end;
            Ok(last.len() < keys_max)
        },
    )?;
    let mut tombstone_due_ms: Option<u64> = None;
    let mut at = start;
    while at < end {
        for entry in store.locate(partition, at)? {
            if entry.first >= end {
                break;
            }
            at = entry.end();
            let events = store.events(partition, entry)?;
            let before = events.len();
            let stays = |stored: &StoredEvent| {
                let keyed = Keyed::of(stored);
                let Some(key) = &keyed.key else {
                    return true;
                };
                if last.get(key).is_some_and(|last| *last > stored.offset) {
                    return false;
                }
                if !keyed.tombstone {
                    return true;
                }
                let due = stored.append_time_ms.saturating_add(retention.tombstone_ms);
                if due > now_ms {
                    tombstone_due_ms = Some(tombstone_due_ms.map_or(due, |first| first.min(due)));
                }
                due > now_ms
            };
            let mut stays = stays;
            let events: Vec<StoredEvent> = events.into_iter().filter(|e| stays(e)).collect();
            if events.len() < before {
                rewriting.add(partition, &entry, events)?;
            }
        }
    }
    Ok(Done {
        end,
        tombstone_due_ms,
    })
}

/// Gives each index entry's end and events to `visit`, which says whether to go
/// on.
fn for_each_entry(
    partition: &Partition,
    store: &Store,
    end: Offset,
    mut visit: impl FnMut(
        Offset,
        &mut dyn Iterator<Item = (StoredEvent, Keyed)>,
    ) -> Result<bool, CompactError>,
) -> Result<(), CompactError> {
    let mut at = partition.start_offset();
    while at < end {
        for entry in store.locate(partition, at)? {
            if entry.first >= end {
                return Ok(());
            }
            at = entry.end();
            let events = store.events(partition, entry)?;
            let mut events = events.into_iter().map(|event| {
                let keyed = Keyed::of(&event);
                (event, keyed)
            });
            if !visit(entry.end(), &mut events)? {
                return Ok(());
            }
        }
    }
    Ok(())
}
