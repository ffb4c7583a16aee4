//! Blocks under way: written in any order, done in the order of the log.
//!
//! ```text
//!  prepared ──> under way ──> written ──> durable
//!                    └───────────────────────^   (a write that syncs)
//! ```
//!
//! `written_end` and `durable_end` move over contiguous runs only. All blocks
//! under way are in one segment, so one sync makes durable all that are written.

use std::collections::VecDeque;

use super::{Position, When};

#[derive(Debug)]
pub(super) struct Flight {
    /// In order of position; those that are durable leave at the front.
    blocks: VecDeque<Block>,
    written_end: Position,
    durable_end: Position,
    /// Somebody is syncing the file.
    syncing: bool,
    /// Everything below is to be made durable, whatever was promised of it.
    wanted_end: Position,
}

#[derive(Debug)]
struct Block {
    end: Position,
    when: When,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    UnderWay,
    Written,
    Durable,
}

/// What a sync that was begun covers.
#[derive(Debug)]
pub(super) struct Covered(Vec<Position>);

impl Flight {
    /// Nothing is under way, and all below `end` is durable.
    pub(super) fn at(end: Position) -> Self {
        Self {
            blocks: VecDeque::new(),
            written_end: end,
            durable_end: end,
            syncing: false,
            wanted_end: Position(0),
        }
    }

    pub(super) fn written_end(&self) -> Position {
        self.written_end
    }

    pub(super) fn durable_end(&self) -> Position {
        self.durable_end
    }

    /// A block is on its way. Its end is above that of all before.
    pub(super) fn begin(&mut self, end: Position, when: When) {
        debug_assert!(self.blocks.back().is_none_or(|last| last.end < end));
        self.blocks.push_back(Block {
            end,
            when,
            state: State::UnderWay,
        });
    }

    /// The block that ends there is written, and durable too if `durable`.
    pub(super) fn landed(&mut self, end: Position, durable: bool) {
        let state = if durable {
            State::Durable
        } else {
            State::Written
        };
        if let Some(block) = self.blocks.iter_mut().find(|block| block.end == end) {
            block.state = state;
        }
        self.advance();
    }

    /// The next blocks are in a new segment, of which all below `end` is durable.
    /// Nothing may be under way.
    pub(super) fn go_on_at(&mut self, end: Position) {
        debug_assert!(self.blocks.is_empty());
        self.written_end = end;
        self.durable_end = end;
    }

    /// Has everything below `end` made durable.
    pub(super) fn want(&mut self, end: Position) {
        self.wanted_end = self.wanted_end.max(end);
    }

    /// Whether a block is written and not durable.
    pub(super) fn has_unsynced(&self) -> bool {
        self.blocks.iter().any(|b| b.state == State::Written)
    }

    /// Begins a sync if one is wanted: a block is written whose successor, or
    /// somebody else, waits for it to be durable. What it covers is to be given
    /// back with [`Flight::synced`].
    pub(super) fn begin_sync(&mut self) -> Option<Covered> {
        let durable = self.blocks.iter().rfind(|b| b.when == When::Durable);
        let wanted_end = durable.map_or(self.wanted_end, |last| last.end.max(self.wanted_end));
        let is_due = |b: &&Block| b.state == State::Written && b.end <= wanted_end;
        if self.syncing || !self.blocks.iter().any(|b| is_due(&b)) {
            return None;
        }
        self.syncing = true;
        let written = self.blocks.iter().filter(|b| b.state == State::Written);
        Some(Covered(written.map(|b| b.end).collect()))
    }

    /// A sync is done. What was written after it had begun is not covered.
    pub(super) fn synced(&mut self, covered: &Covered) {
        self.syncing = false;
        for block in &mut self.blocks {
            if covered.0.contains(&block.end) {
                block.state = State::Durable;
            }
        }
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(block) = self.blocks.front()
            && block.state == State::Durable
        {
            self.durable_end = block.end;
            self.blocks.pop_front();
        }
        self.written_end = self.written_end.max(self.durable_end);
        for block in &self.blocks {
            if block.state == State::UnderWay {
                break;
            }
            self.written_end = self.written_end.max(block.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(flight: &Flight) -> (u64, u64) {
        (flight.written_end().0, flight.durable_end().0)
    }

    #[test]
    fn ends_move_over_contiguous_runs_only() {
        let mut flight = Flight::at(Position(10));
        for end in [20, 30, 40] {
            flight.begin(Position(end), When::Durable);
        }
        flight.landed(Position(30), true);
        assert_eq!(ends(&flight), (10, 10));
        flight.landed(Position(20), true);
        assert_eq!(ends(&flight), (30, 30));
        flight.landed(Position(40), true);
        assert_eq!(ends(&flight), (40, 40));
        assert!(flight.begin_sync().is_none());
    }

    #[test]
    fn a_durable_block_takes_the_written_ones_before_it_along() {
        let mut flight = Flight::at(Position(10));
        flight.begin(Position(20), When::Written);
        flight.begin(Position(30), When::Written);
        flight.landed(Position(20), false);
        assert_eq!(ends(&flight), (20, 10));
        assert!(flight.begin_sync().is_none(), "nobody waits");
        flight.begin(Position(40), When::Durable);
        flight.landed(Position(40), true);
        assert_eq!(ends(&flight), (20, 10));
        let covered = flight.begin_sync().expect("a sync is due");
        assert!(flight.begin_sync().is_none(), "one at a time");
        // Written only after the sync had begun.
        flight.landed(Position(30), false);
        flight.synced(&covered);
        assert_eq!(ends(&flight), (40, 20));
        let covered = flight.begin_sync().expect("a sync is due");
        flight.synced(&covered);
        assert_eq!(ends(&flight), (40, 40));
    }

    #[test]
    fn what_is_wanted_is_synced_although_nothing_durable_follows() {
        let mut flight = Flight::at(Position(0));
        flight.begin(Position(10), When::Written);
        flight.want(Position(10));
        assert!(flight.begin_sync().is_none(), "it is under way");
        flight.landed(Position(10), false);
        let covered = flight.begin_sync().expect("a sync is due");
        flight.synced(&covered);
        assert_eq!(ends(&flight), (10, 10));
    }
}
