//! One event of a key at a time, in order of arrival.
//!
//! ```text
//!             arrive                     arrive
//!   (nobody) ───────> held by the first ───────> held, others in line
//!       ^                   │ release                  │ release
//!       └───────────────────┘   the next in line holds ┘
//! ```
//!
//! Who holds a key keeps it while it is delivered, and while it waits for
//! another attempt, until it is settled.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use bytes::Bytes;

/// Locks by key. `E` names an event.
#[derive(Clone, Debug)]
pub struct KeyLocks<E> {
    keys: HashMap<Bytes, Line<E>>,
    waiting: usize,
}

#[derive(Clone, Debug)]
struct Line<E> {
    holder: E,
    next: VecDeque<E>,
}

/// Whether an event that arrived may be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It holds its key now.
    Free,
    /// It is in line.
    Queued,
}

/// A key was released by an event that does not hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key is not held by this event")]
pub struct NotHeld;

impl<E: Copy + PartialEq> KeyLocks<E> {
    /// No keys.
    #[must_use]
    pub fn new() -> Self {
        Self {
            keys: HashMap::new(),
            waiting: 0,
        }
    }

    /// An event of the key arrives, after all that arrived before.
    pub fn arrive(&mut self, key: Bytes, event: E) -> Arrival {
        match self.keys.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(Line {
                    holder: event,
                    next: VecDeque::new(),
                });
                Arrival::Free
            }
            Entry::Occupied(mut line) => {
                line.get_mut().next.push_back(event);
                self.waiting += 1;
                Arrival::Queued
            }
        }
    }

    /// The holder is settled. Returns who holds the key now.
    ///
    /// # Errors
    /// When the event does not hold it; nothing has changed then.
    pub fn release(&mut self, key: &Bytes, event: E) -> Result<Option<E>, NotHeld> {
        let line = self.keys.get_mut(key).ok_or(NotHeld)?;
        if line.holder != event {
            return Err(NotHeld);
        }
        match line.next.pop_front() {
            Some(next) => {
                line.holder = next;
                self.waiting -= 1;
                Ok(Some(next))
            }
            None => {
                self.keys.remove(key);
                Ok(None)
            }
        }
    }

    /// Events in line behind others.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

impl<E: Copy + PartialEq> Default for KeyLocks<E> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Each key hands out its events one at a time, in order of arrival.
        #[test]
        fn events_of_a_key_go_one_at_a_time_in_order(
            steps in proptest::collection::vec((any::<bool>(), 0_u8..4), 0..200),
        ) {
            let mut locks = KeyLocks::new();
            let mut model: HashMap<u8, VecDeque<usize>> = HashMap::new();
            for (event, (arrives, key)) in steps.into_iter().enumerate() {
                let bytes = Bytes::from(vec![key]);
                let line = model.entry(key).or_default();
                if arrives {
                    let expected = if line.is_empty() { Arrival::Free } else { Arrival::Queued };
                    line.push_back(event);
                    prop_assert_eq!(locks.arrive(bytes, event), expected);
                } else if let Some(holder) = line.pop_front() {
                    if let Some(other) = line.front() {
                        prop_assert_eq!(locks.release(&bytes, *other), Err(NotHeld));
                    }
                    prop_assert_eq!(locks.release(&bytes, holder), Ok(line.front().copied()));
                } else {
                    prop_assert_eq!(locks.release(&bytes, event), Err(NotHeld));
                }
                let waiting: usize = model.values().map(|line| line.len().saturating_sub(1)).sum();
                prop_assert_eq!(locks.waiting(), waiting);
                prop_assert_eq!(locks.keys.len(), model.values().filter(|l| !l.is_empty()).count());
            }
        }
    }
}
