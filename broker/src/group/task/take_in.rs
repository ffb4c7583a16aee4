//! Takes in what pages bring: events get their places on the board, and their payloads
//! are kept.
//!
//! A page that another thread has read holds thousands of them. In a group with an order
//! they are taken in some at a time, and in between the task does what else there is, or
//! gives way: it would be busy for a good part of a millisecond otherwise, and its thread
//! with it, which reads acks from sockets besides, for which the next events wait.

use prost::Message;

use super::{GroupTask, SKIPS_AFTER_MS};
use crate::{
    commit::StoredEvent,
    filter::EvaluationError,
    group::{board::Arrived, note::DeadLetterNote, scan::Scanned},
};

/// Events that are taken in at once.
pub(super) const EVENTS_AT_ONCE: usize = 256;

/// What is left of a page.
pub(super) struct Arriving {
    source: usize,
    rest: Scanned,
}

impl GroupTask {
    /// A page was read by this thread, and is taken in as a whole.
    pub(super) fn page_read(&mut self, source: usize, mut page: Scanned) {
        self.look_at_page(source, &mut page);
        self.take_in(source, &mut page, usize::MAX);
    }

    /// A page has come that was read beside the task. It is on its way until all of it is
    /// taken in.
    pub(super) fn page_came(&mut self, source: usize, mut page: Scanned) {
        self.look_at_page(source, &mut page);
        self.arriving.push_back(Arriving { source, rest: page });
    }

    /// Takes in some of what has come: of several pages all but the last, as they count
    /// against no budget while they wait. True when there is more.
    pub(in crate::group) fn take_arriving(&mut self) -> bool {
        while let Some(mut page) = self.arriving.pop_front() {
            let by_parts = self.has_order() && self.arriving.is_empty();
            // Without an order the messages are the longer, the more is ready, and nobody
            // waits for this task.
            let count = if by_parts { EVENTS_AT_ONCE } else { usize::MAX };
            self.take_in(page.source, &mut page.rest, count);
            if !page.rest.matched.is_empty() {
                self.arriving.push_front(page);
                return true;
            }
            self.page_is_through(page.source);
        }
        false
    }

    /// What has come is of a position that was moved.
    pub(super) fn forget_arriving(&mut self) {
        for page in std::mem::take(&mut self.arriving) {
            self.page_is_through(page.source);
        }
    }

    /// What a page tells beside its events.
    fn look_at_page(&mut self, source: usize, page: &mut Scanned) {
        if let Some(gap) = page.gap.take() {
            self.scanned_gap(source, gap);
        }
        if page.overran {
            let partition = self.board.source(source).partition.0;
            let why = format!(
                "{} (partition {partition}, offset {})",
                EvaluationError::OverBudget,
                page.next.0
            );
            tracing::warn!(group = %self.group.name, %why, "the filter is stopped");
            self.disabled = Some(why);
        }
        let counters = std::mem::take(&mut page.counters);
        self.tallies[source].filtered += counters.seen - counters.matched;
        self.counters.add(counters);
        let standing = self.standing();
        let now = self.clock.now_ms();
        self.pace.read(page.matched.len(), standing, now);
    }

    /// Takes in the first `count` events of a page, and what it skips before the next one.
    fn take_in(&mut self, source: usize, page: &mut Scanned, count: usize) {
        let now = self.clock.now_ms();
        let is_parking = source == self.board.parking_source();
        let arrived = page.with_keys().take(count).map(|(event, key)| Arrived {
            offset: event.offset,
            key,
            size: event.event.len() as u32,
            parked: is_parking && is_parked(event),
        });
        let next = page.next_behind(count);
        let new = self.board.scanned(source, next, arrived, now);
        if self.board.has_skipped(source) {
            self.skips_due_ms.get_or_insert(now + SKIPS_AFTER_MS);
        }
        let mut new = new.into_iter().peekable();
        for event in page.take_first(count) {
            if new
                .peek()
                .is_some_and(|seat| seat.id.offset == event.offset)
                && let Some(seat) = new.next()
                && let Some(at) = self.payloads.keep_ahead(event)
            {
                self.board.keep_new(seat, at);
            }
        }
    }
}

fn is_parked(event: &StoredEvent) -> bool {
    let note = DeadLetterNote::decode(event.note.clone());
    note.is_ok_and(|note| note.parked.is_some())
}
