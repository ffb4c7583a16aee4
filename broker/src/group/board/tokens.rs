//! Leases by their tokens.
//!
//! Tokens are given by counting, and most leases end soon. So the recent ones are
//! in a ring, by how far they are behind the next one; what has been there for much
//! longer than others, or comes from an earlier run of the broker, is in a map.

use std::collections::VecDeque;

use super::LeaseToken;
use crate::group::{by_event::Slot, by_number::ByNumber};

/// The ring is never longer than this and twice the leases in it.
const RING_MIN: usize = 1024;

/// Where the events of leases are. Gives tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    epoch: u64,
    /// Counter of the ring's first lease.
    first: u64,
    recent: VecDeque<Option<Slot>>,
    live: usize,
    others: ByNumber<LeaseToken, Slot>,
}

impl Tokens {
    /// No lease; the next one that is given has this counter.
    pub(super) fn new(epoch: u64, next_counter: u64) -> Self {
        Self {
            epoch,
            first: next_counter,
            recent: VecDeque::new(),
            live: 0,
            others: ByNumber::default(),
        }
    }

    /// The counter of the next lease.
    pub(super) fn next_counter(&self) -> u64 {
        self.first + self.recent.len() as u64
    }

    /// The next lease that is given has this counter, unless a higher one is next.
    pub(super) fn count_from(&mut self, counter: u64) {
        if self.recent.is_empty() {
            self.first = self.first.max(counter);
        }
    }

    /// Gives a lease on the event at a place.
    pub(super) fn give(&mut self, place: Slot) -> LeaseToken {
        let token = LeaseToken {
            epoch: self.epoch,
            counter: self.next_counter(),
        };
        self.recent.push_back(Some(place));
        self.live += 1;
        self.shorten();
        token
    }

    /// Takes what is over from the ring's front, and what has lasted too long.
    fn shorten(&mut self) {
        let is_long = |ring: &Self| ring.recent.len() > RING_MIN + 2 * ring.live;
        while let Some(first) = self.recent.front()
            && (first.is_none() || is_long(self))
        {
            let (epoch, counter) = (self.epoch, self.first);
            if let Some(Some(place)) = self.recent.pop_front() {
                self.live -= 1;
                self.others.insert(LeaseToken { epoch, counter }, place);
            }
            self.first += 1;
        }
        if self.recent.is_empty() && self.recent.capacity() > RING_MIN {
            self.recent = VecDeque::new();
        }
    }

    /// A lease from before.
    pub(super) fn insert(&mut self, token: LeaseToken, place: Slot) {
        self.others.insert(token, place);
    }

    fn in_ring(&self, token: LeaseToken) -> Option<usize> {
        if token.epoch != self.epoch {
            return None;
        }
        let at = token.counter.checked_sub(self.first)?;
        usize::try_from(at).ok()
    }

    /// Where the event of a lease is; `None` when there is no such lease.
    pub(super) fn get(&self, token: LeaseToken) -> Option<Slot> {
        let recent = self.in_ring(token).and_then(|at| self.recent.get(at));
        match recent {
            Some(place) => *place,
            None => self.others.get(&token).copied(),
        }
    }

    /// The lease is over.
    pub(super) fn remove(&mut self, token: LeaseToken) {
        let at = self.in_ring(token);
        match at.and_then(|at| self.recent.get_mut(at)) {
            Some(place) => {
                self.live -= usize::from(place.take().is_some());
                self.shorten();
            }
            None => drop(self.others.remove(&token)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use sluice_proto::Offset;

    use super::*;
    use crate::group::{board::EventId, by_event::ByEvent};
    use proptest::prelude::*;

    proptest! {
        /// However long some leases last.
        #[test]
        fn it_finds_every_lease_by_its_token(
            steps in proptest::collection::vec((0_u8..8, 0_usize..5000), 0..6000),
        ) {
            let places: Vec<_> = {
                let mut events = ByEvent::default();
                let id = |offset| EventId { source: 0, offset: Offset(offset) };
                (0..6000).map(|offset| events.insert(id(offset), ())).collect()
            };
            let old = LeaseToken { epoch: 6, counter: 3 };
            let mut tokens = Tokens::new(7, 3);
            tokens.insert(old, places[0]);
            let mut model = HashMap::from([(old, places[0])]);
            let mut live = vec![old];
            for (at, (kind, which)) in steps.into_iter().enumerate() {
                // The first ones stay for long.
                if kind < 4 || live.len() <= 3 {
                    let counter = tokens.next_counter();
                    let token = tokens.give(places[at]);
                    prop_assert_eq!(token, LeaseToken { epoch: 7, counter });
                    prop_assert_eq!(model.insert(token, places[at]), None);
                    live.push(token);
                } else {
                    let ended = live.swap_remove(3 + which % (live.len() - 3));
                    prop_assert_eq!(tokens.get(ended), model.remove(&ended));
                    tokens.remove(ended);
                    tokens.remove(ended);
                    prop_assert_eq!(tokens.get(ended), None);
                }
                prop_assert!(tokens.recent.len() <= RING_MIN + 2 * tokens.live);
                prop_assert_eq!(tokens.live + tokens.others.len(), model.len());
            }
            for (token, place) in &model {
                prop_assert_eq!(tokens.get(*token), Some(*place));
            }
            let never = LeaseToken { epoch: 7, counter: tokens.next_counter() };
            prop_assert_eq!(tokens.get(never), None);
        }
    }
}
