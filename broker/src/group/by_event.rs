//! A map by event in which neighbours lie side by side.
//!
//! A group has many events under way, and touches each several times: when it is
//! read, given, acked, and settled. They come and go in the order of their offsets.
//! So what is kept of them is in one vector, in which a place that became free is
//! taken again first, and is found by a table for each run of 64 offsets: what is
//! looked up after its neighbour is in the processor's cache.

use slab::Slab;
use sluice_proto::Offset;

use super::{board::EventId, by_number::ByNumber};

/// Offsets of one table.
const RUN: u64 = 64;
/// No event has this place.
const NOWHERE: u32 = u32::MAX;
/// With more places than these, an empty map gives back its memory.
const PLACES_KEPT: usize = 1024;

/// Where a value is, for as long as it is in the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

/// Values by event.
#[derive(Debug)]
pub(super) struct ByEvent<T> {
    values: Slab<(EventId, T)>,
    runs: ByNumber<(usize, u64), Box<Run>>,
}

/// The places of a run of offsets.
#[derive(Debug)]
struct Run {
    places: [u32; RUN as usize],
    taken: u32,
}

/// The run in which an offset is, and where in it.
fn run_of(id: EventId) -> ((usize, u64), usize) {
    let Offset(offset) = id.offset;
    ((id.source, offset / RUN), (offset % RUN) as usize)
}

impl<T> ByEvent<T> {
    /// Where the event's value is.
    pub(super) fn slot_of(&self, id: &EventId) -> Option<Slot> {
        let (run, at) = run_of(*id);
        let place = self.runs.get(&run)?.places[at];
        (place != NOWHERE).then_some(Slot(place))
    }

    /// What is at a place.
    pub(super) fn at(&self, place: Slot) -> Option<&(EventId, T)> {
        self.values.get(place.0 as usize)
    }

    /// What is at a place.
    pub(super) fn at_mut(&mut self, place: Slot) -> Option<&mut (EventId, T)> {
        self.values.get_mut(place.0 as usize)
    }

    pub(super) fn get(&self, id: &EventId) -> Option<&T> {
        let place = self.slot_of(id)?;
        self.at(place).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, id: &EventId) -> Option<&mut T> {
        let place = self.slot_of(id)?;
        self.at_mut(place).map(|(_, value)| value)
    }

    /// Puts a value in, instead of the one that was there.
    pub(super) fn insert(&mut self, id: EventId, value: T) -> Slot {
        let (run, at) = run_of(id);
        let run = self.runs.entry(run).or_insert_with(|| {
            Box::new(Run {
                places: [NOWHERE; RUN as usize],
                taken: 0,
            })
        });
        match run.places[at] {
            NOWHERE => {
                // Memory ends long before numbers do.
                let place = self.values.insert((id, value)) as u32;
                run.places[at] = place;
                run.taken += 1;
                Slot(place)
            }
            place => {
                self.values[place as usize].1 = value;
                Slot(place)
            }
        }
    }

    /// Takes a value out, and says where it was.
    pub(super) fn take(&mut self, id: &EventId) -> Option<(Slot, T)> {
        let (of, at) = run_of(*id);
        let run = self.runs.get_mut(&of)?;
        let place = std::mem::replace(&mut run.places[at], NOWHERE);
        if place == NOWHERE {
            return None;
        }
        run.taken -= 1;
        if run.taken == 0 {
            self.runs.remove(&of);
        }
        let (_, value) = self.values.remove(place as usize);
        if self.values.is_empty() && self.values.capacity() > PLACES_KEPT {
            *self = Self::default();
        }
        Some((Slot(place), value))
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Events and their values, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&EventId, &T)> {
        self.values.iter().map(|(_, (id, value))| (id, value))
    }

    /// In no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|(_, value)| value)
    }
}

impl<T> Default for ByEvent<T> {
    fn default() -> Self {
        Self {
            values: Slab::new(),
            runs: ByNumber::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_map(
            steps in proptest::collection::vec((0_u8..3, 0_usize..2, 0_u64..200), 0..300),
        ) {
            let mut map = ByEvent::default();
            let mut model = BTreeMap::new();
            for (at, (kind, source, offset)) in steps.into_iter().enumerate() {
                let id = EventId { source, offset: Offset(offset) };
                if kind == 0 {
                    prop_assert_eq!(map.take(&id).map(|(_, value)| value), model.remove(&id));
                    prop_assert_eq!(map.slot_of(&id), None);
                } else {
                    let place = map.insert(id, at);
                    model.insert(id, at);
                    prop_assert_eq!(map.slot_of(&id), Some(place));
                    prop_assert_eq!(map.at(place), Some(&(id, at)));
                }
                prop_assert_eq!(map.get(&id), model.get(&id));
                prop_assert_eq!(map.get_mut(&id), model.get_mut(&id));
                prop_assert_eq!(map.len(), model.len());
                prop_assert_eq!(map.is_empty(), model.is_empty());
                let all: BTreeMap<_, _> = map.iter().map(|(id, value)| (*id, *value)).collect();
                prop_assert_eq!(&all, &model);
                let runs: std::collections::BTreeSet<_> = model.keys().map(|id| run_of(*id).0).collect();
                prop_assert_eq!(map.runs.len(), runs.len());
            }
        }
    }

    #[test]
    fn an_empty_one_gives_back_what_many_took() {
        let ids = |count| {
            (0..count).map(|offset| EventId {
                source: 0,
                offset: Offset(offset),
            })
        };
        let mut map = ByEvent::default();
        for id in ids(10_000) {
            map.insert(id, ());
        }
        for id in ids(10_000) {
            map.take(&id);
        }
        assert_eq!((map.values.capacity(), map.runs.capacity()), (0, 0));
    }
}
