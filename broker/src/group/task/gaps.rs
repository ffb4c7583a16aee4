//! Follows what retention takes away: the group goes on after the gap, and tells
//! its members.

use std::ops::Range;

use sluice_proto::Offset;

use super::{GroupTask, SKIPS_AFTER_MS};
use crate::{commit::Partition, group::command::Outgoing};

impl GroupTask {
    /// Drops what is gone of the events that the group has met.
    pub(super) fn follow_starts(&mut self) {
        for source in 0..self.feeds.len() {
            let partition = self.feeds[source].partition();
            let start = partition.map_or(Offset(0), Partition::start_offset);
            let before = std::mem::replace(&mut self.starts[source], start);
            if before < start {
                let now = self.clock.now_ms();
                let dropped = self.board.drop_below(source, start, now);
                self.missed(source, before..start, dropped);
            }
        }
    }

    /// The scan met a gap, of which the group had not settled some.
    pub(super) fn scanned_gap(&mut self, source: usize, gap: Range<Offset>) {
        let window = self.board.window(source);
        let unsettled = window.unsettled_below(gap.end);
        let below = window.unsettled_below(gap.start);
        self.missed(source, gap, unsettled - below);
    }

    fn missed(&mut self, source: usize, gap: Range<Offset>, count: u64) {
        if count == 0 {
            return;
        }
        let due = self.clock.now_ms() + SKIPS_AFTER_MS;
        self.skips_due_ms.get_or_insert(due);
        self.dropped += count;
        let feed = &self.feeds[source];
        tracing::warn!(
            group = %self.group.name, topic = %feed.topic.name, partition = feed.id.0,
            first = %gap.start, end = %gap.end, count,
            "events were dropped before the group had settled them",
        );
        if !feed.filtered {
            return;
        }
        let partition = feed.id;
        for (_, member) in self.members.iter() {
            if let Some(outgoing) = &member.outgoing {
                // One that has no room can see the count.
                let _ = outgoing.try_send(Outgoing::Gap {
                    partition,
                    first: gap.start,
                    end: gap.end,
                    count,
                });
            }
        }
    }
}
