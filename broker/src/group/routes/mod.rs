//! By which events find the groups that want them, so that many groups on one
//! topic share the work: each event is looked at once, and a group whose filter
//! fixes the type, source or subject is woken for, and looks at, those events
//! alone that have it.
//!
//! A [`Route`] is what a group holds of it. The newest events are covered; a group
//! that is further behind reads page by page, as one whose filter fixes nothing.

mod postings;
mod router;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicUsize},
};

use sluice_proto::{Offset, PartitionId, TopicId};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    postings::Slot,
    router::{Router, follow},
};
use super::scan::Feed;
use crate::{
    commit::{Group, PageLimits, Store, Topic, record::BacklogPolicy},
    filter::Filter,
};

/// Every topic's router. Cheap to clone.
#[derive(Clone)]
pub(super) struct Routes(Arc<Shared>);

struct Shared {
    routers: Mutex<HashMap<TopicId, Weak<Router>>>,
    store: Store,
    /// Postings of all topics.
    postings: Arc<AtomicUsize>,
    postings_max: usize,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A group's way to the events that its filter may want. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Route {
    router: Arc<Router>,
    subscriber: u64,
    slots: Vec<Slot>,
    /// The filter's term that says what is looked for.
    pub(super) term: usize,
}

/// Events that a route leads to.
#[derive(Debug)]
pub(super) struct Candidates {
    pub(super) offsets: Vec<Offset>,
    /// Where to go on; the filter's term drops all others below.
    pub(super) next: Offset,
}

impl Routes {
    /// Routers run among `tasks`, and keep at most so many postings together.
    pub(super) fn new(store: Store, postings_max: usize, tasks: TaskTracker) -> Self {
        Self(Arc::new(Shared {
            routers: Mutex::default(),
            store,
            postings: Arc::default(),
            postings_max,
            tasks,
            stop: CancellationToken::new(),
        }))
    }

    /// The route of a group with this filter, if the filter fixes anything. `wake` is
    /// notified when there is something on it; of a group with a backlog limit also
    /// when something has passed it by, which is in no publisher's way any more.
    pub(super) fn of(
        &self,
        group: &Group,
        filter: Option<&Filter>,
        wake: &Arc<Notify>,
    ) -> Option<Arc<Route>> {
        let fixed = filter?.fixed()?;
        let router = self.router(&group.topic);
        let follows = group.config.backlog_policy() != BacklogPolicy::Ignore;
        let (subscriber, slots) = router.subscribe(fixed, wake.clone(), follows);
        Some(Arc::new(Route {
            router,
            subscriber,
            slots,
            term: fixed.term,
        }))
    }

    fn router(&self, topic: &Arc<Topic>) -> Arc<Router> {
        let Shared { routers, .. } = &*self.0;
        // Nothing that runs under this lock can leave the map half changed.
        let mut routers = routers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(router) = routers.get(&topic.id).and_then(Weak::upgrade) {
            return router;
        }
        routers.retain(|_, router| router.strong_count() > 0);
        let router = Arc::new(Router::new(
            topic.clone(),
            self.0.store.clone(),
            self.0.postings.clone(),
            self.0.postings_max,
        ));
        routers.insert(topic.id, Arc::downgrade(&router));
        let following = follow(Arc::downgrade(&router), topic.changes());
        let (stop, ended) = (self.0.stop.clone(), router.ended());
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = ended.cancelled() => {}
                () = following => {}
            }
        });
        router
    }

    /// Ends all that runs.
    pub(super) fn shut_down(&self) {
        self.0.stop.cancel();
    }
}

impl Route {
    /// Where the group has to stop that has come to `from`: the first offset that
    /// cannot be read, or that the router has not come to.
    pub(super) fn readable_end(&self, feed: &Feed, from: Offset) -> Offset {
        self.router.advance_cached(feed.id);
        self.router
            .end_if_covered(feed.id, &self.slots, from)
            .unwrap_or_else(|| feed.visible_end())
    }

    /// Events from `from` on that the filter may want; `None` where each has to be
    /// looked at.
    pub(super) fn candidates(
        &self,
        partition: PartitionId,
        from: Offset,
        limits: PageLimits,
    ) -> Option<Candidates> {
        self.router.find(partition, &self.slots, from, limits)
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.router.unsubscribe(self.subscriber, &self.slots);
    }
}
