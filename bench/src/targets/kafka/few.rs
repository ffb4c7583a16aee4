//! Publishing to few partitions, and reading one, through rskafka, which has a
//! connection for each.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use rskafka::{
    client::{
        ClientBuilder,
        partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling},
    },
    record::Record,
};

use super::groups::Offsets;
use crate::{
    load::{
        target::{Acked, Consumer, Message, Producer},
        workload::Spec,
    },
    targets::{
        address::Address,
        gather::{Gather, Limits},
        nodelay,
        partitions::{self, Partitions},
    },
};

/// As in Kafka's own client with `linger.ms=0`; the server takes 1 MiB at once.
const LIMITS: Limits = Limits {
    under_way: 5,
    bytes: 900 << 10,
};
/// Bytes that a read waits for, and the most that it gets.
const FETCH_BYTES: std::ops::Range<i32> = 1..4 << 20;
const FETCH_WAIT_MS: i32 = 500;

/// The clients of some partitions, connected.
async fn open(
    address: &Address,
    partitions: &[(&str, u32)],
) -> anyhow::Result<Vec<PartitionClient>> {
    let client = ClientBuilder::new(vec![address.to_string()])
        .build()
        .await?;
    let mut opened = Vec::new();
    for (topic, partition) in partitions {
        let handling = UnknownTopicHandling::Retry;
        let partition = client.partition_client(*topic, *partition as i32, handling);
        let partition = partition.await?;
        partition.get_offset(OffsetAt::Latest).await?;
        opened.push(partition);
    }
    nodelay::set_on_connections_to(address.port)?;
    Ok(opened)
}

pub(super) struct Publisher(Partitions<Record>);

impl Publisher {
    pub(super) async fn open(
        address: &Address,
        topics: &[String],
        spec: &Spec,
    ) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for topic in topics {
            let partitions = 0..partitions::of_each(spec);
            all.extend(partitions.map(|number| (topic.as_str(), number)));
        }
        let opened = open(address, &all).await?.into_iter().map(|partition| {
            let partition = Arc::new(partition);
            Gather::new(LIMITS, move |records| {
                let partition = partition.clone();
                async move {
                    partition
                        .produce(records, Compression::NoCompression)
                        .await?;
                    Ok(())
                }
            })
        });
        Ok(Self(Partitions::new(opened.collect(), spec)))
    }
}

#[async_trait]
impl Producer for Publisher {
    async fn send(&mut self, topic: usize, batch: Vec<Message>) -> anyhow::Result<Acked> {
        let timestamp = chrono::DateTime::UNIX_EPOCH + chrono::Duration::days(20_000);
        let records = batch.into_iter().map(|message| {
            let record = Record {
                key: message.key.map(|key| key.to_le_bytes().to_vec()),
                value: Some(message.payload.to_vec()),
                headers: Default::default(),
                timestamp,
            };
            (message.key, message.payload.len(), record)
        });
        self.0.send(topic, records.collect()).await
    }
}

pub(super) struct Reader {
    partition: PartitionClient,
    offsets: Offsets,
    next: i64,
}

impl Reader {
    pub(super) async fn open(
        address: &Address,
        topic: &str,
        partition: u32,
        offsets: Offsets,
    ) -> anyhow::Result<Self> {
        let mut opened = open(address, &[(topic, partition)]).await?;
        Ok(Self {
            partition: opened.pop().context("it is open")?,
            offsets,
            next: 0,
        })
    }
}

#[async_trait]
impl Consumer for Reader {
    async fn next(&mut self) -> anyhow::Result<Vec<Bytes>> {
        self.offsets.done(self.next)?;
        loop {
            let fetched = self
                .partition
                .fetch_records(self.next, FETCH_BYTES, FETCH_WAIT_MS);
            let (records, _) = fetched.await?;
            let Some(last) = records.last() else { continue };
            self.next = last.offset + 1;
            let values = records.into_iter().filter_map(|found| found.record.value);
            return Ok(values.map(Bytes::from).collect());
        }
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        self.offsets.commit_and_wait(self.next).await
    }
}
