//! What is due when. Time is given in, as milliseconds of a clock that never
//! goes back.

use std::{collections::BTreeSet, hash::Hash};

use super::by_number::ByNumber;

/// Things, each due at one time. The broker gives them their names.
#[derive(Clone, Debug)]
pub struct Schedule<E> {
    by_time: BTreeSet<(u64, E)>,
    times: ByNumber<E, u64>,
}

impl<E: Copy + Ord + Hash> Schedule<E> {
    /// Nothing is due.
    #[must_use]
    pub fn new() -> Self {
        Self {
            by_time: BTreeSet::new(),
            times: ByNumber::default(),
        }
    }

    /// Makes a thing due, instead of when it was due before.
    pub fn set(&mut self, thing: E, due_ms: u64) {
        if let Some(before) = self.times.insert(thing, due_ms) {
            self.by_time.remove(&(before, thing));
        }
        self.by_time.insert((due_ms, thing));
    }

    /// Takes a thing out. False when it was not there.
    pub fn remove(&mut self, thing: E) -> bool {
        if self.times.is_empty() {
            return false;
        }
        match self.times.remove(&thing) {
            Some(due) => self.by_time.remove(&(due, thing)),
            None => false,
        }
    }

    /// Whether the thing is due at some time.
    #[must_use]
    pub fn contains(&self, thing: E) -> bool {
        self.times.contains_key(&thing)
    }

    /// When the next thing is due.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.by_time.first().map(|(due, _)| *due)
    }

    /// Takes out the thing that has been due for longest, if one is.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<E> {
        let (due, thing) = *self.by_time.first()?;
        if due > now_ms {
            return None;
        }
        self.by_time.pop_first();
        self.times.remove(&thing);
        Some(thing)
    }

    /// How many things are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }
}

impl<E: Copy + Ord + Hash> Default for Schedule<E> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_gives_what_is_due_in_order(
            steps in proptest::collection::vec((0_u8..3, 0_u8..10, 0_u64..100), 0..200),
        ) {
            let mut schedule = Schedule::new();
            let mut model: HashMap<u8, u64> = HashMap::new();
            for (kind, thing, time) in steps {
                match kind {
                    0 => {
                        schedule.set(thing, time);
                        model.insert(thing, time);
                    }
                    1 => prop_assert_eq!(schedule.remove(thing), model.remove(&thing).is_some()),
                    _ => {
                        let due = model.iter().map(|(t, d)| (*d, *t)).filter(|(d, _)| *d <= time).min();
                        prop_assert_eq!(schedule.pop_due(time), due.map(|(_, t)| t));
                        if let Some((_, t)) = due {
                            model.remove(&t);
                        }
                    }
                }
                prop_assert_eq!(schedule.next_due(), model.values().min().copied());
                prop_assert_eq!(schedule.len(), model.len());
            }
        }
    }
}
