//! How events come to the board: the scan meets them, and what the filter
//! skipped.

use sluice_proto::Offset;

use super::{Before, Board, Entry, EventId, Past, Seat, lease::Place};
use crate::{
    commit::record::{Ordering, Source},
    group::{by_event::Slot, key_lock::Arrival, line_name::LineName},
};

/// An event that the group is to deliver.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// Where in its source.
    pub offset: Offset,
    /// Its key, in a group that is ordered by key.
    pub key: Option<LineName<'a>>,
    /// Bytes of the encoded event.
    pub size: u32,
    /// It was parked: whoever has its place in the group is known already.
    pub parked: bool,
}

/// An event that takes its place on the board.
#[derive(Debug)]
pub(super) struct Arriving<'a> {
    pub(super) key: Option<LineName<'a>>,
    pub(super) size: u32,
    pub(super) parked_at: Option<Offset>,
    pub(super) before: Before,
    pub(super) not_before_ms: u64,
}

impl Board {
    /// How many sources there are.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// The next offset of a source to look at.
    #[must_use]
    pub fn scan_next(&self, source: usize) -> Offset {
        self.sources[source].scan_next
    }

    /// Takes what was found from the source's [`Board::scan_next`] up to `next`.
    /// What is not in `matched` is skipped. Returns those that are new and wait
    /// for delivery.
    pub fn scanned<'a>(
        &mut self,
        source: usize,
        next: Offset,
        matched: impl IntoIterator<Item = Arrived<'a>>,
        now_ms: u64,
    ) -> Vec<Seat> {
        let mut new = Vec::new();
        // It may have moved on since the page was asked for.
        let scan_next = self.sources[source].scan_next;
        let next = next.max(scan_next);
        let mut from = scan_next;
        for arrived in matched.into_iter().filter(|of| of.offset >= scan_next) {
            self.sources[source].skip(from, arrived.offset);
            from = arrived.offset.next();
            let progress = &mut self.sources[source];
            let offset = arrived.offset;
            if progress.ahead.remove(&offset) || progress.window.is_settled(offset) {
                continue;
            }
            if arrived.parked {
                continue;
            }
            self.come_home(source, offset, now_ms);
            let id = EventId { source, offset };
            let arriving = Arriving {
                key: arrived.key,
                size: arrived.size,
                parked_at: None,
                before: Before::default(),
                not_before_ms: 0,
            };
            let slot = self.arrive(id, arriving, now_ms);
            new.push(Seat { id, slot });
        }
        let progress = &mut self.sources[source];
        let last = Offset(next.0.saturating_sub(1));
        if from < next && !progress.window.is_settled(last) && !progress.ahead.contains(&last) {
            progress.ends_skipped = true;
        } else if !new.is_empty() {
            progress.ends_skipped = false;
        }
        progress.skip(from, next);
        // What is settled beyond need not be read again.
        progress.scan_next = progress.window.settled_up_to(next);
        let scan_next = progress.scan_next;
        self.come_home(source, scan_next, now_ms);
        new
    }

    pub(super) fn arrive(&mut self, id: EventId, arriving: Arriving<'_>, now_ms: u64) -> Slot {
        let history = match arriving.parked_at {
            None => {
                let progress = &mut self.sources[id.source];
                progress.unsettled += 1;
                progress.attempts.remove(&id.offset)
            }
            Some(at) => {
                self.lot.locations.insert(at, id);
                let parking = self.sources.get_mut(self.lot.parking.source);
                parking.and_then(|parking| parking.attempts.remove(&at))
            }
        };
        let history = history.unwrap_or_default();
        let last_ms = history.last().map(|failed| failed.not_before_ms);
        let past = Past {
            before: arriving.before,
            history,
            not_before_ms: last_ms.unwrap_or(arriving.not_before_ms),
            parked_at: arriving.parked_at,
            aside: None,
        };
        let mut entry = Entry::new(arriving.size, past, Place::Queued);
        if self.rules.ordering == Ordering::None && entry.past().not_before_ms <= now_ms {
            // As most do.
            let before = entry.become_ready();
            let slot = self.events.insert(id, entry);
            self.queue(Seat { id, slot }, before);
            return slot;
        }
        let slot = self.events.insert(id, entry);
        match self.enter_line(slot, arriving.key, now_ms) {
            Some((line, Arrival::Queued)) => self.lot_follows(id, line),
            _ => self.activate(slot, now_ms),
        }
        slot
    }

    /// Takes out the runs that were skipped and are not in the log, in order.
    pub fn take_skipped(&mut self) -> Vec<(Source, Vec<(Offset, u64)>)> {
        let sources = self.sources.iter_mut();
        let skipped = sources.filter(|progress| !progress.skipped.is_empty());
        let in_order = skipped.map(|progress| {
            let mut runs = std::mem::take(&mut progress.skipped);
            // What was settled one by one came in any order.
            runs.sort_unstable();
            (progress.source, runs)
        });
        in_order.collect()
    }
}
