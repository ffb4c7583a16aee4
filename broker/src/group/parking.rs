//! Moves events to the group's parking partition: those that wait long for their
//! next attempt, those behind one of them, and those for which the window has no
//! room. One frame appends an event there, with its history and the place where
//! it was first, and settles it where it was.
//!
//! A group that is ordered by partition parks nothing: what is behind an event
//! that waits is not even read, so that it costs nothing. Nor does one of a
//! memory topic, whose events are never in the log.

use std::{collections::BTreeMap, mem};

use bytes::Bytes;
use prost::Message;
use sluice_proto::{Offset, PartitionId};
use tokio::task;

use super::{
    board::{EventId, Found, Parking},
    command::SettlementError,
    note::{DeadLetterNote, Parked},
    scan::{Feed, Scanned},
    task::{Continuation, GroupTask, READ_AGAIN_AFTER, READY_LOW},
};
use crate::commit::{
    ATTEMPTS_REMEMBERED, AppendRequest, Changes, Group, Proposals, ReadError, Store, StoredEvent,
    record::{AttemptFailed, Channel, NewEvent, NewEvents, Ordering, Settle, Source, due_ms},
};

/// Events that one frame moves at most.
const FRAME_EVENTS_MAX: usize = 256;
/// Bytes that one frame gathers; a single event may have more.
const FRAME_BYTES: usize = 1 << 20;
/// Frames under way beside those of settlements.
const UNDER_WAY_MAX: usize = 4;
/// Events of the parking partition, settled ones counted in, that are worth to be
/// looked at whether the first of them pin the others.
const SPREAD_MIN: u64 = 1024;
/// When nothing could be moved to make room, or the log did not take what was to
/// be parked, it is tried again after so long.
const LOOK_AGAIN_AFTER_MS: u64 = 1000;
/// What is behind an event that has had its line for so long may be moved to make
/// room. A group that is only behind has a full window as well, but its lines move
/// on, and what waits in them is soon delivered from where it is.
const STUCK_AFTER_MS: u64 = 1000;

/// An event to be parked.
pub(super) struct ToPark {
    feed: Feed,
    /// Where it lies.
    at: Offset,
    home: Source,
    home_offset: Offset,
    not_before_ms: u64,
    /// How long that is from now.
    wait_ms: u64,
    attempts: Vec<AttemptFailed>,
    next_attempt: u32,
    suspect: bool,
    /// If it lies where it was first: that log's epoch.
    epoch: u64,
}

/// What became of an event that was to be parked.
#[derive(Clone, Copy, Debug)]
pub(super) enum ParkedAt {
    /// It lies there.
    Offset(Offset),
    /// Its topic had dropped it before; it is settled.
    Gone,
}

/// What moves events to the parking partition.
#[derive(Clone)]
pub(super) struct Mover {
    group: sluice_proto::GroupId,
    target: Source,
    store: Store,
    proposals: Proposals,
    /// What the notes of events say that are where they were published.
    origin: DeadLetterNote,
}

impl GroupTask {
    /// Whether the group may park one event more than `others`.
    pub(super) fn may_park_after(&self, others: usize) -> bool {
        self.parks() && self.board.parked_events() + others < self.limits.parked_events_max
    }

    fn parks(&self) -> bool {
        self.config().ordering() != Ordering::Partition
            && self.group.topic.channel != Channel::Memory
    }

    pub(super) fn mover(&self) -> Mover {
        Mover {
            group: self.group.id,
            target: Source {
                topic: self.group.parking.id,
                partition: PartitionId(0),
            },
            store: self.scanner.store.clone(),
            proposals: self.proposals.clone(),
            origin: DeadLetterNote {
                topic: self.group.topic.name.to_string(),
                group: self.group.name.to_string(),
                ..DeadLetterNote::default()
            },
        }
    }

    /// What is to be written of an event that is parked, at the end of the
    /// attempt `failed` if there was one.
    pub(super) fn to_park(&self, id: EventId, failed: Option<&AttemptFailed>) -> ToPark {
        let at = self.board.at(id);
        let mut attempts = self.board.history(id).to_vec();
        attempts.extend(failed.cloned());
        let waits_until_ms = self.board.not_before_ms(id);
        let wait_ms = failed.map_or_else(
            || waits_until_ms.saturating_sub(self.clock.now_ms()),
            |failed| failed.delay_ms.unwrap_or(0),
        );
        ToPark {
            feed: self.feeds[at.source].clone(),
            at: at.offset,
            home: self.board.source(id.source),
            home_offset: id.offset,
            not_before_ms: failed.map_or_else(
                || self.clock.wall(waits_until_ms),
                |failed| failed.not_before_ms,
            ),
            wait_ms,
            next_attempt: failed.map_or_else(|| self.board.attempt(id), |f| f.next_attempt()),
            suspect: failed.map_or_else(|| self.board.is_suspect(id), |f| f.suspect),
            attempts,
            epoch: self.epoch_of(at),
        }
    }

    /// Parks what is behind a parked event of its line, what makes room in the
    /// window, and what pins settled events in the parking partition itself.
    pub(super) fn park_waiting(&mut self) {
        let now = self.clock.now_ms();
        let stopped = self.disabled.is_some() || self.changing.holds() || now < self.parks_again_ms;
        if stopped || !self.parks() || self.parks_under_way >= UNDER_WAY_MAX {
            return;
        }
        let parked = self.board.parked_events();
        let room = self.limits.parked_events_max.saturating_sub(parked);
        let count = room.min(FRAME_EVENTS_MAX);
        let followers = self.board.take_followers(count);
        self.park(followers);
        let stragglers = self.board.stragglers(FRAME_EVENTS_MAX, SPREAD_MIN);
        self.park(stragglers);
        if self.look_for_movable_ms.is_some_and(|due| due > now) {
            return;
        }
        self.look_for_movable_ms = None;
        if count > 0 && self.window_is_full() {
            let most = room.min(self.limits.window_events_max / 8 + 1);
            let stuck_since = now.saturating_sub(STUCK_AFTER_MS);
            let movable = self.board.movable(most, stuck_since);
            let some_left = movable.len() == most;
            self.look_for_movable_ms = Some(now + LOOK_AGAIN_AFTER_MS).filter(|_| !some_left);
            self.park(movable);
        }
    }

    /// Whether there is more to scan and no room for it, while some events only
    /// wait.
    fn window_is_full(&self) -> bool {
        if self.board.queued() == 0 && self.board.delayed() == 0 {
            return false;
        }
        let full = self.board.unparked() >= self.limits.window_events_max
            && self.board.ready() < READY_LOW;
        (0..self.feeds.len()).any(|source| {
            let ranges = self.board.window(source).run_count();
            (full || ranges >= self.limits.window_ranges_max)
                && self.board.scan_next(source) < self.readable_end(source)
        })
    }

    fn park(&mut self, mut waiting: Vec<EventId>) {
        waiting.retain(|id| self.board.begin_move(*id));
        if waiting.is_empty() {
            return;
        }
        let to_park: Vec<_> = waiting.iter().map(|id| self.to_park(*id, None)).collect();
        let mover = self.mover();
        self.parks_under_way += 1;
        self.jobs.push(Box::pin(async move {
            let parked = mover.park(to_park).await;
            Box::new(move |task: &mut Self| {
                task.parks_under_way -= 1;
                let now = task.clock.now_ms();
                let mut refused = None;
                for (id, parked) in waiting.into_iter().zip(parked) {
                    match parked {
                        Ok(ParkedAt::Offset(at)) => {
                            task.board.parked(id, at, None, now);
                            // It may be long until its turn comes.
                            task.board.forget(id);
                            fault_point!(ParkMoved);
                        }
                        Ok(ParkedAt::Gone) => {
                            task.dropped += 1;
                            task.board.moved_nowhere(id, now);
                        }
                        Err(SettlementError::Commit(error)) => {
                            task.disable_if_the_log_failed(&error);
                            task.parks_again_ms = now + LOOK_AGAIN_AFTER_MS;
                            task.board.not_moved_yet(id, now);
                            refused = Some(error);
                        }
                        // It cannot be read next time, either.
                        Err(error) => {
                            task.parks_again_ms = now + LOOK_AGAIN_AFTER_MS;
                            tracing::warn!(%error, ?id, "an event cannot be parked");
                            task.board.not_moved(id, now);
                        }
                    }
                }
                if let Some(error) = refused {
                    tracing::warn!(%error, "events cannot be parked yet");
                }
            }) as Continuation
        }));
    }

    // -------------------------------------------------- after a start

    /// Finds what was parked before the start. Until that is done nothing else is
    /// read.
    pub(super) fn find_parked(&mut self) {
        let Some(from) = self.board.finds_from().filter(|_| !self.finding) else {
            return;
        };
        self.finding = true;
        let scanner = self.scanner.clone();
        let generation = self.generation;
        let feed = self.feeds[self.board.parking_source()].clone();
        self.jobs.push(Box::pin(async move {
            let turn = feed.turn(&scanner.store, from).await;
            let scanned = task::spawn_blocking(move || scanner.scan(&feed, from)).await;
            drop(turn);
            if !matches!(scanned, Ok(Ok(_))) {
                tokio::time::sleep(READ_AGAIN_AFTER).await;
            }
            Box::new(move |task: &mut Self| {
                task.finding = false;
                match scanned {
                    Ok(_) if task.generation != generation => {}
                    Ok(Ok(scanned)) => task.found(scanned),
                    Ok(Err(error)) => tracing::error!(%error, "cannot read what is parked"),
                    Err(error) => tracing::error!(%error, "a read ended with a panic"),
                }
            }) as Continuation
        }));
    }

    fn found(&mut self, scanned: Scanned) {
        let (now_ms, ahead_ms) = (self.clock.now_ms(), self.clock.wall_ahead_ms());
        let found = scanned.with_keys().filter_map(|(stored, key)| {
            let note = DeadLetterNote::decode(stored.note.clone()).ok()?;
            let parked = note.parked?;
            Some(Found {
                at: stored.offset,
                home: parked.home(),
                home_offset: Offset(parked.home_offset),
                // It may wait for long, and is not to keep its block of the log.
                key: key.map(|key| Bytes::copy_from_slice(key.bytes)),
                size: stored.event.len() as u32,
                not_before_ms: due_ms(parked.not_before_ms, parked.wait_ms, now_ms, ahead_ms),
                next_attempt: parked.next_attempt,
                suspect: parked.suspect,
            })
        });
        let found = found.collect();
        let now = self.clock.now_ms();
        self.board.found(scanned.next, found, now);
    }
}

/// Where the group's parking partition is among its feeds.
pub(super) fn parking_of(feeds: &[Feed], group: &Group) -> Parking {
    let is_it = |feed: &Feed| feed.topic.id == group.parking.id;
    let source = feeds.iter().position(is_it);
    Parking {
        source: source.unwrap_or(feeds.len()),
        end: source.map_or(Offset(0), |source| feeds[source].visible_end()),
    }
}

/// One frame's worth.
#[derive(Default)]
struct Gathered {
    /// Which of the events that are to be parked.
    indices: Vec<usize>,
    events: NewEvents,
    bytes: usize,
    settled: BTreeMap<(u64, u32), (Source, Vec<Offset>)>,
}

impl Mover {
    /// Parks events, and says what became of each.
    pub(super) async fn park(
        &self,
        to_park: Vec<ToPark>,
    ) -> Vec<Result<ParkedAt, SettlementError>> {
        let mut done = Vec::with_capacity(to_park.len());
        let mut rest = to_park;
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(FRAME_EVENTS_MAX));
            let some = mem::replace(&mut rest, later);
            self.park_some(some, &mut done).await;
        }
        done
    }

    async fn park_some(
        &self,
        to_park: Vec<ToPark>,
        done: &mut Vec<Result<ParkedAt, SettlementError>>,
    ) {
        let (base, count) = (done.len(), to_park.len());
        let store = self.store.clone();
        let read = task::spawn_blocking(move || {
            let events = read(&store, &to_park);
            (to_park, events)
        });
        let (to_park, events) = match read.await {
            Ok(read) => read,
            // It has panicked, or the runtime is shutting down, and the group with it.
            Err(error) => {
                let failed = || Err(SettlementError::Read(error.to_string()));
                done.extend((0..count).map(|_| failed()));
                return;
            }
        };
        let mut gathered = Gathered::default();
        for (index, (of, event)) in to_park.into_iter().zip(events).enumerate() {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    done.push(Err(SettlementError::Read(error)));
                    continue;
                }
            };
            done.push(Ok(ParkedAt::Gone));
            let source = Source {
                topic: of.feed.topic.id,
                partition: of.feed.id,
            };
            let at = of.at;
            if let Some(event) = event {
                let note = Bytes::from(self.note(of, &event).encode_to_vec());
                let bytes = event.event.len() + note.len();
                if gathered.bytes + bytes > FRAME_BYTES && !gathered.indices.is_empty() {
                    self.commit(mem::take(&mut gathered), base, done).await;
                }
                gathered.bytes += bytes;
                gathered.indices.push(base + index);
                gathered.events.push(NewEvent {
                    event: event.event,
                    note,
                });
            }
            let key = (source.topic.0, source.partition.0);
            let settled = gathered.settled.entry(key);
            settled.or_insert((source, Vec::new())).1.push(at);
        }
        self.commit(gathered, base, done).await;
    }

    async fn commit(
        &self,
        gathered: Gathered,
        base: usize,
        done: &mut [Result<ParkedAt, SettlementError>],
    ) {
        if gathered.settled.is_empty() {
            // None of them could be read.
            return;
        }
        let settles = gathered.settled.into_values().map(|(source, mut offsets)| {
            offsets.sort_unstable();
            Settle {
                group: self.group,
                source,
                runs: offsets.into_iter().map(|offset| (offset, 1)).collect(),
            }
        });
        let append = AppendRequest {
            target: self.target,
            events: gathered.events,
        };
        let appends = (!append.events.is_empty()).then_some(append);
        let changes = Changes {
            appends: appends.into_iter().collect(),
            settles: settles.collect(),
            ..Changes::default()
        };
        fault_point!(ParkRead);
        let committed = self.proposals.commit(changes).await;
        fault_point!(ParkCommitted);
        match committed {
            Ok(committed) => {
                let first = committed.appended.first().map_or(Offset(0), |of| of.first);
                for (at, index) in gathered.indices.into_iter().enumerate() {
                    done[index] = Ok(ParkedAt::Offset(first + at as u64));
                }
            }
            // Those that are gone are looked for again.
            Err(error) => {
                for of in &mut done[base..] {
                    if matches!(of, Ok(ParkedAt::Gone)) {
                        *of = Err(error.clone().into());
                    }
                }
            }
        }
    }

    /// What is kept beside a parked event.
    fn note(&self, of: ToPark, event: &StoredEvent) -> DeadLetterNote {
        let before = Some(&event.note).filter(|note| !note.is_empty());
        let before = before.and_then(|note| DeadLetterNote::decode(note.clone()).ok());
        let was_parked = before.as_ref().and_then(|note| note.parked.clone());
        let mut note = before.unwrap_or_else(|| DeadLetterNote {
            partition: of.home.partition.0,
            offset: of.home_offset.0,
            ..self.origin.clone()
        });
        note.attempts.extend(of.attempts);
        let surplus = note.attempts.len().saturating_sub(ATTEMPTS_REMEMBERED);
        note.attempts.drain(..surplus);
        note.attempt_count = of.next_attempt.saturating_sub(1);
        let (append_time_ms, epoch) = match &was_parked {
            Some(parked) => (parked.append_time_ms, parked.epoch),
            None => (event.append_time_ms, of.epoch),
        };
        note.parked = Some(Parked {
            home_topic: of.home.topic.0,
            home_partition: of.home.partition.0,
            home_offset: of.home_offset.0,
            not_before_ms: of.not_before_ms,
            next_attempt: of.next_attempt,
            suspect: of.suspect,
            append_time_ms,
            epoch,
            wait_ms: Some(of.wait_ms),
        });
        note
    }
}

/// An event that was read; `None` when it is gone, and why when it cannot be read.
type Read = Result<Option<StoredEvent>, String>;

/// Reads events, each in its place.
fn read(store: &Store, to_park: &[ToPark]) -> Vec<Read> {
    let mut by_feed: BTreeMap<(u64, u32), Vec<usize>> = BTreeMap::new();
    for (index, of) in to_park.iter().enumerate() {
        let feed = (of.feed.topic.id.0, of.feed.id.0);
        by_feed.entry(feed).or_default().push(index);
    }
    let mut events: Vec<Read> = (0..to_park.len()).map(|_| Ok(None)).collect();
    for mut indices in by_feed.into_values() {
        indices.sort_unstable_by_key(|index| to_park[*index].at);
        if pick(store, to_park, &indices, &mut events).is_err() {
            // One that is damaged holds up no other one.
            for index in indices {
                if let Err(error) = pick(store, to_park, &[index], &mut events) {
                    events[index] = Err(error.to_string());
                }
            }
        }
    }
    events
}

/// Reads those of one feed, which are in order.
fn pick(
    store: &Store,
    to_park: &[ToPark],
    indices: &[usize],
    events: &mut [Read],
) -> Result<(), ReadError> {
    let Some(first) = indices.first() else {
        return Ok(());
    };
    let offsets: Vec<Offset> = indices.iter().map(|index| to_park[*index].at).collect();
    let picked = to_park[*first].feed.pick(store, &offsets)?;
    let mut picked = picked.into_iter().peekable();
    for index in indices {
        let at = to_park[*index].at;
        if let Some(event) = picked.next_if(|of| of.offset == at) {
            events[*index] = Ok(Some(event));
        }
    }
    Ok(())
}
