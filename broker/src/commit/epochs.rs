//! In which epoch of the log the events of a partition were appended, where a
//! crash may take events that readers have seen.
//!
//! ```text
//!   epoch 3          epoch 5      epoch 6
//!   0 ───────────────5 ───────────8 ─────────> offsets
//!                    └ up to 7 in epoch 3, before a power cut took 5 and 6
//! ```
//!
//! A position is an offset and the epoch that came with it. Everything below it
//! is what it was when no later epoch begins below it.

use sluice_proto::Offset;

/// How many epochs of a partition are remembered, the latest ones with appends.
pub(super) const EPOCHS_REMEMBERED: usize = 32;

/// Where epochs begin in a partition, of those that appended to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    /// Ascending in both.
    starts: Vec<EpochStart>,
    /// Older ones were forgotten.
    forgotten: bool,
}

/// The first offset of an epoch.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct EpochStart {
    /// The epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Its first offset.
    #[prost(uint64, tag = "2")]
    pub first: u64,
}

impl Epochs {
    /// Of what [`Epochs::starts`] gave.
    #[must_use]
    pub fn from_starts(starts: Vec<EpochStart>) -> Self {
        let forgotten = starts.len() >= EPOCHS_REMEMBERED;
        Self { starts, forgotten }
    }

    /// Where epochs begin, the latest ones, ascending.
    #[must_use]
    pub fn starts(&self) -> &[EpochStart] {
        &self.starts
    }

    /// Events are appended from `first` on, in an epoch that is not before that
    /// of the last ones.
    pub fn appended(&mut self, epoch: u64, first: Offset) {
        if self.starts.last().is_some_and(|last| last.epoch >= epoch) {
            return;
        }
        if self.starts.len() == EPOCHS_REMEMBERED {
            self.starts.remove(0);
        }
        let first = first.0;
        self.starts.push(EpochStart { epoch, first });
        self.forgotten |= self.starts.len() == EPOCHS_REMEMBERED;
    }

    /// The epoch in which the event at an offset was appended; 0 when that is
    /// forgotten, or nothing was appended yet.
    #[must_use]
    pub fn of(&self, offset: Offset) -> u64 {
        let after = self.starts.partition_point(|start| start.first <= offset.0);
        let at = after.checked_sub(1).and_then(|at| self.starts.get(at));
        at.map_or(0, |start| start.epoch)
    }

    /// Whether everything below `offset` is what it was for a reader that was
    /// told the offset in `epoch`.
    #[must_use]
    pub fn holds(&self, epoch: u64, offset: Offset) -> bool {
        let later = self.starts.partition_point(|start| start.epoch <= epoch);
        if later == 0 && self.forgotten {
            return offset.0 == 0;
        }
        let next = self.starts.get(later);
        next.is_none_or(|next| offset.0 <= next.first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a partition that remembers everything: a position holds only
        /// if nothing below it has changed, and always if it was never cut.
        #[test]
        fn a_position_holds_only_over_what_it_was(
            runs in proptest::collection::vec((0_u64..6, 0_u64..4), 1..60),
        ) {
            let mut epochs = Epochs::default();
            let mut events: Vec<u64> = Vec::new();
            // Positions: epoch, what was below them, and the lowest cut since.
            let mut told: Vec<(u64, Vec<u64>, usize)> = Vec::new();
            let mut epoch = 0;
            for (append, cut) in runs {
                epoch += 1;
                for _ in 0..append {
                    epochs.appended(epoch, Offset(events.len() as u64));
                    events.push(epoch);
                    told.push((epoch, events.clone(), events.len()));
                }
                for (offset, of) in events.iter().enumerate() {
                    let known = epochs.of(Offset(offset as u64));
                    prop_assert!(known == *of || (known == 0 && epochs.starts().len() == EPOCHS_REMEMBERED));
                }
                for (epoch, below, lowest) in &told {
                    let holds = epochs.holds(*epoch, Offset(below.len() as u64));
                    let same = events.get(..below.len()) == Some(&below[..]);
                    let at_end = *lowest == events.len() && below.len() > events.len();
                    // What ends before it is told by the end of the partition.
                    if below.len() <= events.len() && !at_end {
                        prop_assert!(!holds || same, "{below:?} {events:?} {epochs:?}");
                    }
                    let untouched = *lowest >= below.len();
                    let young = epochs.starts().len() < EPOCHS_REMEMBERED;
                    prop_assert!(holds || !untouched || !young);
                }
                // A power cut takes what this epoch has appended last.
                let kept = events.len() - cut.min(append) as usize;
                events.truncate(kept);
                for (_, _, lowest) in &mut told {
                    *lowest = kept.min(*lowest);
                }
                // The log that is replayed has only what was kept.
                epochs = Epochs::default();
                for (offset, epoch) in events.iter().enumerate() {
                    epochs.appended(*epoch, Offset(offset as u64));
                }
            }
        }
    }
}
