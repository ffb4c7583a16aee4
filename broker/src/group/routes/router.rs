//! One topic's router: looks at each event once, and knows whom it concerns.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sluice_proto::{Offset, PartitionId, event::EventRef};
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Candidates,
    postings::{Posting, Postings, Slot},
};
use crate::{
    commit::{Page, PageLimits, Partition, ReadError, Store, Topic},
    filter::{Fixed, FixedAttribute},
};

/// Events that are looked at under one lock.
const PAGE: PageLimits = PageLimits {
    events: 1000,
    bytes: 1 << 20,
};
/// A group for which nothing comes is woken so often while others get events, so
/// that its position follows.
const WAKE_ALL_AFTER: Duration = Duration::from_secs(1);
/// A topic that could not be read is tried again after so long.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Router {
    topic: Arc<Topic>,
    store: Store,
    index: Mutex<Index>,
    /// Postings of all routers.
    postings: Arc<AtomicUsize>,
    postings_max: usize,
    ended: CancellationToken,
}

/// What is looked for, and where it is.
struct Index {
    postings: Postings,
    slots: HashMap<FixedAttribute, Values>,
    wanted: HashMap<Slot, Wanted>,
    subscribers: BTreeMap<u64, Arc<Notify>>,
    /// Those that are woken for whatever comes.
    followers: BTreeSet<u64>,
    next_slot: u32,
    next_subscriber: u64,
    /// Postings since all were woken.
    since_wake: usize,
}

/// The slots of one attribute's values.
#[derive(Default)]
struct Values {
    slots: HashMap<Arc<str>, Slot>,
    /// Of events that lack the attribute.
    lacking: Option<Slot>,
}

/// A value that somebody looks for; `None` to lack the attribute.
struct Wanted {
    attribute: FixedAttribute,
    value: Option<Arc<str>>,
    by: Vec<u64>,
}

impl Router {
    pub(super) fn new(
        topic: Arc<Topic>,
        store: Store,
        postings: Arc<AtomicUsize>,
        postings_max: usize,
    ) -> Self {
        let begin = topic.partitions.iter().map(Partition::visible_end);
        let index = Index {
            postings: Postings::new(begin),
            slots: HashMap::new(),
            wanted: HashMap::new(),
            subscribers: BTreeMap::new(),
            followers: BTreeSet::new(),
            next_slot: 0,
            next_subscriber: 0,
            since_wake: 0,
        };
        Self {
            topic,
            store,
            index: Mutex::new(index),
            postings,
            postings_max,
            ended: CancellationToken::new(),
        }
    }

    /// Cancelled when nobody has the router any more.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Looks for what a filter fixes, from now on. One that follows is woken also
    /// when it is passed by.
    pub(super) fn subscribe(
        &self,
        fixed: &Fixed,
        wake: Arc<Notify>,
        follows: bool,
    ) -> (u64, Vec<Slot>) {
        let mut index = self.index();
        let subscriber = index.next_subscriber;
        index.next_subscriber += 1;
        index.subscribers.insert(subscriber, wake);
        if follows {
            index.followers.insert(subscriber);
        }
        let values = fixed.values.iter().cloned().map(Some);
        // Those that lack it are not dropped, but fail, unless another term drops
        // them; so each is looked at.
        let lacking = fixed.needs_it.then_some(None);
        let slots = values
            .chain(lacking)
            .map(|value| index.want(fixed.attribute, value, subscriber))
            .collect();
        (subscriber, slots)
    }

    pub(super) fn unsubscribe(&self, subscriber: u64, slots: &[Slot]) {
        let mut index = self.index();
        let before = index.postings.len();
        index.subscribers.remove(&subscriber);
        index.followers.remove(&subscriber);
        for slot in slots {
            index.unwant(*slot, subscriber);
        }
        let after = index.postings.len();
        self.postings.fetch_sub(before - after, Ordering::Relaxed);
    }

    /// The end of what is covered, if the values are covered from `from` on.
    pub(super) fn end_if_covered(
        &self,
        partition: PartitionId,
        slots: &[Slot],
        from: Offset,
    ) -> Option<Offset> {
        let at = partition.0 as usize;
        let index = self.index();
        let covers = index.postings.covers(at, slots, from);
        covers.then(|| index.postings.end(at))
    }

    pub(super) fn find(
        &self,
        partition: PartitionId,
        slots: &[Slot],
        from: Offset,
        limits: PageLimits,
    ) -> Option<Candidates> {
        let at = partition.0 as usize;
        let index = self.index();
        let found = index
            .postings
            .find(at, slots, from, limits.events, limits.bytes)?;
        Some(Candidates {
            offsets: found.offsets,
            next: found.next,
        })
    }

    /// Looks at the events of a partition that are new and in memory.
    pub(super) fn advance_cached(&self, partition: PartitionId) {
        let at = partition.0 as usize;
        let Some(of) = self.topic.partition(partition) else {
            return;
        };
        let mut index = self.index();
        while index.postings.end(at) < of.visible_end() {
            let from = index.postings.end(at);
            // What is damaged in memory is looked for on the disk.
            let Ok(Some(page)) = self.store.read_cached(of, from, PAGE) else {
                return;
            };
            if page.next <= from {
                return;
            }
            self.cover(&mut index, at, page);
        }
    }

    /// Looks at all new events, also those that are not in memory.
    async fn advance(self: &Arc<Self>) -> Result<(), ReadError> {
        for of in &self.topic.partitions {
            let partition = of.source.partition;
            let at = partition.0 as usize;
            loop {
                self.advance_cached(partition);
                let from = self.index().postings.end(at);
                if from >= of.visible_end() {
                    break;
                }
                let turn = self.store.turn(of, from).await;
                let router = self.clone();
                let read = spawn_blocking(move || {
                    let of = router.topic.partition(partition);
                    of.map_or_else(
                        || Ok(Page::default()),
                        |of| router.store.read(of, from, PAGE),
                    )
                });
                // A read that ends with a panic is as one that finds nothing.
                let page = read.await.unwrap_or_else(|_| Ok(Page::default()))?;
                drop(turn);
                let mut index = self.index();
                if index.postings.end(at) != from {
                    continue;
                }
                if page.next <= from {
                    break;
                }
                self.cover(&mut index, at, page);
            }
        }
        Ok(())
    }

    fn cover(&self, index: &mut Index, partition: usize, page: Page) {
        let before = index.postings.len();
        let mut woken: HashSet<u64> = index.followers.iter().copied().collect();
        let mut slots = Vec::new();
        for stored in &page.events {
            slots.clear();
            // It was checked when it was published.
            if let Ok(event) = EventRef::read(&stored.event) {
                index.slots_of(&event, &mut slots);
            }
            for slot in &slots {
                // Those that fail for want of an attribute can wait.
                if let Some(wanted) = index.wanted.get(slot)
                    && wanted.value.is_some()
                {
                    woken.extend(wanted.by.iter().copied());
                }
            }
            let posting = Posting {
                offset: stored.offset,
                size: stored.event.len() as u32,
            };
            index.postings.push(partition, posting, &slots);
        }
        if index.postings.end(partition) < page.next {
            // The last ones are gone.
            index.postings.begin_at(partition, page.next);
        }
        let after = index.postings.len();
        // A hole takes away as many as there were.
        let mut all = if after >= before {
            let more = after - before;
            index.since_wake += more;
            self.postings.fetch_add(more, Ordering::Relaxed) + more
        } else {
            let fewer = before - after;
            self.postings.fetch_sub(fewer, Ordering::Relaxed) - fewer
        };
        while all > self.postings_max && index.postings.forget_one() {
            all = self.postings.fetch_sub(1, Ordering::Relaxed) - 1;
        }
        for subscriber in woken {
            index.wake(subscriber);
        }
        // Before they are so far behind that they must look at each event.
        if index.since_wake > self.postings_max / 8 {
            index.wake_all();
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // A panic could only leave events out of the index that were looked at, and
        // none is reachable.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a router at the topic's end, and wakes those that nothing comes for.
pub(super) async fn follow(router: Weak<Router>, mut changes: watch::Receiver<u64>) {
    changes.mark_changed();
    let mut wake_all: Option<Instant> = None;
    loop {
        let due = async {
            match wake_all {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            () = due => {
                wake_all = None;
                let Some(router) = router.upgrade() else { return };
                router.index().wake_all();
                continue;
            }
        }
        wake_all.get_or_insert_with(|| Instant::now() + WAKE_ALL_AFTER);
        let Some(router) = router.upgrade() else {
            return;
        };
        if let Err(error) = router.advance().await {
            tracing::error!(%error, topic = %router.topic.name, "cannot read for its groups");
            sleep(READ_AGAIN_AFTER).await;
            changes.mark_changed();
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let left = self.index().postings.len();
        self.postings.fetch_sub(left, Ordering::Relaxed);
        self.ended.cancel();
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "router of {}", self.topic.name)
    }
}

impl Index {
    fn want(&mut self, attribute: FixedAttribute, value: Option<Arc<str>>, by: u64) -> Slot {
        let values = self.slots.entry(attribute).or_default();
        let known = match &value {
            Some(value) => values.slots.get(value).copied(),
            None => values.lacking,
        };
        if let Some(slot) = known {
            if let Some(wanted) = self.wanted.get_mut(&slot) {
                wanted.by.push(by);
            }
            return slot;
        }
        let slot = Slot(self.next_slot);
        self.next_slot += 1;
        match &value {
            Some(value) => drop(values.slots.insert(value.clone(), slot)),
            None => values.lacking = Some(slot),
        }
        let wanted = Wanted {
            attribute,
            value,
            by: vec![by],
        };
        self.wanted.insert(slot, wanted);
        self.postings.open(slot);
        slot
    }

    fn unwant(&mut self, slot: Slot, by: u64) {
        let Some(wanted) = self.wanted.get_mut(&slot) else {
            return;
        };
        wanted.by.retain(|one| *one != by);
        if wanted.by.is_empty()
            && let Some(Wanted {
                attribute, value, ..
            }) = self.wanted.remove(&slot)
        {
            if let Some(values) = self.slots.get_mut(&attribute) {
                match &value {
                    Some(value) => drop(values.slots.remove(value)),
                    None => values.lacking = None,
                }
                if values.slots.is_empty() && values.lacking.is_none() {
                    self.slots.remove(&attribute);
                }
            }
            self.postings.close(slot);
        }
    }

    /// The slots of what the event has.
    fn slots_of(&self, event: &EventRef<'_>, slots: &mut Vec<Slot>) {
        for (attribute, values) in &self.slots {
            slots.extend(match attribute.of(event) {
                Some(value) => values.slots.get(value).copied(),
                None => values.lacking,
            });
        }
    }

    fn wake(&self, subscriber: u64) {
        if let Some(wake) = self.subscribers.get(&subscriber) {
            wake.notify_one();
        }
    }

    fn wake_all(&mut self) {
        self.since_wake = 0;
        for wake in self.subscribers.values() {
            wake.notify_one();
        }
    }
}
