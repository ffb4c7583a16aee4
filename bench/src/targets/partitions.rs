//! Topics of brokers in which each member of a group reads a partition of its own: as
//! many partitions as members, or as the load says. Batches go to them in turn, and
//! events with keys where their keys say.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use futures_util::future::try_join_all;

use super::gather::Gather;
use crate::load::{
    target::Acked,
    workload::{Ack, Kind, Spec},
};

/// Partitions of each topic of a load.
pub(super) fn of_each(spec: &Spec) -> u32 {
    spec.partitions.max(spec.members as u32)
}

/// Why a load cannot run on such topics, if so.
pub(super) fn lacks(spec: &Spec) -> Option<&'static str> {
    if spec.kind.reads() && spec.partitions > 1 {
        return Some("a member reads one partition here");
    }
    let acks_each = spec.kind == Kind::Drain && spec.ack == Ack::Event;
    acks_each.then_some("it has no acks of single events")
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

    /// Gives a batch to a topic: records with keys to the partitions that their keys
    /// say, and the others to the partition whose turn it is. With each record are its
    /// key and its bytes.
    pub(super) async fn send(
        &mut self,
        topic: usize,
        records: Vec<(Option<u64>, usize, R)>,
    ) -> anyhow::Result<Acked> {
        let turn = self.sent % self.of_each;
        self.sent += 1;
        let mut by_partition: BTreeMap<usize, (Vec<R>, usize)> = BTreeMap::new();
        for (key, bytes, record) in records {
            let partition = key.map_or(turn, |key| key as usize % self.of_each);
            let (records, sum) = by_partition.entry(partition).or_default();
            records.push(record);
            *sum += bytes;
        }
        let mut acks = Vec::new();
        for (partition, (records, bytes)) in by_partition {
            let gather = &self.all[topic * self.of_each + partition];
            acks.push(gather.send(records, bytes).await?);
        }
        Ok(match acks.pop() {
            Some(only) if acks.is_empty() => only,
            last => {
                acks.extend(last);
                Box::pin(async move {
                    try_join_all(acks).await?;
                    Ok(())
                })
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::targets::gather::Limits;

    #[tokio::test]
    async fn keys_say_the_partition_and_batches_without_take_turns() {
        let came = Arc::new(Mutex::new(vec![Vec::new(); 3]));
        let limits = Limits {
            under_way: 1,
            bytes: 100,
        };
        let gather = |partition: usize| {
            let came = came.clone();
            Gather::new(limits, move |records: Vec<u64>| {
                came.lock().unwrap()[partition].extend(records);
                async { Ok(()) }
            })
        };
        let spec = Spec {
            partitions: 3,
            ..Spec::default()
        };
        let mut partitions = Partitions::new((0..3).map(gather).collect(), &spec);
        for batch in [[10, 11], [20, 21]] {
            let records = batch.map(|record| (None, 1, record)).to_vec();
            partitions.send(0, records).await.unwrap().await.unwrap();
        }
        let records = (0..7).map(|key| (Some(key), 1, key)).collect();
        partitions.send(0, records).await.unwrap().await.unwrap();
        let came = came.lock().unwrap();
        assert_eq!(came[0], [10, 11, 0, 3, 6]);
        assert_eq!(came[1], [20, 21, 1, 4]);
        assert_eq!(came[2], [2, 5]);
    }
}
