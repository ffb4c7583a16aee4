//! One event of a line at a time, in order of arrival. A line is a key, or a
//! whole partition.
//!
//! ```text
//!             arrive                     arrive
//!   (nobody) ───────> held by the first ───────> held, others in line
//!       ^                   │ release                  │ release
//!       └───────────────────┘   the next in line holds ┘
//! ```
//!
//! Who holds a line keeps it while it is delivered, and while it waits for
//! another attempt, until it is settled; unless the group lets others overtake
//! what waits: then it steps aside, and comes back to the front of the line.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::Hash,
};

/// Locks by line. `K` names a line, `E` an event.
#[derive(Clone, Debug)]
pub struct KeyLocks<K, E> {
    keys: HashMap<K, Line<E>>,
    waiting: usize,
}

#[derive(Clone, Debug)]
struct Line<E> {
    holder: E,
    /// When it came to hold the line.
    since_ms: u64,
    next: VecDeque<E>,
}

/// Whether an event that arrived may be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It holds its line now.
    Free,
    /// It is in line.
    Queued,
}

/// A line was released by an event that does not hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the line is not held by this event")]
pub struct NotHeld;

impl<K: Eq + Hash, E: Copy + PartialEq> KeyLocks<K, E> {
    /// No lines.
    #[must_use]
    pub fn new() -> Self {
        Self {
            keys: HashMap::new(),
            waiting: 0,
        }
    }

    /// An event of the line arrives, after all that arrived before.
    pub fn arrive(&mut self, key: K, event: E, now_ms: u64) -> Arrival {
        self.enter(key, event, now_ms, VecDeque::push_back)
    }

    /// An event that stepped aside has its turn again, before all that are in
    /// line, and after the one that holds it.
    pub fn come_back(&mut self, key: K, event: E, now_ms: u64) -> Arrival {
        self.enter(key, event, now_ms, VecDeque::push_front)
    }

    fn enter(&mut self, key: K, event: E, now_ms: u64, push: fn(&mut VecDeque<E>, E)) -> Arrival {
        match self.keys.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(Line {
                    holder: event,
                    since_ms: now_ms,
                    next: VecDeque::new(),
                });
                Arrival::Free
            }
            Entry::Occupied(mut line) => {
                push(&mut line.get_mut().next, event);
                self.waiting += 1;
                Arrival::Queued
            }
        }
    }

    /// The holder is settled, or steps aside. Returns who holds the line now.
    ///
    /// # Errors
    /// When the event does not hold it; nothing has changed then.
    pub fn release(&mut self, key: &K, event: E, now_ms: u64) -> Result<Option<E>, NotHeld> {
        let line = self.keys.get_mut(key).ok_or(NotHeld)?;
        if line.holder != event {
            return Err(NotHeld);
        }
        match line.next.pop_front() {
            Some(next) => {
                line.holder = next;
                line.since_ms = now_ms;
                self.waiting -= 1;
                Ok(Some(next))
            }
            None => {
                self.keys.remove(key);
                Ok(None)
            }
        }
    }

    /// Who holds the line.
    #[must_use]
    pub fn holder(&self, key: &K) -> Option<&E> {
        self.keys.get(key).map(|line| &line.holder)
    }

    /// Since when the line has the holder that it has.
    #[must_use]
    pub fn held_since(&self, key: &K) -> Option<u64> {
        self.keys.get(key).map(|line| line.since_ms)
    }

    /// Who is in line behind its holder, in order.
    pub fn waiting_behind(&self, key: &K) -> impl Iterator<Item = &E> {
        self.keys.get(key).into_iter().flat_map(|line| &line.next)
    }

    /// Takes an event out of a line that it does not hold. Looks through the
    /// line.
    pub fn withdraw(&mut self, key: &K, event: E) {
        if let Some(line) = self.keys.get_mut(key) {
            let before = line.next.len();
            line.next.retain(|waiting| *waiting != event);
            self.waiting -= before - line.next.len();
        }
    }

    /// Events in line behind others.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

impl<K: Eq + Hash, E: Copy + PartialEq> Default for KeyLocks<K, E> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Arrive,
        Release,
        Aside,
        Back,
        Withdraw,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Arrive),
            2 => Just(Step::Release),
            1 => Just(Step::Aside),
            1 => Just(Step::Back),
            1 => Just(Step::Withdraw),
        ]
    }

    proptest! {
        /// Each line hands out its events one at a time, in order of arrival, and
        /// those that stepped aside before the others.
        #[test]
        fn events_of_a_line_go_one_at_a_time_in_order(
            steps in proptest::collection::vec((step(), 0_u8..4), 0..200),
        ) {
            let mut locks = KeyLocks::new();
            let mut model: HashMap<u8, VecDeque<usize>> = HashMap::new();
            let mut aside: HashMap<u8, Vec<usize>> = HashMap::new();
            // Since when each line has its holder.
            let mut since: HashMap<u8, (usize, u64)> = HashMap::new();
            for (event, (step, key)) in steps.into_iter().enumerate() {
                let now = event as u64;
                let line = model.entry(key).or_default();
                let aside = aside.entry(key).or_default();
                let arrival = if line.is_empty() { Arrival::Free } else { Arrival::Queued };
                match step {
                    Step::Arrive => {
                        line.push_back(event);
                        prop_assert_eq!(locks.arrive(key, event, now), arrival);
                    }
                    Step::Back => if let Some(event) = aside.pop() {
                        line.insert(line.len().min(1), event);
                        prop_assert_eq!(locks.come_back(key, event, now), arrival);
                    },
                    Step::Withdraw => if line.len() > 1 {
                        let last = line.pop_back().expect("there are two");
                        locks.withdraw(&key, last);
                    },
                    Step::Release | Step::Aside => match line.pop_front() {
                        Some(holder) => {
                            if let Some(other) = line.front() {
                                prop_assert_eq!(locks.release(&key, *other, now), Err(NotHeld));
                            }
                            let next = line.front().copied();
                            prop_assert_eq!(locks.release(&key, holder, now), Ok(next));
                            if let Step::Aside = step {
                                aside.push(holder);
                            }
                        }
                        None => prop_assert_eq!(locks.release(&key, event, now), Err(NotHeld)),
                    },
                }
                match line.front() {
                    Some(holder) if since.get(&key).is_none_or(|(of, _)| of != holder) => {
                        since.insert(key, (*holder, now));
                    }
                    Some(_) => {}
                    None => drop(since.remove(&key)),
                }
                prop_assert_eq!(locks.held_since(&key), since.get(&key).map(|(_, at)| *at));
                let behind: VecDeque<_> = locks.waiting_behind(&key).copied().collect();
                let whole: VecDeque<_> = locks.holder(&key).copied().into_iter().chain(behind).collect();
                prop_assert_eq!(Some(&whole), model.get(&key));
                let waiting: usize = model.values().map(|line| line.len().saturating_sub(1)).sum();
                prop_assert_eq!(locks.waiting(), waiting);
                prop_assert_eq!(locks.keys.len(), model.values().filter(|l| !l.is_empty()).count());
            }
        }
    }
}
