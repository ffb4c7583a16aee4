//! Shows what is durable: blocks land in any order, and are published in the
//! order of the log.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use sluice_proto::TopicId;
use tokio::sync::watch;

use super::{
    turns::lock,
    volatile::{Volatile, VolatileAppend},
};
use crate::{
    commit::{
        catalog::{Catalog, Topic},
        proposal::Unavailable,
        record::Record,
        state::Applied,
    },
    log::{FrameSlot, Placed, Position, Reader, When},
};

pub(super) type Reply = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

/// Publishes what has been sequenced, and answers, once it is durable.
pub(in crate::commit) struct Publisher {
    catalog: watch::Sender<Arc<Catalog>>,
    volatile: Arc<Mutex<Volatile>>,
    reader: Reader,
    /// In the order of the log.
    waiting: VecDeque<Waiting>,
    /// Topics whose deletion was published and is not in a checkpoint yet.
    deleted_topics: Vec<TopicId>,
}

/// What was sequenced together.
pub(super) struct Waiting {
    /// Where the log has to come to.
    pub(super) end: Position,
    /// Whether it has to be durable up to there.
    pub(super) when: When,
    pub(super) block: Option<(Placed, Vec<PendingFrame>)>,
    /// Appends to memory topics that are shown with it.
    pub(super) volatile: Vec<VolatileAppend>,
    pub(super) replies: Vec<Reply>,
}

/// A frame of a block.
pub(super) struct PendingFrame {
    pub(super) slot: FrameSlot,
    pub(super) applied: Applied,
    /// Those of its records that change the catalog.
    pub(super) catalog: Vec<Record>,
}

impl Publisher {
    pub(in crate::commit) fn new(
        catalog: watch::Sender<Arc<Catalog>>,
        volatile: Arc<Mutex<Volatile>>,
        reader: Reader,
    ) -> Self {
        Self {
            catalog,
            volatile,
            reader,
            waiting: VecDeque::new(),
            deleted_topics: Vec::new(),
        }
    }

    /// Puts in line what is on its way to the log, in the log's order.
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// Publishes and answers what has become ready; everything that waits is
    /// answered "unknown" when the log has failed.
    pub(super) fn publish_ready(&mut self) {
        // First, so that nothing is answered as done that came after a failure.
        if let Some(reason) = self.reader.failure() {
            return self.fail(&reason);
        }
        let (durable, written) = (self.reader.durable_end(), self.reader.written_end());
        while let Some(first) = self.waiting.front()
            && first.end
                <= match first.when {
                    When::Durable => durable,
                    When::Written => written,
                }
            && let Some(first) = self.waiting.pop_front()
        {
            if let Some((placed, frames)) = first.block {
                self.publish(placed, frames);
                fault_point!(BlockShown);
            }
            self.publish_volatile(first.volatile);
            for reply in first.replies {
                reply(Ok(()));
            }
            fault_point!(BlockAnswered);
        }
    }

    fn fail(&mut self, reason: &Arc<str>) {
        if !self.waiting.is_empty() {
            tracing::error!(%reason, "the log has failed; publishing and delivery stop");
        }
        for waiting in self.waiting.drain(..) {
            for reply in waiting.replies {
                reply(Err(Unavailable::LogFailed(reason.clone())));
            }
        }
    }

    /// What readers see.
    pub(super) fn catalog(&self) -> Arc<Catalog> {
        self.catalog.borrow().clone()
    }

    /// Topics that were deleted since this was asked last.
    pub(super) fn take_deleted_topics(&mut self) -> Vec<TopicId> {
        std::mem::take(&mut self.deleted_topics)
    }

    /// Shows what is durable now to whoever reads.
    fn publish(&mut self, placed: Placed, frames: Vec<PendingFrame>) {
        if frames.iter().any(|frame| !frame.catalog.is_empty()) {
            let mut catalog = Catalog::clone(&self.catalog.borrow());
            let mut deleted = Vec::new();
            for record in frames.iter().flat_map(|frame| &frame.catalog) {
                deleted.extend(catalog.apply(record));
            }
            self.catalog.send_replace(Arc::new(catalog));
            for topic in deleted {
                self.deleted_topics.push(topic.id);
                lock(&self.volatile).forget(topic.id);
                topic.notify();
            }
        }
        let catalog = self.catalog.borrow();
        let mut touched: Vec<&Arc<Topic>> = Vec::new();
        for frame in frames {
            let (position, length) = placed.frame(frame.slot);
            // A topic that is not there was deleted since, in the same block.
            for placed in &frame.applied.placed {
                if let Some((topic, partition)) = catalog.partition(placed.source) {
                    partition.publish(placed, position, length);
                    if !placed.relocated && !touched.iter().any(|t| t.id == topic.id) {
                        touched.push(topic);
                    }
                }
            }
            for kept in &frame.applied.kept {
                if let Some((topic, partition)) = catalog.partition(kept.source) {
                    partition.keep(kept);
                    if kept.trimmed && !touched.iter().any(|t| t.id == topic.id) {
                        touched.push(topic);
                    }
                }
            }
        }
        for topic in touched {
            topic.notify();
        }
    }

    /// Shows what memory topics got together with what is durable now.
    fn publish_volatile(&self, appends: Vec<VolatileAppend>) {
        if appends.is_empty() {
            return;
        }
        let catalog = self.catalog();
        let mut volatile = lock(&self.volatile);
        for append in appends {
            if let Some(topic) = volatile.show_held(append, &catalog) {
                topic.notify();
            }
        }
    }
}
