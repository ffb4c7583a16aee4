//! Topics of brokers in which each member of a group reads a partition of its own: as
//! many partitions as members, and batches go to them in turn.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::gather::Gather;
use crate::load::{target::Acked, workload::Spec};

/// Partitions of each topic of a load.
pub(super) fn of_each(spec: &Spec) -> u32 {
    spec.members.max(1) as u32
}

/// Who has joined which group of which topic.
#[derive(Default)]
pub(super) struct Members(Mutex<HashMap<(String, usize), u32>>);

impl Members {
    /// The partition of one more.
    pub(super) fn join(&self, topic: &str, group: usize, spec: &Spec) -> u32 {
        let mut members = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let joined = members.entry((topic.to_owned(), group)).or_default();
        *joined += 1;
        (*joined - 1) % of_each(spec)
    }

    /// Nobody is there any more.
    #[cfg(feature = "kafka")]
    pub(super) fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// A producer's partitions of all its topics.
pub(super) struct Partitions<R> {
    all: Vec<Gather<R>>,
    of_each: usize,
    sent: usize,
}

impl<R: Send + 'static> Partitions<R> {
    /// By topic and then by number.
    pub(super) fn new(all: Vec<Gather<R>>, spec: &Spec) -> Self {
        Self {
            all,
            of_each: of_each(spec) as usize,
            sent: 0,
        }
    }

    /// Gives a batch of so many bytes to the partition of a topic whose turn it is.
    pub(super) async fn send(
        &mut self,
        topic: usize,
        records: Vec<R>,
        bytes: usize,
    ) -> anyhow::Result<Acked> {
        let partition = topic * self.of_each + self.sent % self.of_each;
        self.sent += 1;
        self.all[partition].send(records, bytes).await
    }
}
