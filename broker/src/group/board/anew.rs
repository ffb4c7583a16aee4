//! The board of a group whose place in the log was moved.

use super::{Board, BoardRules, Parking, Place, Tokens};
use crate::commit::{SourceState, record::Source};

impl Board {
    /// The board of the same group as it is in the log now, with the lease tokens
    /// counted on, so that none is given twice.
    #[must_use]
    pub fn anew(
        &self,
        sources: Vec<(Source, SourceState)>,
        parking: Parking,
        now_ms: u64,
        wall_ahead_ms: u64,
    ) -> Self {
        let mut board = Self::new(
            sources,
            parking,
            self.epoch,
            self.rules,
            now_ms,
            wall_ahead_ms,
        );
        board.stirs = self.stirs + 1;
        board.leases = Tokens::new(self.epoch, self.leases.next_counter());
        board
    }

    /// What counts from now on. The lines in which events wait stay as they are.
    pub fn set_rules(&mut self, rules: BoardRules) {
        self.rules = BoardRules {
            ordering: self.rules.ordering,
            overtake: self.rules.overtake,
            ..rules
        };
    }

    /// Events whose settlement, or failed attempt, is on its way to the log. Walks
    /// over all events.
    #[must_use]
    pub fn settling(&self) -> usize {
        let under_way = |place: &Place| {
            matches!(
                place,
                Place::Settling(_) | Place::Failing | Place::Moving(_)
            )
        };
        let events = self.events.values();
        events.filter(|entry| under_way(&entry.place)).count()
    }
}
