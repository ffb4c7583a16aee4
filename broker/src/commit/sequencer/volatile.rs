//! Appends to memory topics: they get their offsets here, and go to no block.
//!
//! Those of a proposal that is in the log as well become readable when its block
//! is durable. What is appended to the same partition meanwhile waits behind
//! them, as offsets become readable in order.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use sluice_proto::{Offset, TopicId};

use crate::commit::{
    catalog::{Catalog, Topic},
    memory::{Chunk, Room},
    producers::Appended,
    proposal::AppendRequest,
    record::Source,
};

/// The writing end of all memory topics.
#[derive(Debug)]
pub(in crate::commit) struct Volatile {
    room: Room,
    /// In this run of the broker.
    ends: BTreeMap<Source, End>,
    /// How many appends wait for their block, by partition.
    waiting: HashMap<Source, usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct End {
    next_offset: Offset,
    last_append_ms: u64,
}

/// Events that have their offsets and cannot be read yet.
#[derive(Debug)]
pub(super) struct VolatileAppend {
    pub(super) appended: Appended,
    chunks: Vec<Chunk>,
}

impl VolatileAppend {
    fn target(&self) -> Source {
        Source {
            topic: self.appended.topic,
            partition: self.appended.partition,
        }
    }
}

impl Volatile {
    /// Every memory topic begins empty, at offset 0.
    pub(in crate::commit) fn new(topic_bytes_max: usize, bytes_max: usize) -> Self {
        Self {
            room: Room::new(topic_bytes_max, bytes_max),
            ends: BTreeMap::new(),
            waiting: HashMap::new(),
        }
    }

    /// Whether what is appended to this partition has to wait for a block.
    pub(super) fn waits(&self, target: Source) -> bool {
        self.waiting.contains_key(&target)
    }

    /// Gives offsets.
    pub(super) fn append(&mut self, append: &AppendRequest, now_ms: u64) -> VolatileAppend {
        let end = self.ends.entry(append.target).or_default();
        let first = end.next_offset;
        let time_ms = now_ms.max(end.last_append_ms);
        let count = append.events.len() as u32;
        *end = End {
            next_offset: first + u64::from(count),
            last_append_ms: time_ms,
        };
        VolatileAppend {
            appended: Appended {
                topic: append.target.topic,
                partition: append.target.partition,
                first,
                count,
                time_ms,
            },
            chunks: Chunk::of(first, time_ms, &append.events),
        }
    }

    /// The append will be shown once a block is durable.
    pub(super) fn hold(&mut self, append: &VolatileAppend) {
        *self.waiting.entry(append.target()).or_default() += 1;
    }

    /// Shows what was held.
    pub(super) fn show_held(
        &mut self,
        append: VolatileAppend,
        catalog: &Catalog,
    ) -> Option<Arc<Topic>> {
        let target = append.target();
        if let Some(count) = self.waiting.get_mut(&target) {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(&target);
            }
        }
        self.show(append, catalog)
    }

    /// Makes events readable. Returns their topic, unless it is gone.
    pub(super) fn show(&mut self, append: VolatileAppend, catalog: &Catalog) -> Option<Arc<Topic>> {
        let target = append.target();
        let topic = catalog.topic_by_id(target.topic)?;
        let partition = topic.partition(target.partition)?;
        for chunk in append.chunks {
            for gone in self.room.take(target, chunk.bytes()) {
                let of = catalog.topic_by_id(gone.topic);
                if let Some(of) = of.and_then(|topic| topic.partition(gone.partition)) {
                    of.drop_oldest();
                }
            }
            partition.push(chunk, append.appended.time_ms);
        }
        Some(topic.clone())
    }

    /// A topic is gone.
    pub(super) fn forget(&mut self, topic: TopicId) {
        self.room.forget(topic);
        self.ends.retain(|source, _| source.topic != topic);
    }
}
