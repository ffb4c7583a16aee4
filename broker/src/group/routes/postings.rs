//! Which of a topic's newest events have which of the values that groups look
//! for. Knows neither events nor groups: a value is a number, its [`Slot`].

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
};

use sluice_proto::Offset;

/// A value of an attribute that somebody looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) u32);

/// An event that has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Posting {
    pub(super) offset: Offset,
    /// Bytes of the event.
    pub(super) size: u32,
}

/// Events of one partition that have one of some values.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// In order.
    pub(super) offsets: Vec<Offset>,
    /// Where to go on: no other event below has any of the values.
    pub(super) next: Offset,
}

/// The postings of a topic, the newest ones of all its partitions.
#[derive(Debug)]
pub(super) struct Postings {
    partitions: Vec<OfPartition>,
    /// Every posting, oldest first; the offset stands first in its list.
    order: VecDeque<(u32, Slot)>,
}

#[derive(Debug)]
struct OfPartition {
    /// The events that are covered, without a hole.
    covered: Range<Offset>,
    lists: HashMap<Slot, List>,
}

#[derive(Debug)]
struct List {
    /// Events before were not looked at for this value.
    since: Offset,
    postings: VecDeque<Posting>,
}

impl Postings {
    /// Covers nothing yet, and begins at these offsets.
    pub(super) fn new(begin: impl IntoIterator<Item = Offset>) -> Self {
        let of = |begin| OfPartition {
            covered: begin..begin,
            lists: HashMap::new(),
        };
        Self {
            partitions: begin.into_iter().map(of).collect(),
            order: VecDeque::new(),
        }
    }

    /// Postings of all partitions.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The first offset that is not covered.
    pub(super) fn end(&self, partition: usize) -> Offset {
        self.partitions[partition].covered.end
    }

    /// From here on, events are looked at for this value too.
    pub(super) fn open(&mut self, slot: Slot) {
        for of in &mut self.partitions {
            let list = List {
                since: of.covered.end,
                postings: VecDeque::new(),
            };
            of.lists.insert(slot, list);
        }
    }

    /// Nobody looks for this value any more.
    pub(super) fn close(&mut self, slot: Slot) {
        for of in &mut self.partitions {
            of.lists.remove(&slot);
        }
        self.order.retain(|(_, of)| *of != slot);
    }

    /// Covers one event more, which has these values. If others are missing before it,
    /// nothing before it is covered any more.
    pub(super) fn push(&mut self, partition: usize, event: Posting, slots: &[Slot]) {
        if event.offset != self.end(partition) {
            self.begin_at(partition, event.offset);
        }
        let of = &mut self.partitions[partition];
        of.covered.end = event.offset.next();
        for slot in slots {
            if let Some(list) = of.lists.get_mut(slot) {
                list.postings.push_back(event);
                self.order.push_back((partition as u32, *slot));
            }
        }
    }

    /// Covers events from here on alone.
    pub(super) fn begin_at(&mut self, partition: usize, offset: Offset) {
        let of = &mut self.partitions[partition];
        of.covered = offset..offset;
        for list in of.lists.values_mut() {
            list.postings.clear();
        }
        self.order.retain(|(at, _)| *at as usize != partition);
    }

    /// Forgets the oldest posting, and so covers less. False if there is none.
    pub(super) fn forget_one(&mut self) -> bool {
        let Some((partition, slot)) = self.order.pop_front() else {
            return false;
        };
        let of = &mut self.partitions[partition as usize];
        let gone = of.lists.get_mut(&slot).and_then(|l| l.postings.pop_front());
        if let Some(gone) = gone {
            of.covered.start = of.covered.start.max(gone.offset.next());
        }
        true
    }

    /// Whether all is known of these values in events from `from` on, up to where
    /// the covered ones end.
    pub(super) fn covers(&self, partition: usize, slots: &[Slot], from: Offset) -> bool {
        let of = &self.partitions[partition];
        let since = |slot| of.lists.get(slot).is_some_and(|list| list.since <= from);
        of.covered.start <= from && slots.iter().all(since)
    }

    /// Events from `from` on that have one of the values: at most so many, and of
    /// so many bytes, or one. `None` where that is not covered.
    pub(super) fn find(
        &self,
        partition: usize,
        slots: &[Slot],
        from: Offset,
        events_max: usize,
        bytes_max: usize,
    ) -> Option<Found> {
        if !self.covers(partition, slots, from) {
            return None;
        }
        let of = &self.partitions[partition];
        let mut lists: Vec<_> = slots
            .iter()
            .filter_map(|slot| of.lists.get(slot))
            .map(|list| {
                let at = list.postings.partition_point(|of| of.offset < from);
                list.postings.range(at..).peekable()
            })
            .collect();
        let mut found = Found {
            offsets: Vec::new(),
            next: from.max(of.covered.end),
        };
        let mut bytes = 0;
        loop {
            let first = lists.iter_mut().enumerate();
            let first = first.filter_map(|(at, list)| Some((list.peek()?.offset, at)));
            let Some((_, at)) = first.min() else {
                return Some(found);
            };
            let Some(posting) = lists[at].next() else {
                return Some(found);
            };
            bytes += posting.size as usize;
            let full = found.offsets.len() >= events_max || bytes > bytes_max;
            if full && let Some(last) = found.offsets.last() {
                found.next = last.next();
                return Some(found);
            }
            found.offsets.push(posting.offset);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLOTS: u32 = 4;

    #[derive(Clone, Debug)]
    enum Step {
        /// An event with this value, and so many missing before it.
        Push {
            value: u32,
            missing: u64,
        },
        Forget,
        Close(u32),
        Open(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            12 => (0..SLOTS + 2).prop_map(|value| Step::Push { value, missing: 0 }),
            1 => (0..SLOTS, 1..3_u64).prop_map(|(value, missing)| Step::Push { value, missing }),
            3 => Just(Step::Forget),
            1 => (0..SLOTS).prop_map(Step::Close),
            1 => (0..SLOTS).prop_map(Step::Open),
        ]
    }

    proptest! {
        /// What is found is what a look at every event finds.
        #[test]
        fn they_find_what_is_there(
            steps in proptest::collection::vec((0..2_usize, step()), 0..120),
            wanted in proptest::collection::btree_set(0..SLOTS, 1..3),
            events_max in 1..6_usize,
        ) {
            let mut postings = Postings::new([Offset(5), Offset(0)]);
            let mut events: [Vec<(Offset, u32)>; 2] = Default::default();
            let mut ends = [Offset(5), Offset(0)];
            let mut open = [false; SLOTS as usize];
            for (partition, step) in steps {
                match step {
                    Step::Push { value, missing } => {
                        let offset = Offset(ends[partition].0 + missing);
                        let slots = [Slot(value)];
                        let known = if value < SLOTS { &slots[..] } else { &[] };
                        postings.push(partition, Posting { offset, size: 1 }, known);
                        events[partition].push((offset, value));
                        ends[partition] = offset.next();
                    }
                    Step::Forget => drop(postings.forget_one()),
                    Step::Close(slot) => {
                        postings.close(Slot(slot));
                        open[slot as usize] = false;
                    }
                    Step::Open(slot) if !open[slot as usize] => {
                        postings.open(Slot(slot));
                        open[slot as usize] = true;
                    }
                    Step::Open(_) => {}
                }
                let slots: Vec<Slot> = wanted.iter().copied().map(Slot).collect();
                let lists = postings.partitions.iter().flat_map(|of| of.lists.values());
                prop_assert_eq!(postings.len(), lists.map(|list| list.postings.len()).sum::<usize>());
                for partition in 0..2 {
                    prop_assert_eq!(postings.end(partition), ends[partition]);
                    for from in 0..=ends[partition].0 + 1 {
                        let from = Offset(from);
                        let found = postings.find(partition, &slots, from, events_max, usize::MAX);
                        let Some(found) = found else { continue };
                        prop_assert!(slots.iter().all(|slot| open[slot.0 as usize]));
                        let of = events[partition].iter();
                        let all: Vec<Offset> = of
                            .filter(|(at, value)| *at >= from && wanted.contains(value))
                            .map(|(at, _)| *at)
                            .collect();
                        let expected = &all[..all.len().min(events_max)];
                        prop_assert_eq!(&found.offsets[..], expected);
                        let next = match expected.last() {
                            Some(last) if expected.len() < all.len() => last.next(),
                            _ => from.max(ends[partition]),
                        };
                        prop_assert_eq!(found.next, next);
                        // Without a hole, so that all between can be counted.
                        let between = events[partition].iter();
                        let between = between.filter(|(at, _)| from <= *at && *at < next).count();
                        prop_assert_eq!(between as u64, next.0 - from.0);
                    }
                }
            }
            while postings.forget_one() {}
            prop_assert_eq!(postings.len(), 0);
        }
    }

    #[test]
    fn what_is_open_is_covered_from_there_on() {
        let mut postings = Postings::new([Offset(0)]);
        let event = |offset| Posting {
            offset: Offset(offset),
            size: 10,
        };
        postings.push(0, event(0), &[]);
        postings.open(Slot(1));
        postings.push(0, event(1), &[Slot(1)]);
        postings.push(0, event(2), &[]);
        assert!(!postings.covers(0, &[Slot(1)], Offset(0)));
        let found = postings.find(0, &[Slot(1)], Offset(1), 9, 9).unwrap();
        assert_eq!((found.offsets, found.next), (vec![Offset(1)], Offset(3)));
        assert!(postings.forget_one());
        assert!(!postings.covers(0, &[Slot(1)], Offset(1)));
        assert!(postings.covers(0, &[Slot(1)], Offset(2)));
    }

    #[test]
    fn an_event_that_is_too_large_comes_alone() {
        let mut postings = Postings::new([Offset(0)]);
        postings.open(Slot(0));
        for (offset, size) in [(0, 50), (1, 5), (2, 5), (3, 5)] {
            let offset = Offset(offset);
            postings.push(0, Posting { offset, size }, &[Slot(0)]);
        }
        let find = |from| postings.find(0, &[Slot(0)], Offset(from), 9, 12).unwrap();
        assert_eq!(find(0).offsets, [Offset(0)]);
        assert_eq!(find(1).offsets, [Offset(1), Offset(2)]);
        assert_eq!(find(1).next, Offset(3));
        assert_eq!(find(3).offsets, [Offset(3)]);
        assert_eq!(find(3).next, Offset(4));
    }
}
