//! Reads pages of the group's sources, and single events again whose turn has
//! come, so that something is ready when somebody has credit.

use std::collections::BTreeMap;

use sluice_proto::Offset;
use tokio::task;

use super::{Continuation, FETCHES_MAX, GroupTask, READ_AGAIN_AFTER, READY_LOW, SKIPS_AFTER_MS};
use crate::{
    commit::{ReadError, StoredEvent},
    filter::EvaluationError,
    group::{
        board::{Arrived, EventId},
        scan::{Scanned, turn_to_filter},
    },
};

impl GroupTask {
    /// Reads pages until enough is ready. True when it can go on at once.
    pub(super) fn read_ahead(&mut self) -> bool {
        const PAGES_PER_TURN: usize = 4;
        if self.disabled.is_some() || self.changing.holds() {
            return false;
        }
        let mut pages = 0;
        for _ in 0..self.feeds.len() {
            let source = self.scan_turn % self.feeds.len();
            self.scan_turn = source + 1;
            while self.wants_page(source) {
                if pages == PAGES_PER_TURN {
                    return true;
                }
                pages += 1;
                let from = self.board.scan_next(source);
                match self.scanner.scan_now(&self.feeds[source], from) {
                    Some(scanned) => self.scanned(source, scanned),
                    None => self.scan_beside(source, from),
                }
            }
        }
        false
    }

    fn wants_page(&self, source: usize) -> bool {
        !self.scanning[source]
            && (self.board.ready() < READY_LOW || self.scans_on())
            && self.board.len() < self.limits.window_events_max
            && self.board.scan_next(source) < self.readable_end(source)
    }

    /// Where a source ends for now.
    pub(super) fn readable_end(&self, source: usize) -> Offset {
        let from = self.board.scan_next(source);
        self.scanner.readable_end(&self.feeds[source], from)
    }

    /// Nothing wakes a group with a route for events that it does not want: before
    /// it says where it stands, it looks how far it gets without.
    pub(super) fn come_up(&mut self) {
        if self.scanner.route.is_some() {
            self.read_ahead();
        }
    }

    fn scan_beside(&mut self, source: usize, from: Offset) {
        self.scanning[source] = true;
        let scanner = self.scanner.clone();
        let generation = self.generation;
        let feed = self.feeds[source].clone();
        self.jobs.push(Box::pin(async move {
            let turn = match scanner.filter {
                Some(_) => turn_to_filter().await,
                None => None,
            };
            let scanned = task::spawn_blocking(move || scanner.scan(&feed, from)).await;
            drop(turn);
            if matches!(scanned, Ok(Err(_)) | Err(_)) {
                tokio::time::sleep(READ_AGAIN_AFTER).await;
            }
            Box::new(move |task: &mut Self| {
                task.scanning[source] = false;
                match scanned {
                    // The position was moved meanwhile.
                    Ok(_) if task.generation != generation => {}
                    Ok(scanned) => task.scanned(source, scanned),
                    Err(error) => tracing::error!(%error, "a scan ended with a panic"),
                }
            }) as Continuation
        }));
    }

    fn scanned(&mut self, source: usize, scanned: Result<Scanned, ReadError>) {
        let scanned = match scanned {
            Ok(scanned) => scanned,
            Err(error) => {
                let source = self.board.source(source);
                tracing::error!(%error, ?source, group = %self.group.name, "cannot read");
                return;
            }
        };
        if let Some(gap) = scanned.gap {
            self.scanned_gap(source, gap);
        }
        if scanned.overran {
            let partition = self.board.source(source).partition.0;
            let why = format!(
                "{} (partition {partition}, offset {})",
                EvaluationError::OverBudget,
                scanned.next.0
            );
            tracing::warn!(group = %self.group.name, %why, "the filter is stopped");
            self.disabled = Some(why);
        }
        let now = self.clock.now_ms();
        let counters = scanned.counters;
        if counters.matched < counters.seen && self.skips_due_ms.is_none() {
            self.skips_due_ms = Some(now + SKIPS_AFTER_MS);
        }
        self.counters.add(counters);
        let mut arrived = Vec::with_capacity(scanned.matched.len());
        let mut events = Vec::with_capacity(scanned.matched.len());
        for (event, key) in scanned.matched {
            arrived.push(Arrived {
                offset: event.offset,
                key,
                size: event.event.len() as u32,
            });
            events.push(event);
        }
        let new = self.board.scanned(source, scanned.next, arrived, now);
        let mut new = new.into_iter().peekable();
        for event in events {
            if new.peek().is_some_and(|id| id.offset == event.offset)
                && let Some(id) = new.next()
            {
                self.payloads.keep_ahead(id, event);
            }
        }
    }

    /// Reads events again whose turn has come and that are not in memory: those
    /// in the tail cache at once, the others beside the task.
    pub(super) fn fetch_missing(&mut self) {
        let mut room = self.payloads.room_for_needed();
        let mut wanted: BTreeMap<usize, Vec<Offset>> = BTreeMap::new();
        for id in self.board.first_ready(FETCHES_MAX) {
            if self.payloads.has(id) || self.fetching.contains(&id) {
                continue;
            }
            let size = self.size(id);
            // One always moves, however large it is.
            let first = wanted.is_empty() && self.fetching.is_empty();
            if !self.could_be_taken(size) || (size > room && !first) {
                continue;
            }
            room = room.saturating_sub(size);
            wanted.entry(id.source).or_default().push(id.offset);
        }
        for (source, mut offsets) in wanted {
            offsets.sort_unstable();
            let picked = self.pick_cached(source, &offsets);
            offsets.retain(|offset| {
                picked
                    .binary_search_by_key(offset, |event| event.offset)
                    .is_err()
            });
            self.keep_needed(source, picked);
            if !offsets.is_empty() {
                self.fetch(source, offsets);
            }
        }
    }

    fn pick_cached(&self, source: usize, offsets: &[Offset]) -> Vec<StoredEvent> {
        let partition = self.feeds[source].partition();
        let picked = partition.map(|partition| self.scanner.store.pick_cached(partition, offsets));
        // What is damaged in memory is looked for on the disk.
        picked.and_then(Result::ok).unwrap_or_default()
    }

    fn keep_needed(&mut self, source: usize, events: Vec<StoredEvent>) {
        for event in events {
            let offset = event.offset;
            let id = EventId { source, offset };
            // It may have left the board while it was read.
            if self.board.size_and_key(id).is_some() {
                self.payloads.keep_needed(id, event);
            }
        }
    }

    fn fetch(&mut self, source: usize, offsets: Vec<Offset>) {
        let id = move |offset: &Offset| EventId {
            source,
            offset: *offset,
        };
        self.fetching.extend(offsets.iter().map(id));
        let feed = self.feeds[source].clone();
        let store = self.scanner.store.clone();
        self.jobs.push(Box::pin(async move {
            let wanted = offsets.clone();
            let read = task::spawn_blocking(move || feed.pick(&store, &wanted)).await;
            if !matches!(read, Ok(Ok(_))) {
                tokio::time::sleep(READ_AGAIN_AFTER).await;
            }
            Box::new(move |task: &mut Self| {
                for id in offsets.iter().map(id) {
                    task.fetching.remove(&id);
                }
                match read {
                    Ok(Ok(events)) => {
                        task.drop_missing(source, &offsets, &events);
                        task.keep_needed(source, events);
                    }
                    Ok(Err(error)) => tracing::error!(%error, "cannot read events again"),
                    Err(error) => tracing::error!(%error, "a read ended with a panic"),
                }
            }) as Continuation
        }));
    }

    /// Of these events some were asked for and are gone: the topic dropped them
    /// while they waited here.
    fn drop_missing(&mut self, source: usize, asked: &[Offset], read: &[StoredEvent]) {
        let there = |offset: &Offset| read.iter().any(|event| event.offset == *offset);
        let missing: Vec<EventId> = asked
            .iter()
            .filter(|offset| !there(offset))
            .map(|offset| EventId {
                source,
                offset: *offset,
            })
            .collect();
        if !missing.is_empty() {
            let now = self.clock.now_ms();
            self.dropped += self.board.drop_ready(&missing, now);
            self.skips_due_ms.get_or_insert(now + SKIPS_AFTER_MS);
        }
    }

    /// Reads an event; `None` when it is gone.
    pub(in crate::group) fn read_event(
        &self,
        id: EventId,
    ) -> impl Future<Output = Result<Option<StoredEvent>, String>> + use<> {
        let feed = self.feeds[id.source].clone();
        let store = self.scanner.store.clone();
        async move {
            let read = task::spawn_blocking(move || feed.fetch(&store, id.offset)).await;
            match read {
                Ok(Ok(event)) => Ok(event),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        }
    }
}
