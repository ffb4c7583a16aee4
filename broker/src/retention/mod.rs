//! Keeps the log in bounds: drops what topics do not keep any longer, gives the
//! space of segments back of which nothing is needed, and writes again what
//! little is needed of others.
//!
//! ```text
//!  settings of topics ─> trims ─> segments of which nothing is needed ─> removed
//!                                 segments of which little is needed
//!                                   └─> that is written again ─┘
//! ```
//!
//! One thread does this, once in an interval. A segment is removed when
//!
//! - a complete checkpoint in the log, written in this run, says what the state
//!   was at its end or later, so that nobody needs to replay it;
//! - every event in it is below the start of its partition, of a topic that is
//!   gone, or in a later frame that is durable and in the index;
//! - and all that is known from the log: what the view says of a segment that was
//!   written before this run is checked against the segment itself.
//!
//! Whoever reads from it at that moment is not disturbed, and finds what has
//! moved when it looks again.

mod compact;
mod reclaim;
mod rewrite;
#[cfg(test)]
mod tests;
mod trim;

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError, SyncSender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

pub use self::trim::Held;
use self::{
    compact::Compaction,
    reclaim::Usage,
    rewrite::{Rewriting, settled_end},
};
use crate::{
    commit::{
        Catalog, Followed, Keeper, Partition, Proposals, ReadError, Run, Store, Trim, Unavailable,
        record::Source,
    },
    log::{Position, Reader, ReclaimError, Reclaimer, SegmentInfo},
    wall_clock::AgeClock,
};

/// Partitions that are trimmed in one frame.
const TRIMS_PER_FRAME: usize = 1000;

/// How often the time by which events grow old is noted in the log.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);

/// How the log is kept in bounds.
#[derive(Clone, Copy, Debug)]
pub struct RetentionConfig {
    /// How often to look.
    pub interval: Duration,
    /// A segment is rewritten when less than so many percent of it are needed.
    pub rewrite_below_percent: u8,
    /// Bytes of events to write again per second.
    pub rewrite_bytes_per_s: u64,
    /// Keys that the compaction of a partition keeps in memory.
    pub compact_keys_max: usize,
}

/// How the log stands, as it was seen last.
#[derive(Clone, Debug, Default)]
pub struct RetentionStatus {
    /// Bytes of events that are needed, in segments that are full.
    pub live_bytes: u64,
    /// Bytes of segments that were removed, since the broker's start.
    pub reclaimed_bytes: u64,
    /// Bytes of events that were written again, since the broker's start.
    pub rewritten_bytes: u64,
    /// Partitions that a group holds beyond what they are to keep.
    pub held: Vec<Held>,
}

/// The parts that it needs.
#[derive(Debug)]
pub struct Parts {
    /// The topics that there are, and what trims and writes again.
    pub proposals: Proposals,
    /// Reads events and the index.
    pub store: Store,
    /// Reads segments.
    pub reader: Reader,
    /// Removes segments.
    pub reclaimer: Reclaimer,
    /// How far view and checkpoints are.
    pub followed: Arc<Followed>,
    /// By which events grow old.
    pub clock: AgeClock,
}

/// The running thread. It ends when this is dropped, or told to.
#[derive(Debug)]
pub struct Retaining {
    status: Arc<Mutex<RetentionStatus>>,
    stop: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Retaining {
    /// Starts the thread.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(parts: Parts, config: RetentionConfig) -> io::Result<Self> {
        let status = Arc::new(Mutex::new(RetentionStatus::default()));
        let (stop, stopped) = mpsc::sync_channel::<()>(0);
        let mut keeping = Keeping::new(parts, config, status.clone());
        let thread = std::thread::Builder::new()
            .name("retention".into())
            .spawn(move || {
                while stopped.recv_timeout(config.interval) == Err(RecvTimeoutError::Timeout) {
                    if keeping.turn().is_err() {
                        // The log takes nothing more.
                        return;
                    }
                }
            })?;
        Ok(Self {
            status,
            stop,
            thread,
        })
    }

    /// How the log stood when it was looked at last.
    #[must_use]
    pub fn status(&self) -> Arc<Mutex<RetentionStatus>> {
        self.status.clone()
    }

    /// Ends the thread, and waits for what it is at.
    pub fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the retention thread ended with a panic");
        }
    }
}

struct Keeping {
    keeper: Keeper,
    catalog: tokio::sync::watch::Receiver<Arc<Catalog>>,
    store: Store,
    reader: Reader,
    reclaimer: Reclaimer,
    followed: Arc<Followed>,
    config: RetentionConfig,
    clock: AgeClock,
    /// When the clock was noted in the log, and where the log ended then.
    noted: Option<(Instant, Position)>,
    compaction: Compaction,
    /// Where the log ended after events were written again the last time. Until
    /// the index has that, nothing else is, so that nothing is written twice.
    rewritten_end: Position,
    /// Segments that cannot be rewritten, or removed, for a reason that was told.
    stuck: HashSet<Position>,
    /// Where the log ended at the last turn.
    durable_end: Position,
    status: Arc<Mutex<RetentionStatus>>,
}

impl Keeping {
    fn new(parts: Parts, config: RetentionConfig, status: Arc<Mutex<RetentionStatus>>) -> Self {
        Self {
            keeper: parts.proposals.keeper(),
            catalog: parts.proposals.watch_catalog(),
            store: parts.store,
            reclaimer: parts.reclaimer,
            followed: parts.followed,
            config,
            clock: parts.clock,
            noted: None,
            compaction: Compaction::default(),
            // What was written again before may have been read back just now.
            rewritten_end: parts.reader.durable_end(),
            stuck: HashSet::new(),
            durable_end: Position(0),
            status,
            reader: parts.reader,
        }
    }

    fn turn(&mut self) -> Result<(), Unavailable> {
        self.note_the_time()?;
        let catalog = self.catalog.borrow().clone();
        self.trim(&catalog)?;
        if self.index_is_settled() {
            self.compact(&catalog)?;
        }
        let usages = self.usages(&catalog);
        if self.index_is_settled() {
            self.rewrite(&catalog, &usages)?;
        }
        self.reclaim(&catalog, &usages)
    }

    /// Lets the log know how far the clock is, now and then and while there is
    /// something new in it: a start goes on from there.
    fn note_the_time(&mut self) -> Result<(), Unavailable> {
        let due = self.noted.is_none_or(|(at, end)| {
            at.elapsed() >= NOTE_INTERVAL && end != self.reader.durable_end()
        });
        if due {
            self.keeper.retention_time(self.clock.now_ms())?;
            self.noted = Some((Instant::now(), self.reader.durable_end()));
        }
        Ok(())
    }

    /// What was written again is in the index.
    fn index_is_settled(&self) -> bool {
        self.rewritten_end <= self.followed.in_view()
    }

    fn trim(&mut self, catalog: &Catalog) -> Result<(), Unavailable> {
        let holding = trim::holding(catalog);
        let unread = if holding.is_empty() {
            Default::default()
        } else {
            self.keeper.unread(holding)?
        };
        let now_ms = self.clock.now_ms();
        let (trims, held) = trim::due(catalog, &self.store, &unread, now_ms);
        self.with_status(|status| status.held = held);
        for trims in trims.chunks(TRIMS_PER_FRAME) {
            self.keeper.trim(trims.to_vec())?;
        }
        Ok(())
    }

    fn compact(&mut self, catalog: &Catalog) -> Result<(), Unavailable> {
        let mut rewriting = Rewriting::new(&self.keeper, self.config.rewrite_bytes_per_s);
        let keys_max = self.config.compact_keys_max;
        let now_ms = self.clock.now_ms();
        self.compaction
            .turn(catalog, &self.store, keys_max, now_ms, &mut rewriting)?;
        let written = rewriting.written;
        self.was_rewritten(written);
        Ok(())
    }

    fn was_rewritten(&mut self, bytes: Option<u64>) {
        if let Some(bytes) = bytes {
            self.rewritten_end = self.reader.durable_end();
            self.with_status(|status| status.rewritten_bytes += bytes);
        }
    }

    fn usages(&self, catalog: &Catalog) -> Vec<Usage> {
        let segments = self.reader.segments();
        let in_view = self.followed.in_view();
        let usages = reclaim::usage(&segments, in_view, &self.followed.occupancy(), catalog);
        let live_bytes = usages.iter().map(Usage::live_bytes).sum();
        self.with_status(|status| status.live_bytes = live_bytes);
        usages
    }

    /// Writes again what is needed of the segments of which least is.
    fn rewrite(&mut self, catalog: &Catalog, usages: &[Usage]) -> Result<(), Unavailable> {
        let share = |usage: &&Usage| usage.live_bytes() * 100 / usage.segment.bytes().max(1);
        let mut candidates: Vec<&Usage> = usages
            .iter()
            .filter(|usage| !usage.is_dead())
            .filter(|usage| usage.segment.end <= self.reader.cached_from())
            .filter(|usage| share(usage) < self.config.rewrite_below_percent.into())
            .filter(|usage| !self.stuck.contains(&usage.segment.base))
            .collect();
        candidates.sort_by_key(share);
        let per_turn = self.config.rewrite_bytes_per_s as f64 * self.config.interval.as_secs_f64();
        let mut rewriting = Rewriting::new(&self.keeper, self.config.rewrite_bytes_per_s);
        for usage in candidates {
            let written = rewriting.written.unwrap_or(0);
            if written > 0 && (written + usage.live_bytes()) as f64 > per_turn {
                break;
            }
            let base = usage.segment.base;
            for (source, run) in &usage.live {
                let segment = usage.segment;
                match rewrite_run(*source, *run, segment, catalog, &self.store, &mut rewriting) {
                    Ok(()) => {}
                    Err(RewriteError::Unavailable(error)) => return Err(error),
                    // It may have moved or gone just now; the next turn tells.
                    Err(RewriteError::Read(error)) => {
                        tracing::debug!(%base, %error, "a segment is not rewritten now");
                    }
                    Err(RewriteError::TooLong(position)) => {
                        tracing::warn!(%base, %position,
                            "a segment stays, because a frame of it does not fit one again");
                        self.stuck.insert(base);
                    }
                }
            }
            rewriting.flush()?;
        }
        let written = rewriting.written;
        self.was_rewritten(written);
        Ok(())
    }

    /// Removes the segments of which nothing is needed.
    fn reclaim(&mut self, catalog: &Catalog, usages: &[Usage]) -> Result<(), Unavailable> {
        let in_log = self.followed.in_log();
        let mut waiting_bytes = 0;
        let mut dead = Vec::new();
        for usage in usages.iter().filter(|usage| usage.is_dead()) {
            let segment = usage.segment;
            // What is being copied may go when that is done.
            if self.stuck.contains(&segment.base) || self.reader.is_held(segment.base) {
                continue;
            }
            if segment.end > in_log {
                waiting_bytes += segment.bytes();
            } else if self.may_go(segment, catalog) {
                dead.push(segment.base);
            }
        }
        self.remove(&dead);
        self.ask_for_checkpoint(waiting_bytes)
    }

    /// That the log says so, where only the view has said so yet.
    fn may_go(&mut self, segment: SegmentInfo, catalog: &Catalog) -> bool {
        if segment.base >= self.followed.known_from() {
            return true;
        }
        let checked = reclaim::is_dead_by_the_log(segment, &self.reader, &self.store, catalog);
        if let Err(reason) = &checked {
            tracing::error!(base = %segment.base, reason,
                "the view takes a segment for unused that is not; it is kept");
            self.stuck.insert(segment.base);
        }
        checked.is_ok()
    }

    fn remove(&mut self, dead: &[Position]) {
        if dead.is_empty() {
            return;
        }
        match self.reclaimer.remove(dead) {
            Ok(reclaimed) => {
                let mut occupancy = self.followed.occupancy();
                for base in dead {
                    occupancy.removed(*base);
                }
                drop(occupancy);
                tracing::info!(
                    segments = dead.len(),
                    bytes = reclaimed.bytes,
                    recycled = reclaimed.recycled,
                    "segments that nobody needs were removed"
                );
                self.with_status(|status| status.reclaimed_bytes += reclaimed.bytes);
            }
            // A copy has begun just now.
            Err(ReclaimError::Held(_)) => {}
            Err(error) => {
                tracing::error!(%error, "segments cannot be removed");
                self.stuck.extend(dead);
            }
        }
    }

    /// A checkpoint comes by itself as the log grows. It is asked for when space
    /// waits for it that is worth it, and when nothing is written that would
    /// bring it about.
    fn ask_for_checkpoint(&mut self, waiting_bytes: u64) -> Result<(), Unavailable> {
        let durable_end = self.reader.durable_end();
        let idle = std::mem::replace(&mut self.durable_end, durable_end) == durable_end;
        let segments = self.reader.segments();
        let last_sealed = segments.iter().rev().find(|segment| !segment.open);
        let followed = &self.followed;
        let unseen = last_sealed.is_some_and(|last| last.end > followed.in_view());
        let unsettled = !self.index_is_settled();
        let worth_it = waiting_bytes > 4 * followed.state_bytes();
        if worth_it || (idle && (unseen || unsettled)) {
            self.keeper.save()?;
        }
        Ok(())
    }

    fn with_status(&self, change: impl FnOnce(&mut RetentionStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

enum RewriteError {
    Unavailable(Unavailable),
    Read(ReadError),
    TooLong(Position),
}

impl From<Unavailable> for RewriteError {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error)
    }
}

impl From<ReadError> for RewriteError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Writes a run of a partition again, as far as it is in this segment and out of
/// the head of the index.
fn rewrite_run(
    source: Source,
    run: Run,
    segment: SegmentInfo,
    catalog: &Catalog,
    store: &Store,
    rewriting: &mut Rewriting<'_>,
) -> Result<(), RewriteError> {
    let topic = catalog.topic_by_id(source.topic);
    let Some(partition) = topic.and_then(|topic| topic.partition(source.partition)) else {
        return Ok(());
    };
    let end = run.end.min(settled_end(partition));
    let mut at = run.first.max(partition.start_offset());
    while at < end {
        for entry in store.locate(partition, at)? {
            at = entry.end();
            if entry.first >= end {
                break;
            }
            if entry.position < segment.base || entry.position >= segment.end {
                continue;
            }
            let start = partition.start_offset();
            let mut events = store.events(partition, entry)?;
            events.retain(|event| event.offset >= start);
            if !rewriting.add(partition, &entry, events)? {
                return Err(RewriteError::TooLong(entry.position));
            }
        }
    }
    Ok(())
}

/// Lets a partition begin at `start`, whatever groups have settled. Waits.
///
/// # Errors
/// When the log is not to be had.
pub fn trim_to(
    keeper: &Keeper,
    store: &Store,
    partition: &Partition,
    start: sluice_proto::Offset,
) -> Result<(), Unavailable> {
    keeper.trim(vec![Trim {
        source: partition.source,
        start,
        bytes: trim::bytes_below(store, partition, start),
        force: true,
    }])
}
