//! Which offsets of one partition a group is done with.
//!
//! ```text
//!   0 ............ committed_end        gaps are not settled
//!   [all settled)  |   [run)     [run)        [run)   -> not settled
//! ```
//!
//! Runs are kept, not offsets, so that what is settled out of order costs memory
//! by the number of gaps only.

use std::{collections::BTreeMap, ops::Range};

use sluice_proto::Offset;

/// The settled offsets of one partition, for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckWindow {
    committed_end: Offset,
    /// Settled runs above `committed_end`, by their start: not empty, not
    /// touching each other nor `committed_end`.
    runs: BTreeMap<Offset, Offset>,
}

/// Parts that are no window: runs that are empty, out of order, overlap, or
/// touch what is before them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run {0:?} does not follow {1}")]
pub struct WindowError(Range<u64>, Offset);

impl AckWindow {
    /// A window in which everything below `start` is settled.
    #[must_use]
    pub fn new(start: Offset) -> Self {
        Self {
            committed_end: start,
            runs: BTreeMap::new(),
        }
    }

    /// A window of the parts that [`AckWindow::committed_end`] and
    /// [`AckWindow::runs`] gave.
    ///
    /// # Errors
    /// When they are not such.
    pub fn from_parts(
        committed_end: Offset,
        runs: impl IntoIterator<Item = Range<Offset>>,
    ) -> Result<Self, WindowError> {
        let mut window = Self::new(committed_end);
        let mut last_end = committed_end;
        for run in runs {
            if run.start <= last_end || run.end <= run.start {
                return Err(WindowError(run.start.0..run.end.0, last_end));
            }
            last_end = run.end;
            window.runs.insert(run.start, run.end);
        }
        Ok(window)
    }

    /// Every offset below is settled; this one is not.
    #[must_use]
    pub fn committed_end(&self) -> Offset {
        self.committed_end
    }

    /// The settled runs above, in order, half open.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = Range<Offset>> {
        self.runs.iter().map(|(start, end)| *start..*end)
    }

    /// Whether the offset is settled.
    #[must_use]
    pub fn is_settled(&self, offset: Offset) -> bool {
        offset < self.committed_end
            || self
                .runs
                .range(..=offset)
                .next_back()
                .is_some_and(|(_, end)| offset < *end)
    }

    /// Settles one offset. False when it was settled before.
    pub fn settle(&mut self, offset: Offset) -> bool {
        if self.is_settled(offset) {
            return false;
        }
        self.settle_range(offset, offset.next());
        true
    }

    /// Settles `first..end`, some of which may be settled already.
    pub fn settle_range(&mut self, first: Offset, end: Offset) {
        let mut start = first.max(self.committed_end);
        let mut end = end;
        if start >= end {
            return;
        }
        // Swallow the run that reaches into or touches this one from below …
        if let Some((&below, &below_end)) = self.runs.range(..=start).next_back()
            && below_end >= start
        {
            self.runs.remove(&below);
            start = below;
            end = end.max(below_end);
        }
        // … and those that begin within it or right after it.
        while let Some((&next, &next_end)) = self.runs.range(start..=end).next() {
            self.runs.remove(&next);
            end = end.max(next_end);
        }
        if start == self.committed_end {
            self.committed_end = end;
        } else {
            self.runs.insert(start, end);
        }
    }

    /// The offsets of `from..end` that are not settled, in order. What is settled
    /// is passed over by runs.
    pub fn unsettled(&self, from: Offset, end: Offset) -> impl Iterator<Item = Offset> {
        let mut next = from.max(self.committed_end);
        std::iter::from_fn(move || {
            if let Some((_, run_end)) = self.runs.range(..=next).next_back()
                && next < *run_end
            {
                next = *run_end;
            }
            let found = (next < end).then_some(next)?;
            next = next.next();
            Some(found)
        })
    }

    /// Where the settled run ends that `offset` is in; `offset` if it is not
    /// settled.
    #[must_use]
    pub fn settled_up_to(&self, offset: Offset) -> Offset {
        let below = self.runs.range(..=offset).next_back();
        let run_end = below.map_or(offset, |(_, end)| *end);
        offset.max(run_end).max(self.committed_end)
    }

    /// No offset at or above is settled.
    #[must_use]
    pub fn settled_end(&self) -> Offset {
        let last = self.runs.last_key_value();
        last.map_or(self.committed_end, |(_, end)| *end)
    }

    /// How many offsets below `end` are not settled.
    #[must_use]
    pub fn unsettled_below(&self, end: Offset) -> u64 {
        let all = end.0.saturating_sub(self.committed_end.0);
        let settled: u64 = self
            .runs
            .range(..end)
            .map(|(start, run_end)| run_end.0.min(end.0) - start.0)
            .sum();
        all - settled
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a set of offsets.
        #[test]
        fn it_is_a_set_of_offsets(
            start in 0_u64..20,
            ranges in proptest::collection::vec((0_u64..100, 0_u64..12), 0..60),
        ) {
            let mut window = AckWindow::new(Offset(start));
            let mut model: BTreeSet<u64> = (0..start).collect();
            for (first, length) in ranges {
                if length == 1 {
                    let fresh = model.insert(first);
                    prop_assert_eq!(window.settle(Offset(first)), fresh);
                } else {
                    window.settle_range(Offset(first), Offset(first + length));
                    model.extend(first..first + length);
                }
                let committed = (0..).find(|o| !model.contains(o)).expect("the model is finite");
                prop_assert_eq!(window.committed_end(), Offset(committed));
                for offset in 0..130 {
                    prop_assert_eq!(window.is_settled(Offset(offset)), model.contains(&offset));
                    let unsettled = (0..offset).filter(|o| !model.contains(o)).count() as u64;
                    prop_assert_eq!(window.unsettled_below(Offset(offset)), unsettled);
                }
                for offset in 0..130 {
                    let open = (offset..).find(|o| !model.contains(o)).expect("the model is finite");
                    prop_assert_eq!(window.settled_up_to(Offset(offset)), Offset(open));
                }
                let open: Vec<_> = window.unsettled(Offset(5), Offset(120)).map(|o| o.0).collect();
                let expected: Vec<_> = (5..120).filter(|o| !model.contains(o)).collect();
                prop_assert_eq!(open, expected);
                let last = model.last().map_or(0, |last| last + 1);
                prop_assert_eq!(window.settled_end(), Offset(last));
                let again = AckWindow::from_parts(window.committed_end(), window.runs());
                prop_assert_eq!(again, Ok(window.clone()));
            }
        }
    }

    #[test]
    fn parts_that_overlap_or_touch_are_refused() {
        let parts = |runs: &[(u64, u64)]| {
            let runs = runs.iter().map(|(a, b)| Offset(*a)..Offset(*b));
            AckWindow::from_parts(Offset(5), runs)
        };
        assert!(parts(&[(6, 7), (9, 12)]).is_ok());
        for bad in [
            &[(5, 7)][..],
            &[(4, 7)],
            &[(8, 8)],
            &[(9, 8)],
            &[(6, 8), (8, 9)],
            &[(9, 10), (6, 7)],
        ] {
            assert!(parts(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_last_offset_can_be_settled() {
        let mut window = AckWindow::new(Offset(0));
        window.settle_range(Offset(u64::MAX - 1), Offset(u64::MAX));
        assert_eq!(window.unsettled_below(Offset(u64::MAX)), u64::MAX - 1);
    }
}
