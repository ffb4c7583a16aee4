//! Lets the view follow the log: collects what has changed, hands it to a thread
//! that writes it, and drops from memory what the view has taken over.
//!
//! The commit path never waits for it: while one checkpoint is being written,
//! changes gather for the next.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, SyncSender},
    },
    thread::JoinHandle,
};

use sluice_proto::{PartitionId, TopicId};

use super::{catalog::Catalog, state::State};
use crate::{
    log::{LogPoint, Position, Reader},
    view::{Changes, Checkpoint, ENTRIES_MAX, EntityKey, IndexChunk, IndexEntry, View},
};

/// What identifies the log and this run of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) log_id: [u8; 16],
    pub(super) boot_id: [u8; 16],
}

/// What the view gets in one go, collected at one position of the log.
pub(super) fn collect(
    identity: Identity,
    from: LogPoint,
    end: LogPoint,
    deleted_topics: Vec<TopicId>,
    state: &mut State,
    catalog: &Catalog,
) -> Changes {
    let entities = state.take_changes();
    let mut index = Vec::new();
    for (key, _) in &entities {
        if let EntityKey::Partition(topic, partition) = key {
            new_entries(catalog, *topic, *partition, from.position, &mut index);
        }
    }
    Changes {
        entities,
        index,
        deleted_topics,
        checkpoint: Checkpoint {
            log_id: identity.log_id,
            applied_end: end,
            boot_id: identity.boot_id,
            closed: false,
        },
    }
}

fn new_entries(
    catalog: &Catalog,
    topic: TopicId,
    partition: PartitionId,
    from: Position,
    out: &mut Vec<(TopicId, PartitionId, IndexChunk)>,
) {
    let Some(of) = catalog
        .topic_by_id(topic)
        .and_then(|t| t.partition(partition))
    else {
        return;
    };
    let head = of.head();
    let first_new = head.partition_point(|entry| entry.position < from);
    let new: Vec<IndexEntry> = head.range(first_new..).copied().collect();
    drop(head);
    for chunk in new.chunks(ENTRIES_MAX) {
        out.push((topic, partition, IndexChunk::from_entries(chunk.to_vec())));
    }
}

/// Drops the index entries of what lies below `keep_from`, which the view must
/// have.
pub(super) fn forget_below(catalog: &Catalog, keep_from: Position) {
    for partition in catalog.topics().flat_map(|topic| &topic.partitions) {
        let mut head = partition.head();
        let gone = head.partition_point(|entry| entry.position < keep_from);
        head.drain(..gone);
        if head.capacity() > 64 && head.len() < head.capacity() / 4 {
            head.shrink_to_fit();
        }
    }
}

/// Decides when a checkpoint is due, and has it written.
#[derive(Debug)]
pub(super) struct Checkpoints {
    identity: Identity,
    /// Log bytes between two checkpoints.
    interval_bytes: u64,
    /// Every frame below is in the view, or on its way there.
    collected_end: LogPoint,
    deleted_topics: Vec<TopicId>,
    busy: Arc<AtomicBool>,
    jobs: SyncSender<Job>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Job {
    changes: Changes,
    catalog: Arc<Catalog>,
}

impl Checkpoints {
    /// Starts the thread that writes checkpoints.
    pub(super) fn start(
        view: View,
        reader: Reader,
        identity: Identity,
        interval_bytes: u64,
        collected_end: LogPoint,
        deleted_topics: Vec<TopicId>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(1);
        let busy = Arc::new(AtomicBool::new(false));
        let writing = busy.clone();
        let thread = std::thread::Builder::new()
            .name("view".into())
            .spawn(move || {
                for job in queue {
                    if let Err(error) = view.write(&job.changes) {
                        // Nothing is lost, the next start replays more; and
                        // `busy` stays set, so that no more are collected.
                        tracing::error!(%error, "no checkpoints are written any more");
                        return;
                    }
                    // Those of events in the tail cache stay, so that readers at
                    // the head never ask the view.
                    let in_view = job.changes.checkpoint.applied_end.position;
                    forget_below(&job.catalog, in_view.min(reader.cached_from()));
                    writing.store(false, Ordering::Release);
                }
            })?;
        Ok(Self {
            identity,
            interval_bytes,
            collected_end,
            deleted_topics,
            busy,
            jobs,
            thread,
        })
    }

    /// The index of these topics goes with the next checkpoint.
    pub(super) fn topics_deleted(&mut self, topics: Vec<TopicId>) {
        self.deleted_topics.extend(topics);
    }

    /// Whether enough has been written since the last one.
    pub(super) fn is_due(&self, end: LogPoint) -> bool {
        let written = end.position.0.saturating_sub(self.collected_end.position.0);
        written >= self.interval_bytes && !self.busy.load(Ordering::Acquire)
    }

    /// To be called when everything below `end` is durable, applied and
    /// published, and a checkpoint is due.
    pub(super) fn collect(&mut self, end: LogPoint, state: &mut State, catalog: &Arc<Catalog>) {
        self.submit(end, false, state, catalog);
    }

    /// Writes and syncs a last checkpoint at the end of a log that gets nothing
    /// more, and waits for it.
    pub(super) fn close(mut self, end: LogPoint, state: &mut State, catalog: &Arc<Catalog>) {
        self.submit(end, true, state, catalog);
        self.join();
    }

    /// Waits for the checkpoint that is being written.
    pub(super) fn join(self) {
        drop(self.jobs);
        let _ = self.thread.join();
    }

    fn submit(&mut self, end: LogPoint, closed: bool, state: &mut State, catalog: &Arc<Catalog>) {
        let deleted_topics = std::mem::take(&mut self.deleted_topics);
        let from = self.collected_end;
        let mut changes = collect(self.identity, from, end, deleted_topics, state, catalog);
        changes.checkpoint.closed = closed;
        self.collected_end = end;
        self.busy.store(true, Ordering::Release);
        // Waits only when closing; otherwise the thread was idle. An error
        // means that the thread has ended and said why.
        let _ = self.jobs.send(Job {
            changes,
            catalog: catalog.clone(),
        });
    }
}
