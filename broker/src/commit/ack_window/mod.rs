//! Which offsets of one partition a group is done with.
//!
//! ```text
//!   0 ............ committed_end        gaps are not settled
//!   [all settled)  |   [run)     [run)        [run)   -> not settled
//!                  | bits ........ limit | runs
//! ```
//!
//! Near `committed_end` there is a bit for each offset, see [`near`]. Above, runs
//! are kept, not offsets, so that what is settled out of order costs memory by the
//! number of gaps only.

mod near;

use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
};

use sluice_proto::Offset;

use self::near::Near;

/// The settled offsets of one partition, for one group.
#[derive(Clone, Debug)]
pub struct AckWindow {
    near: Near,
    /// Settled runs from the limit of what is near on, by their start: not empty, not
    /// touching each other.
    far: BTreeMap<Offset, Offset>,
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
            near: Near::new(start),
            far: BTreeMap::new(),
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
            window.add(run.start, run.end);
        }
        Ok(window)
    }

    /// Every offset below is settled; this one is not.
    #[must_use]
    pub fn committed_end(&self) -> Offset {
        self.near.from()
    }

    /// The settled runs above, in order, half open.
    pub fn runs(&self) -> impl Iterator<Item = Range<Offset>> {
        let mut from = self.committed_end();
        std::iter::from_fn(move || {
            let start = self.first_settled(from)?;
            from = self.settled_up_to(start);
            Some(start..from)
        })
    }

    /// How many [`AckWindow::runs`] there are.
    #[must_use]
    pub fn run_count(&self) -> usize {
        let limit = self.near.limit();
        let goes_on = self.far.contains_key(&limit) && self.near.settled_end() == limit;
        self.near.runs() + self.far.len() - usize::from(goes_on)
    }

    fn first_settled(&self, from: Offset) -> Option<Offset> {
        let far = || self.far.range(from..).next().map(|(start, _)| *start);
        self.near.first_settled(from).or_else(far)
    }

    /// Whether the offset is settled.
    #[must_use]
    pub fn is_settled(&self, offset: Offset) -> bool {
        if offset < self.near.limit() {
            return self.near.is_settled(offset);
        }
        let below = self.far.range(..=offset).next_back();
        below.is_some_and(|(_, end)| offset < *end)
    }

    /// Settles one offset. False when it was settled before.
    pub fn settle(&mut self, offset: Offset) -> bool {
        offset >= self.committed_end() && self.add(offset, offset.next())
    }

    /// Settles `first..end`, some of which may be settled already.
    pub fn settle_range(&mut self, first: Offset, end: Offset) {
        let start = first.max(self.committed_end());
        if start < end {
            self.add(start, end);
        }
    }

    /// Settles `start..end`, which is not empty nor begins below `committed_end`. False
    /// when all of it was settled before.
    fn add(&mut self, start: Offset, end: Offset) -> bool {
        if start == self.committed_end() {
            self.begin_at(self.settled_up_to(end));
            return true;
        }
        let limit = self.near.limit();
        let mut fresh = false;
        if start < limit {
            fresh = self.near.settle(start, end.min(limit));
        }
        if end > limit {
            fresh |= self.add_far(start.max(limit), end);
        }
        fresh
    }

    /// Everything below `end` is settled, and `end` is not.
    fn begin_at(&mut self, end: Offset) {
        self.near.begin_at(end);
        let limit = self.near.limit();
        while let Some(run) = self.far.first_entry()
            && *run.key() < limit
        {
            let (start, run_end) = run.remove_entry();
            let start = start.max(end);
            if start < run_end {
                self.near.settle(start, run_end.min(limit));
            }
            if run_end > limit {
                self.far.insert(limit, run_end);
            }
        }
    }

    /// Settles `start..end`, which is not near. Runs are changed where they are.
    fn add_far(&mut self, start: Offset, end: Offset) -> bool {
        let below = self.far.range_mut(..=start).next_back();
        let run = match below.filter(|(_, run_end)| **run_end >= start) {
            Some((_, run_end)) if *run_end >= end => return false,
            Some((run, run_end)) => {
                *run_end = end;
                *run
            }
            None => {
                self.far.insert(start, end);
                start
            }
        };
        self.swallow_behind(run, end);
        true
    }

    /// Takes the runs that begin within the one at `run`, or where it ends, into it.
    fn swallow_behind(&mut self, run: Offset, end: Offset) {
        let mut whole_end = end;
        while let Some((&next, &next_end)) = self
            .far
            .range((Bound::Excluded(run), Bound::Included(whole_end)))
            .next()
        {
            self.far.remove(&next);
            whole_end = whole_end.max(next_end);
        }
        if whole_end > end {
            self.far.insert(run, whole_end);
        }
    }

    /// The offsets of `from..end` that are not settled, in order. What is settled
    /// is passed over by runs.
    pub fn unsettled(&self, from: Offset, end: Offset) -> impl Iterator<Item = Offset> {
        let mut next = from;
        std::iter::from_fn(move || {
            let found = self.settled_up_to(next);
            let found = (found < end).then_some(found)?;
            next = found.next();
            Some(found)
        })
    }

    /// Where the settled run ends that `offset` is in; `offset` if it is not
    /// settled.
    #[must_use]
    pub fn settled_up_to(&self, offset: Offset) -> Offset {
        let limit = self.near.limit();
        let mut open = offset.max(self.committed_end());
        if open < limit {
            open = self.near.first_open(open);
        }
        if open < limit {
            return open;
        }
        let below = self.far.range(..=open).next_back();
        below.map_or(open, |(_, end)| open.max(*end))
    }

    /// No offset at or above is settled.
    #[must_use]
    pub fn settled_end(&self) -> Offset {
        let last = self.far.last_key_value();
        last.map_or_else(|| self.near.settled_end(), |(_, end)| *end)
    }

    /// How many offsets below `end` are not settled.
    #[must_use]
    pub fn unsettled_below(&self, end: Offset) -> u64 {
        let all = end.0.saturating_sub(self.committed_end().0);
        let far: u64 = self
            .far
            .range(..end)
            .map(|(start, run_end)| run_end.0.min(end.0) - start.0)
            .sum();
        all - self.near.settled_below(end) - far
    }
}

/// By what is settled, however it is kept.
impl PartialEq for AckWindow {
    fn eq(&self, other: &Self) -> bool {
        self.committed_end() == other.committed_end() && self.runs().eq(other.runs())
    }
}

impl Eq for AckWindow {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{near::SPAN, *};
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
                prop_assert_eq!(window.run_count(), window.runs().count());
                let again = AckWindow::from_parts(window.committed_end(), window.runs());
                prop_assert_eq!(again, Ok(window.clone()));
            }
        }

        /// The same across what is near and what is not, by runs.
        #[test]
        fn near_and_far_are_one(
            start in 0..3 * SPAN,
            ranges in proptest::collection::vec(
                (0_u64..40, 0..SPAN / 16, prop_oneof![Just(1), 1..300_u64, 1..SPAN / 4], any::<bool>()),
                0..60,
            ),
        ) {
            let mut window = AckWindow::new(Offset(start));
            // Settled runs, in order, that do not touch each other.
            let mut model: Vec<_> = std::iter::once(0..start).collect();
            for (step, fine, length, next) in ranges {
                let first = match next {
                    // Where it goes on, which moves the rest nearer.
                    true => window.committed_end().0,
                    false => start + step * (SPAN / 16) + fine,
                };
                let range = first..first + length;
                let known = model.iter().any(|run| run.start <= range.start && range.end <= run.end);
                if length == 1 {
                    prop_assert_eq!(window.settle(Offset(first)), !known);
                } else {
                    window.settle_range(Offset(first), Offset(range.end));
                }
                let joined = model.iter().filter(|run| run.start <= range.end && range.start <= run.end);
                let joined = joined.fold(range.clone(), |all, run| {
                    all.start.min(run.start)..all.end.max(run.end)
                });
                model.retain(|run| run.end < joined.start || joined.end < run.start);
                model.push(joined);
                model.sort_by_key(|run| run.start);

                prop_assert_eq!(window.committed_end(), Offset(model[0].end));
                let runs: Vec<_> = window.runs().map(|run| run.start.0..run.end.0).collect();
                prop_assert_eq!(&runs[..], &model[1..]);
                prop_assert_eq!(window.run_count(), runs.len());
                let last = model.last().expect("there is one").end;
                prop_assert_eq!(window.settled_end(), Offset(last));
                let edges = model.iter().flat_map(|run| [run.start, run.end]);
                for at in edges.chain([window.near.limit().0]) {
                    for at in at.saturating_sub(1)..at + 2 {
                        let run = model.iter().find(|run| run.contains(&at));
                        prop_assert_eq!(window.is_settled(Offset(at)), run.is_some());
                        let open = run.map_or(at, |run| run.end);
                        prop_assert_eq!(window.settled_up_to(Offset(at)), Offset(open));
                        let below: u64 = model.iter().map(|run| run.end.min(at).saturating_sub(run.start)).sum();
                        prop_assert_eq!(window.unsettled_below(Offset(at)), at - below);
                    }
                }
                let again = AckWindow::from_parts(window.committed_end(), window.runs());
                prop_assert_eq!(again, Ok(window.clone()));
            }
        }
    }

    #[test]
    fn what_is_all_settled_takes_no_memory() {
        let mut window = AckWindow::new(Offset(0));
        for offset in (1..SPAN).step_by(2) {
            window.settle(Offset(offset));
        }
        assert_eq!(window.run_count() as u64, SPAN / 2);
        window.settle_range(Offset(0), Offset(SPAN));
        assert_eq!((window.run_count(), window.near.words()), (0, 0));
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

        let start = u64::MAX - 200;
        let mut window = AckWindow::new(Offset(start));
        for offset in (start + 1..u64::MAX).step_by(2) {
            window.settle(Offset(offset));
        }
        assert_eq!(window.runs().count(), 100);
        assert_eq!(window.run_count(), 100);
        assert_eq!(window.unsettled_below(Offset(u64::MAX)), 100);
        window.settle_range(Offset(0), Offset(u64::MAX));
        assert_eq!(window, AckWindow::new(Offset(u64::MAX)));
    }
}
