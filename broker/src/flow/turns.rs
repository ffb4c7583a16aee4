//! Whose turn it is among producers that wait for room: start-time fair queueing.
//!
//! Each that waits has a tag: the later of the line's own time and the end of
//! what the same producer had before. The smallest tag is next, and what it takes
//! moves its producer's end on. So a producer that asks for less than its share
//! never waits behind the many batches of one that asks for all there is.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Those who wait, `K` by `K`, each with a `T`.
#[derive(Debug)]
pub struct Turns<K, T> {
    /// By tag, and by arrival among those with the same.
    waiting: BTreeMap<(u64, u64), (K, u64, T)>,
    /// Where each producer's last one ends; only those beyond `time`.
    ends: HashMap<K, u64>,
    time: u64,
    arrivals: u64,
}

impl<K, T> Default for Turns<K, T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            ends: HashMap::new(),
            time: 0,
            arrivals: 0,
        }
    }
}

/// One that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64, u64);

impl<K: Clone + Eq + Hash, T> Turns<K, T> {
    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Puts one in line that takes `cost`, at least 1.
    pub fn wait(&mut self, who: K, cost: u64, what: T) -> Ticket {
        let end = self.ends.get(&who).copied().unwrap_or(0);
        let start = end.max(self.time);
        let cost = cost.max(1);
        self.ends.insert(who.clone(), start.saturating_add(cost));
        self.arrivals += 1;
        let ticket = Ticket(start, self.arrivals);
        self.waiting.insert((ticket.0, ticket.1), (who, cost, what));
        ticket
    }

    /// Whose turn it is.
    #[must_use]
    pub fn first(&self) -> Option<&T> {
        self.waiting.first_key_value().map(|(_, (.., what))| what)
    }

    /// Takes the one out whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let ((start, _), (_, _, what)) = self.waiting.pop_first()?;
        self.time = self.time.max(start);
        let time = self.time;
        // Those that have had no more than their share are like new ones.
        if self.waiting.is_empty() {
            self.ends.clear();
        } else if self.ends.len() > 2 * self.waiting.len() + 64 {
            self.ends.retain(|_, end| *end > time);
        }
        Some(what)
    }

    /// Takes one out that waits no longer.
    pub fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let (who, cost, what) = self.waiting.remove(&(ticket.0, ticket.1))?;
        if let Some(end) = self.ends.get_mut(&who) {
            *end = end.saturating_sub(cost);
        }
        Some(what)
    }

    /// All that wait, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().map(|(.., what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_that_waits_no_longer_is_not_in_the_way() {
        let mut turns = Turns::default();
        turns.wait("a", 1, 1);
        let left = turns.wait("b", 1, 2);
        turns.wait("a", 1, 3);
        assert_eq!(turns.leave(left), Some(2));
        assert_eq!(turns.leave(left), None);
        assert_eq!(
            (turns.pop(), turns.pop(), turns.pop()),
            (Some(1), Some(3), None)
        );
    }

    proptest! {
        /// In every round there is room for `capacity`. A modest producer, which
        /// asks for at most a tenth of it, gets in the same round or the next
        /// what it asks for, whatever the greedy one puts in line.
        #[test]
        fn the_modest_get_what_they_ask_for(
            asks in proptest::collection::vec(1_u64..=10, 9),
            greedy in 1_u64..=10,
            rounds in 5_usize..60,
        ) {
            const CAPACITY: u64 = 100;
            let mut turns = Turns::default();
            let mut served = [0_u64; 10];
            let mut carry = 0_u64;
            for round in 1..=rounds {
                for _ in 0..50 {
                    turns.wait(9, greedy, (9, greedy));
                }
                for (who, ask) in asks.iter().enumerate() {
                    turns.wait(who, *ask, (who, *ask));
                }
                carry += CAPACITY;
                while let Some((who, cost)) = turns.first().copied() {
                    if cost > carry {
                        break;
                    }
                    carry -= cost;
                    served[who] += cost;
                    turns.pop();
                }
                for (who, ask) in asks.iter().enumerate() {
                    let before = ask * (round as u64 - 1);
                    prop_assert!(served[who] >= before, "{} got {} of {}", who, served[who], before);
                }
            }
        }

        /// Everybody who waits has a turn, each producer's in the order in which
        /// they came.
        #[test]
        fn nobody_is_left_out(waits in proptest::collection::vec((0_usize..5, 1_u64..50), 0..200)) {
            let mut turns = Turns::default();
            for (at, (who, cost)) in waits.iter().enumerate() {
                turns.wait(*who, *cost, (*who, at));
            }
            let mut last = HashMap::new();
            let mut count = 0;
            while let Some((who, at)) = turns.pop() {
                prop_assert!(last.insert(who, at).is_none_or(|before| before < at));
                count += 1;
            }
            prop_assert_eq!(count, waits.len());
            prop_assert!(turns.ends.is_empty());
        }
    }
}
