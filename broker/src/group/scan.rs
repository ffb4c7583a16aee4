//! Reads a page of a source and applies the group's filter to it. Runs beside
//! the group's task, so that neither disk nor filter holds it up.

use std::{
    collections::VecDeque,
    iter,
    ops::Range,
    sync::{Arc, LazyLock},
    thread,
};

use sluice_proto::{Offset, PartitionId, event::EventRef};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    line_name::{LineName, NameHash},
    routes::{Candidates, Route},
};
use crate::{
    commit::{Page, PageLimits, Partition, ReadError, Store, StoredEvent, Topic, Turn},
    filter::{Counters, EvaluationError, Filter, Verdict},
};

/// As many pages may be filtered beside the tasks at once as there are
/// processors, so that filters leave the threads for blocking work to others.
static FILTERING: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(thread::available_parallelism().map_or(2, usize::from)));

/// Waits for its turn to filter a page; dropping the permit ends the turn.
pub(crate) async fn turn_to_filter() -> Option<SemaphorePermit<'static>> {
    // It is never closed.
    FILTERING.acquire().await.ok()
}

/// Where an event's key lies in it.
#[derive(Clone, Debug)]
struct Key {
    place: Range<usize>,
    hash: NameHash,
}

impl Key {
    fn at(place: Range<usize>, event: &[u8]) -> Self {
        let hash = NameHash::of(&event[place.clone()]);
        Self { place, hash }
    }

    /// The key of the event in which it was found.
    fn of<'a>(&self, event: &'a [u8]) -> LineName<'a> {
        LineName {
            bytes: &event[self.place.clone()],
            hash: self.hash,
        }
    }
}

/// What a page holds for the group.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Where the next page begins.
    pub(super) next: Offset,
    /// Events for which the filter is true.
    pub(super) matched: VecDeque<StoredEvent>,
    /// Where the keys lie in them, in a group that is ordered by key.
    keys: VecDeque<Option<Key>>,
    /// What the filter did.
    pub(super) counters: Counters,
    /// What was to be read and is gone.
    pub(super) gap: Option<Range<Offset>>,
    /// The filter took too many steps for the event at `next`, which neither
    /// passes nor is dropped.
    pub(super) overran: bool,
}

impl Scanned {
    /// The events for which the filter is true, with their keys if those matter.
    pub(super) fn with_keys(&self) -> impl Iterator<Item = (&StoredEvent, Option<LineName<'_>>)> {
        let keys = self
            .keys
            .iter()
            .map(Option::as_ref)
            .chain(iter::repeat(None));
        let events = self.matched.iter().zip(keys);
        events.map(|(stored, key)| (stored, key.map(|key| key.of(&stored.event))))
    }

    /// Where whoever has taken the first `count` events goes on.
    pub(super) fn next_behind(&self, count: usize) -> Offset {
        self.matched.get(count).map_or(self.next, |of| of.offset)
    }

    /// Takes out the first `count` events, or all if there are fewer.
    pub(super) fn take_first(&mut self, count: usize) -> impl Iterator<Item = StoredEvent> {
        self.keys.drain(..count.min(self.keys.len()));
        self.matched.drain(..count.min(self.matched.len()))
    }
}

/// A partition that a group reads.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    pub(super) topic: Arc<Topic>,
    pub(super) id: PartitionId,
    /// The group's filter applies. It has been applied before to what a group
    /// gets back.
    pub(super) filtered: bool,
}

impl Feed {
    pub(super) fn partition(&self) -> Option<&Partition> {
        self.topic.partition(self.id)
    }

    /// The first offset that cannot be read yet.
    pub(super) fn visible_end(&self) -> Offset {
        self.partition().map_or(Offset(0), Partition::visible_end)
    }

    /// Waits until whoever is to read from `from` on may, see [`Store::turn`].
    pub(super) async fn turn(&self, store: &Store, from: Offset) -> Option<Turn> {
        match self.partition() {
            Some(partition) => Some(store.turn(partition, from).await),
            None => None,
        }
    }

    /// Reads single events, whose offsets are in ascending order. May take a
    /// while.
    pub(super) fn pick(
        &self,
        store: &Store,
        offsets: &[Offset],
    ) -> Result<Vec<StoredEvent>, ReadError> {
        match self.partition() {
            Some(partition) => store.pick(partition, offsets),
            None => Ok(Vec::new()),
        }
    }

    /// Reads one event; `None` when it is gone. May take a while.
    pub(super) fn fetch(
        &self,
        store: &Store,
        offset: Offset,
    ) -> Result<Option<StoredEvent>, ReadError> {
        Ok(self.pick(store, &[offset])?.pop())
    }
}

/// What a scan needs to know of a group.
#[derive(Clone, Debug)]
pub(super) struct Scanner {
    pub(super) store: Store,
    pub(super) filter: Option<Filter>,
    /// How the filter's events are found without a look at each.
    pub(super) route: Option<Arc<Route>>,
    pub(super) keyed: bool,
    pub(super) limits: PageLimits,
}

impl Scanner {
    /// Where a feed that was read up to `from` ends for now.
    pub(super) fn readable_end(&self, of: &Feed, from: Offset) -> Offset {
        match &self.route {
            Some(route) if of.filtered => route.readable_end(of, from),
            _ => of.visible_end(),
        }
    }

    /// Reads and filters a page, if that takes neither the disk nor much time.
    pub(super) fn scan_now(&self, of: &Feed, from: Offset) -> Option<Result<Scanned, ReadError>> {
        let partition = of.partition()?;
        let is_cheap = || self.filter.as_ref().is_none_or(Filter::is_cheap);
        if let Some((candidates, term)) = self.candidates(of, from) {
            if candidates.offsets.is_empty() {
                return Some(Ok(dropped(candidates, from, term)));
            }
            if !is_cheap() {
                return None;
            }
            return match self.store.pick_cached(partition, &candidates.offsets) {
                Ok(events) if events.len() < candidates.offsets.len() => None,
                Ok(events) => Some(Ok(self.sift_picked(from, events, candidates, term, of))),
                Err(error) => Some(Err(error)),
            };
        }
        if of.filtered && !is_cheap() {
            return None;
        }
        match self.store.read_cached(partition, from, self.limits) {
            Ok(page) => Some(Ok(self.sift(from, page?, of))),
            Err(error) => Some(Err(error)),
        }
    }

    /// Reads and filters a page. May take a while.
    pub(super) fn scan(&self, of: &Feed, from: Offset) -> Result<Scanned, ReadError> {
        let Some(partition) = of.partition() else {
            return Ok(Scanned {
                next: from,
                ..Scanned::default()
            });
        };
        if let Some((candidates, term)) = self.candidates(of, from) {
            let events = self.store.pick(partition, &candidates.offsets)?;
            // Otherwise some went meanwhile, which the look at each of them finds out.
            if events.len() == candidates.offsets.len() {
                return Ok(self.sift_picked(from, events, candidates, term, of));
            }
        }
        let page = self.store.read(partition, from, self.limits)?;
        Ok(self.sift(from, page, of))
    }

    fn candidates(&self, of: &Feed, from: Offset) -> Option<(Candidates, usize)> {
        let route = self.route.as_ref().filter(|_| of.filtered)?;
        // What is gone is for the look at each event to find out.
        if of.partition()?.start_offset() > from {
            return None;
        }
        let found = route.candidates(of.id, from, self.limits)?;
        Some((found, route.term))
    }

    fn sift_picked(
        &self,
        from: Offset,
        events: Vec<StoredEvent>,
        candidates: Candidates,
        term: usize,
        of: &Feed,
    ) -> Scanned {
        let Candidates { mut offsets, next } = candidates;
        let mut scanned = self.sift(from, Page { events, next }, of);
        offsets.retain(|offset| *offset < scanned.next);
        let found = Candidates {
            offsets,
            next: scanned.next,
        };
        let others = dropped(found, from, term);
        scanned.counters.add(others.counters);
        scanned
    }

    /// What the filter says of an event, which passes without one, and where its key
    /// lies in it if that matters.
    fn look_at(&self, event: &[u8], filter: Option<&Filter>) -> (Verdict, Option<Key>) {
        let verdict = match filter {
            None => Ok(Verdict::Matched),
            Some(filter) => {
                EventRef::read(event).map(|event| filter.judge(&filter.subject(&event, 1)))
            }
        };
        let looked = verdict.and_then(|verdict| match self.keyed && verdict == Verdict::Matched {
            true => {
                let place = EventRef::place_of_key(event)?;
                Ok((verdict, place.map(|place| Key::at(place, event))))
            }
            false => Ok((verdict, None)),
        });
        match looked {
            Ok(looked) => looked,
            // It was checked when it was published.
            Err(error) => {
                let error = EvaluationError::Data(error.to_string().into());
                (Verdict::Failed { term: 0, error }, None)
            }
        }
    }

    fn sift(&self, from: Offset, page: Page, of: &Feed) -> Scanned {
        let filter = self.filter.as_ref().filter(|_| of.filtered);
        // What is missing above the start went by compaction, which nobody misses.
        let start = of.partition().map_or(from, Partition::start_offset);
        let first = page.events.first().map_or(page.next, |event| event.offset);
        let gap = from..first.min(start);
        let mut scanned = Scanned {
            next: page.next,
            gap: Some(gap).filter(|gap| gap.start < gap.end),
            ..Scanned::default()
        };
        if filter.is_none() && of.filtered {
            scanned.counters.all_match(page.events.len());
        }
        if filter.is_none() && !self.keyed {
            scanned.matched = page.events.into();
            return scanned;
        }
        let mut matched = page.events;
        matched.retain(|stored| {
            if scanned.overran {
                return false;
            }
            let (verdict, key) = self.look_at(&stored.event, filter);
            if let Verdict::Failed { error, .. } = &verdict
                && *error == EvaluationError::OverBudget
            {
                scanned.next = stored.offset;
                scanned.overran = true;
                return false;
            }
            if filter.is_some() || verdict != Verdict::Matched {
                scanned.counters.count(of.id, stored.offset, &verdict);
            }
            let matches = verdict == Verdict::Matched;
            if matches && self.keyed {
                scanned.keys.push_back(key);
            }
            matches
        });
        scanned.matched = matched.into();
        scanned
    }
}

/// What a look at each of the events from `from` on but the candidates would say.
fn dropped(candidates: Candidates, from: Offset, term: usize) -> Scanned {
    let Candidates { offsets, next } = candidates;
    let mut scanned = Scanned {
        next,
        ..Scanned::default()
    };
    let all = next.0.saturating_sub(from.0);
    let others = all.saturating_sub(offsets.len() as u64);
    scanned.counters.all_dropped(term, others);
    scanned
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn stored(offset: u64, key: u8) -> StoredEvent {
        StoredEvent {
            offset: Offset(offset),
            append_time_ms: 0,
            event: Bytes::copy_from_slice(&[key]),
            note: Bytes::new(),
        }
    }

    proptest! {
        /// Events keep their keys, and none is left between two parts.
        #[test]
        fn a_page_by_parts_is_the_page(
            events in proptest::collection::btree_map(0..90_u64, proptest::option::of(any::<u8>()), 0..40),
            keyed in any::<bool>(),
            parts in proptest::collection::vec(0..12_usize, 0..20),
        ) {
            let mut page = Scanned {
                next: Offset(90),
                ..Scanned::default()
            };
            for (offset, key) in &events {
                let event = stored(*offset, key.unwrap_or_default());
                if keyed {
                    let key = key.map(|_| Key::at(0..1, &event.event));
                    page.keys.push_back(key);
                }
                page.matched.push_back(event);
            }
            let keyed_as = |key: &Option<u8>| key.filter(|_| keyed);
            let mut seen = Vec::new();
            for count in parts.into_iter().chain([usize::MAX]) {
                let before = seen.len();
                let with_keys = page.with_keys().take(count);
                seen.extend(with_keys.map(|(event, key)| (event.offset.0, key.map(|key| key.bytes[0]))));
                let next = page.next_behind(count);
                let taken: Vec<u64> = page.take_first(count).map(|event| event.offset.0).collect();
                let here: Vec<u64> = seen[before..].iter().map(|(offset, _)| *offset).collect();
                prop_assert_eq!(taken, here);
                let left = page.matched.front().map_or(Offset(90), |event| event.offset);
                prop_assert_eq!(next, left);
            }
            let whole: Vec<_> = events.iter().map(|(offset, key)| (*offset, keyed_as(key))).collect();
            prop_assert_eq!(seen, whole);
        }
    }
}
