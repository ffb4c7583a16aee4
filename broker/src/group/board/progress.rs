//! How far a group has come in one source.

use std::collections::{BTreeMap, BTreeSet};

use sluice_proto::Offset;

use crate::commit::{
    AckWindow,
    record::{AttemptFailed, Source},
};

/// One source of the group.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) source: Source,
    pub(super) window: AckWindow,
    /// The next offset to look at.
    pub(super) scan_next: Offset,
    /// The highest offset that was ever leased, and one.
    pub(super) delivered_end: Offset,
    /// Events on the board that lie here.
    pub(super) unsettled: usize,
    /// What the scan met last was skipped.
    pub(super) ends_skipped: bool,
    /// Failed attempts from before the broker's start, until they are met.
    pub(super) attempts: BTreeMap<Offset, Vec<AttemptFailed>>,
    /// Events that are on the board already when the scan meets them.
    pub(super) ahead: BTreeSet<Offset>,
    /// Runs that were skipped, by the filter or as they are gone, and are not in the log.
    pub(super) skipped: Vec<(Offset, u64)>,
}

impl Progress {
    /// Settles `from..to`, but for what is on the board already. It goes to the
    /// log later.
    pub(super) fn skip(&mut self, from: Offset, to: Offset) {
        let mut from = from;
        while from < to {
            let there = self.ahead.range(from..to).next().copied();
            let end = there.unwrap_or(to);
            if from < end {
                self.window.settle_range(from, end);
                let count = end.0 - from.0;
                self.note_skipped(from, count);
            }
            // What lies at `to` is not of this range, and still to be met.
            let Some(there) = there else { return };
            self.ahead.remove(&there);
            from = there.next();
        }
    }

    /// An event that was met is settled without a delivery. It goes to the log
    /// later.
    pub(super) fn skip_one(&mut self, offset: Offset) {
        self.note_skipped(offset, 1);
    }

    fn note_skipped(&mut self, from: Offset, count: u64) {
        match self.skipped.last_mut() {
            Some((first, length)) if first.0 + *length == from.0 => *length += count,
            _ => self.skipped.push((from, count)),
        }
    }
}
