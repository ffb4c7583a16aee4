//! Lets the view follow the log: collects what has changed, hands it to a thread
//! that writes it, and drops from memory what the view has taken over.
//!
//! The commit path never waits for it: while one checkpoint is being written,
//! changes gather for the next.
//!
//! Now and then the state goes into the log as well ([`in_log`]), because the
//! view is not to be trusted with what is nowhere else.

mod in_log;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, SyncSender},
    },
    thread::JoinHandle,
};

use sluice_proto::TopicId;

pub(super) use self::in_log::{FoundCheckpoint, Mirror, find};
use super::{
    catalog::{Catalog, Partition},
    keep::Keeper,
    occupancy::Occupancy,
    record::Source,
    state::State,
};
use crate::{
    log::{LogPoint, Position, Reader},
    view::{
        Changes, Checkpoint, Digest, ENTRIES_MAX, EntityKey, IndexChunk, IndexEntry, View,
        ViewError,
    },
};

/// A checkpoint in the log takes at most one part in so many of what is written.
const LOG_BYTES_PER_STATE_BYTE: u64 = 10;

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
    let partitions = entities.iter().filter_map(|(key, _)| match key {
        EntityKey::Partition(topic, partition) => Some(Source {
            topic: *topic,
            partition: *partition,
        }),
        _ => None,
    });
    let partitions: BTreeSet<Source> = partitions.collect();
    let mut changes = Changes {
        entities,
        index: Vec::new(),
        relocated: Vec::new(),
        trimmed: Vec::new(),
        deleted_topics,
        checkpoint: Checkpoint {
            log_id: identity.log_id,
            applied_end: end,
            boot_id: identity.boot_id,
            closed: false,
            // For whoever has all entities to say.
            state_digest: Digest::default(),
        },
    };
    collect_index(&partitions, from.position, catalog, &mut changes);
    changes
}

/// Adds what is new, since `from`, of the index of these partitions.
pub(super) fn collect_index(
    partitions: &BTreeSet<Source>,
    from: Position,
    catalog: &Catalog,
    changes: &mut Changes,
) {
    for source in partitions {
        let Some((_, partition)) = catalog.partition(*source) else {
            continue;
        };
        let (topic, id) = (source.topic, source.partition);
        for chunk in new_entries(partition, from).chunks(ENTRIES_MAX) {
            let chunk = IndexChunk::from_entries(chunk.to_vec());
            changes.index.push((topic, id, chunk));
        }
        let relocated = partition.take_relocated();
        if !relocated.is_empty() {
            changes.relocated.push((topic, id, relocated));
        }
        if let Some(start) = partition.take_trimmed() {
            changes.trimmed.push((topic, id, start));
        }
    }
}

fn new_entries(partition: &Partition, from: Position) -> Vec<IndexEntry> {
    let head = partition.head();
    let first_new = head.partition_point(|entry| entry.position < from);
    head.range(first_new..).copied().collect()
}

/// Writes what was collected, and what it means for segments.
pub(super) fn write(
    changes: &mut Changes,
    view: &View,
    occupancy: &mut Occupancy,
    segments: &[crate::log::SegmentInfo],
) -> Result<(), ViewError> {
    occupancy.follow(changes, segments);
    view.write(changes)
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

/// How far view and checkpoints have followed the log, for whoever wants to
/// remove parts of it.
#[derive(Debug)]
pub struct Followed {
    in_view: AtomicU64,
    in_log: AtomicU64,
    state_bytes: AtomicU64,
    occupancy: Mutex<Occupancy>,
    /// Which events are in segments below is the view's word.
    known_from: Position,
}

impl Followed {
    /// Every frame below is in the view.
    #[must_use]
    pub fn in_view(&self) -> Position {
        Position(self.in_view.load(Ordering::Acquire))
    }

    /// A complete checkpoint that was written in this run says what the state
    /// was here, and begins later. The beginning of the log when there is none.
    #[must_use]
    pub fn in_log(&self) -> Position {
        Position(self.in_log.load(Ordering::Acquire))
    }

    /// About the bytes that a checkpoint takes in the log.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes.load(Ordering::Relaxed)
    }

    /// What is in segments below is the view's word, and not read from the log
    /// in this run.
    #[must_use]
    pub fn known_from(&self) -> Position {
        self.known_from
    }

    /// Which events are in which segment, up to [`Followed::in_view`].
    pub fn occupancy(&self) -> MutexGuard<'_, Occupancy> {
        // Each change of it is whole when the next begins.
        self.occupancy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where following the log begins.
#[derive(Debug)]
pub(super) struct Beginning {
    /// Every frame below is in the view, the mirror and the occupancy.
    pub(super) collected_end: LogPoint,
    pub(super) mirror: Mirror,
    pub(super) occupancy: Occupancy,
    /// As in [`Followed::known_from`].
    pub(super) known_from: Position,
    pub(super) deleted_topics: Vec<TopicId>,
}

/// How often to write checkpoints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intervals {
    /// Log bytes between two checkpoints of the view.
    pub(super) view_bytes: u64,
    /// Log bytes between two checkpoints in the log, at least.
    pub(super) log_bytes: u64,
}

/// Decides when a checkpoint is due, and has it written.
#[derive(Debug)]
pub(super) struct Checkpoints {
    identity: Identity,
    intervals: Intervals,
    /// Every frame below is in the view, or on its way there.
    collected_end: LogPoint,
    deleted_topics: Vec<TopicId>,
    /// One in the log is asked for.
    wanted: bool,
    busy: Arc<AtomicBool>,
    jobs: SyncSender<Job>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Job {
    changes: Changes,
    catalog: Arc<Catalog>,
    /// Into the log as well.
    wanted: bool,
}

/// What writes them.
struct Writing {
    view: View,
    reader: Reader,
    keeper: Keeper,
    mirror: Mirror,
    followed: Arc<Followed>,
    log_bytes: u64,
    /// Where the state was last put into the log.
    last: Position,
}

impl Writing {
    fn write(&mut self, mut job: Job) -> Result<(), ViewError> {
        for (key, value) in &job.changes.entities {
            self.mirror.set(*key, value.as_deref());
        }
        job.changes.checkpoint.state_digest = self.mirror.digest();
        let segments = self.reader.segments();
        let mut occupancy = self.followed.occupancy();
        write(&mut job.changes, &self.view, &mut occupancy, &segments)?;
        drop(occupancy);
        let Checkpoint {
            applied_end: point,
            closed,
            ..
        } = job.changes.checkpoint;
        // Those of events in the tail cache stay, so that readers at the head
        // never ask the view.
        forget_below(&job.catalog, point.position.min(self.reader.cached_from()));
        self.followed
            .in_view
            .store(point.position.0, Ordering::Release);
        let state_bytes = self.mirror.bytes();
        self.followed
            .state_bytes
            .store(state_bytes, Ordering::Relaxed);
        let interval = self.log_bytes.max(state_bytes * LOG_BYTES_PER_STATE_BYTE);
        let due = point.position.0.saturating_sub(self.last.0) >= interval;
        if (due || job.wanted) && !closed {
            self.put_into_log(point);
        }
        Ok(())
    }

    fn put_into_log(&mut self, point: LogPoint) {
        match self.mirror.write(point, &self.keeper) {
            Ok(()) => {
                self.last = point.position;
                self.followed
                    .in_log
                    .store(point.position.0, Ordering::Release);
                tracing::debug!(position = %point.position, bytes = self.mirror.bytes(),
                    "the state is in the log");
            }
            // Whatever keeps the log from taking it is told elsewhere.
            Err(error) => tracing::debug!(%error, "the state is not put into the log"),
        }
    }
}

impl Checkpoints {
    /// Starts the thread that writes checkpoints.
    pub(super) fn start(
        view: View,
        reader: Reader,
        keeper: Keeper,
        identity: Identity,
        intervals: Intervals,
        beginning: Beginning,
    ) -> std::io::Result<(Self, Arc<Followed>)> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(1);
        let busy = Arc::new(AtomicBool::new(false));
        let collected_end = beginning.collected_end;
        let followed = Arc::new(Followed {
            in_view: AtomicU64::new(collected_end.position.0),
            in_log: AtomicU64::new(0),
            state_bytes: AtomicU64::new(beginning.mirror.bytes()),
            occupancy: Mutex::new(beginning.occupancy),
            known_from: beginning.known_from,
        });
        let mut writing = Writing {
            view,
            reader,
            keeper,
            mirror: beginning.mirror,
            followed: followed.clone(),
            log_bytes: intervals.log_bytes,
            last: collected_end.position,
        };
        let idle = busy.clone();
        let thread = std::thread::Builder::new()
            .name("view".into())
            .spawn(move || {
                for job in queue {
                    if let Err(error) = writing.write(job) {
                        // Nothing is lost, the next start replays more; and
                        // `busy` stays set, so that no more are collected.
                        tracing::error!(%error, "no checkpoints are written any more");
                        return;
                    }
                    idle.store(false, Ordering::Release);
                }
            })?;
        let checkpoints = Self {
            identity,
            intervals,
            collected_end,
            deleted_topics: beginning.deleted_topics,
            wanted: false,
            busy,
            jobs,
            thread,
        };
        Ok((checkpoints, followed))
    }

    /// The index of these topics goes with the next checkpoint.
    pub(super) fn topics_deleted(&mut self, topics: Vec<TopicId>) {
        self.deleted_topics.extend(topics);
    }

    /// A checkpoint in the log is due now.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether one was asked for, or enough has been written since the last one.
    pub(super) fn is_due(&self, end: LogPoint) -> bool {
        let written = end.position.0.saturating_sub(self.collected_end.position.0);
        let due = self.wanted || written >= self.intervals.view_bytes;
        due && !self.busy.load(Ordering::Acquire)
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
            wanted: std::mem::take(&mut self.wanted),
        });
    }
}
