//! One event of a line at a time, in order of arrival. A line is a key, or a
//! whole partition. Its name is kept once, for all that are in it.
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

use std::{collections::VecDeque, num::NonZeroU32};

use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;

use super::line_name::{LineName, NameHash};

/// A name that is not longer lies in its line, such as a UUID as text.
const SHORT_NAME_BYTES: usize = 40;

/// Locks by line. `E` names an event.
#[derive(Clone, Debug)]
pub struct KeyLocks<E> {
    /// By the hashes of their names. It is looked into once for each event.
    ids: HashTable<LineId>,
    lines: Slab<Line<E>>,
    waiting: usize,
}

/// A line, for as long as somebody holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineId(NonZeroU32);

impl LineId {
    fn of(place: usize) -> Self {
        // Memory ends long before numbers do.
        Self(NonZeroU32::MIN.saturating_add(place as u32))
    }

    fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

#[derive(Clone, Debug)]
struct Line<E> {
    name: SmallVec<[u8; SHORT_NAME_BYTES]>,
    hash: NameHash,
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

impl<E: Copy + PartialEq> KeyLocks<E> {
    /// No lines.
    #[must_use]
    pub fn new() -> Self {
        Self {
            ids: HashTable::new(),
            lines: Slab::new(),
            waiting: 0,
        }
    }

    /// An event of the line arrives, after all that arrived before.
    pub fn arrive(&mut self, name: LineName<'_>, event: E, now_ms: u64) -> (LineId, Arrival) {
        self.enter(name, event, now_ms, VecDeque::push_back)
    }

    /// An event that stepped aside has its turn again, before all that are in
    /// line, and after the one that holds it.
    pub fn come_back(&mut self, name: LineName<'_>, event: E, now_ms: u64) -> (LineId, Arrival) {
        self.enter(name, event, now_ms, VecDeque::push_front)
    }

    fn enter(
        &mut self,
        name: LineName<'_>,
        event: E,
        now_ms: u64,
        push: fn(&mut VecDeque<E>, E),
    ) -> (LineId, Arrival) {
        let LineName { bytes, hash } = name;
        let lines = &self.lines;
        let is_it = |id: &LineId| {
            let line = lines.get(id.place());
            line.is_some_and(|line| line.hash == hash && line.name[..] == *bytes)
        };
        let known = self.ids.find(hash.get(), is_it).copied();
        if let Some(id) = known
            && let Some(line) = self.lines.get_mut(id.place())
        {
            push(&mut line.next, event);
            self.waiting += 1;
            return (id, Arrival::Queued);
        }
        let line = self.lines.insert(Line {
            name: SmallVec::from_slice(bytes),
            hash,
            holder: event,
            since_ms: now_ms,
            next: VecDeque::new(),
        });
        let id = LineId::of(line);
        let lines = &self.lines;
        // Whoever is in the table is among the lines.
        let hash_of = |id: &LineId| lines[id.place()].hash.get();
        self.ids.insert_unique(hash.get(), id, hash_of);
        (id, Arrival::Free)
    }

    /// The holder is settled, or steps aside. Returns who holds the line now; when
    /// nobody does, the line is no more.
    ///
    /// # Errors
    /// When the event does not hold it; nothing has changed then.
    pub fn release(&mut self, id: LineId, event: E, now_ms: u64) -> Result<Option<E>, NotHeld> {
        let line = self.lines.get_mut(id.place()).ok_or(NotHeld)?;
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
                let line = self.lines.remove(id.place());
                if let Ok(known) = self.ids.find_entry(line.hash.get(), |of| *of == id) {
                    known.remove();
                }
                Ok(None)
            }
        }
    }

    fn line(&self, id: LineId) -> Option<&Line<E>> {
        self.lines.get(id.place())
    }

    /// What the line is called.
    #[must_use]
    pub fn name(&self, id: LineId) -> Option<&[u8]> {
        self.line(id).map(|line| &line.name[..])
    }

    /// Who holds the line.
    #[must_use]
    pub fn holder(&self, id: LineId) -> Option<&E> {
        self.line(id).map(|line| &line.holder)
    }

    /// Since when the line has the holder that it has.
    #[must_use]
    pub fn held_since(&self, id: LineId) -> Option<u64> {
        self.line(id).map(|line| line.since_ms)
    }

    /// Who is in line behind its holder, in order.
    pub fn waiting_behind(&self, id: LineId) -> impl Iterator<Item = &E> {
        self.line(id).into_iter().flat_map(|line| &line.next)
    }

    /// Takes an event out of a line that it does not hold. Looks through the
    /// line.
    pub fn withdraw(&mut self, id: LineId, event: E) {
        if let Some(line) = self.lines.get_mut(id.place()) {
            let before = line.next.len();
            line.next.retain(|waiting| *waiting != event);
            self.waiting -= before - line.next.len();
        }
    }

    /// Lines that somebody holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.lines.len()
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
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    fn name(key: &u8) -> LineName<'_> {
        LineName::from(std::slice::from_ref(key))
    }

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
            // The latest line of each key.
            let mut ids: HashMap<u8, LineId> = HashMap::new();
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
                        let alone = line.is_empty();
                        line.push_back(event);
                        let (id, arrived) = locks.arrive(name(&key), event, now);
                        prop_assert_eq!(arrived, arrival);
                        let before = ids.insert(key, id);
                        prop_assert!(alone || before == Some(id));
                    }
                    Step::Back => if let Some(event) = aside.pop() {
                        let alone = line.is_empty();
                        line.insert(line.len().min(1), event);
                        let (id, arrived) = locks.come_back(name(&key), event, now);
                        prop_assert_eq!(arrived, arrival);
                        let before = ids.insert(key, id);
                        prop_assert!(alone || before == Some(id));
                    },
                    Step::Withdraw => if line.len() > 1 {
                        let last = line.pop_back().expect("there are two");
                        locks.withdraw(ids[&key], last);
                    },
                    Step::Release | Step::Aside => match line.pop_front() {
                        Some(holder) => {
                            if let Some(other) = line.front() {
                                prop_assert_eq!(locks.release(ids[&key], *other, now), Err(NotHeld));
                            }
                            let next = line.front().copied();
                            prop_assert_eq!(locks.release(ids[&key], holder, now), Ok(next));
                            if let Step::Aside = step {
                                aside.push(holder);
                            }
                        }
                        None => if let Some(id) = ids.get(&key) {
                            prop_assert_eq!(locks.release(*id, event, now), Err(NotHeld));
                        },
                    },
                }
                match line.front() {
                    Some(holder) if since.get(&key).is_none_or(|(of, _)| of != holder) => {
                        since.insert(key, (*holder, now));
                    }
                    Some(_) => {}
                    None => drop(since.remove(&key)),
                }
                let held = locks.ids.iter().find(|id| locks.name(**id) == Some(&[key]));
                if let (Some(id), Some(line)) = (held, model.get(&key)) {
                    prop_assert_eq!(Some(id), ids.get(&key));
                    prop_assert_eq!(locks.held_since(*id), since.get(&key).map(|(_, at)| *at));
                    let behind: VecDeque<_> = locks.waiting_behind(*id).copied().collect();
                    let whole: VecDeque<_> = locks.holder(*id).copied().into_iter().chain(behind).collect();
                    prop_assert_eq!(&whole, line);
                }
                let waiting: usize = model.values().map(|line| line.len().saturating_sub(1)).sum();
                prop_assert_eq!(locks.waiting(), waiting);
                let held = model.iter().filter(|(_, line)| !line.is_empty()).map(|(key, _)| *key);
                let held: std::collections::BTreeSet<u8> = held.collect();
                let names: std::collections::BTreeSet<u8> = locks.lines.iter().map(|(_, line)| line.name[0]).collect();
                prop_assert_eq!(names, held);
                prop_assert_eq!(locks.ids.len(), locks.lines.len());
            }
        }
    }
}
