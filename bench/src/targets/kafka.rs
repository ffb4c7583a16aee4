//! Kafka: one node that is its own controller (KRaft), from the Maven artifacts
//! that `bench/kafka/get` gets (<https://kafka.apache.org/documentation>).

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use rskafka::{
    client::{
        Client, ClientBuilder,
        partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling},
    },
    record::Record,
};

use super::{
    gather::{Gather, Limits},
    nodelay,
    partitions::{self, Members, Partitions},
    peer::{PeerProcess, Start, free_port},
};
use crate::load::{
    target::{Acked, Consumer, Message, Producer, Target},
    workload::Spec,
};

/// As in Kafka's own client with `linger.ms=0`; the server takes 1 MiB at once.
const LIMITS: Limits = Limits {
    under_way: 5,
    bytes: 900 << 10,
};
/// Bytes that a read waits for, and the most that it gets.
const FETCH_BYTES: std::ops::Range<i32> = 1..4 << 20;
const FETCH_WAIT_MS: i32 = 500;

/// Events go to and fro for so long before a load begins: a virtual machine that
/// has just started interprets what it will have compiled soon.
const WARM_UP: Duration = Duration::from_secs(4);
const WARM_UP_TOPIC: &str = "warm-up";

/// A node, and how to talk to it.
pub(crate) struct Kafka {
    process: PeerProcess,
    port: u16,
    settings: String,
    is_warm: AtomicBool,
    members: Members,
}

/// Where the server's artifacts are; `None` if they, or Java, are not there.
fn artifacts() -> Option<PathBuf> {
    let folder = env::var_os("SLUICE_BENCH_KAFKA").map_or("target/kafka".into(), PathBuf::from);
    let java = Command::new("java")
        .arg("-version")
        .stderr(Stdio::null())
        .status();
    let all = java.is_ok_and(|status| status.success()) && version_of(&folder).is_some();
    all.then(|| folder.canonicalize().ok()).flatten()
}

/// The version that was got; `None` without one.
pub(super) fn version() -> Option<String> {
    version_of(&artifacts()?)
}

fn version_of(folder: &Path) -> Option<String> {
    let entries = fs::read_dir(folder).ok()?;
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.find_map(|name| {
        let version = name.strip_prefix("kafka_2.13-")?.strip_suffix(".jar")?;
        Some(version.to_owned())
    })
}

impl Kafka {
    /// Starts a node that syncs each batch before it acks, or leaves that to the
    /// operating system, which is its default.
    pub(crate) fn start(dir: tempfile::TempDir, synced: bool) -> anyhow::Result<Self> {
        let folder = artifacts().context("Kafka is not there; bench/kafka/get gets it")?;
        let (port, controller) = (free_port()?, free_port()?);
        let data = dir.path().join("data");
        let sync = if synced {
            "log.flush.interval.messages=1\n"
        } else {
            ""
        };
        let file = dir.path().join("server.properties");
        let text = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             log.dirs={}\n\
             offsets.topic.replication.factor=1\n\
             log.segment.delete.delay.ms=1000\n\
             {sync}",
            data.display()
        );
        fs::write(&file, text)?;
        let classes = format!("{}/*", folder.display());
        let format = Command::new("java")
            .args(["-cp", &classes, "kafka.tools.StorageTool", "format"])
            .args(["-t", "c2x1aWNlLWJlbmNoLWthZg", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        anyhow::ensure!(format.success(), "the storage cannot be formatted");
        let start = Start {
            program: "java".into(),
            // As its own script has it.
            args: ["-server", "-Xms1G", "-Xmx1G", "-XX:+UseG1GC", "-cp"]
                .map(Into::into)
                .into_iter()
                .chain([classes.into(), "kafka.Kafka".into(), file.into()])
                .collect(),
            variables: Vec::new(),
            port,
        };
        let flush = if synced {
            "log.flush.interval.messages 1"
        } else {
            "every default"
        };
        Ok(Self {
            process: PeerProcess::start(start, dir)?,
            port,
            settings: format!(
                "Kafka {}, one node, heap 1 GiB, acks all, {flush}; a partition for each \
                 member of a group; read without committing offsets, after {} s of warm-up",
                version_of(&folder).unwrap_or_default(),
                WARM_UP.as_secs()
            ),
            is_warm: AtomicBool::new(false),
            members: Members::default(),
        })
    }

    /// Publishes and reads for a while, so that what runs often is compiled.
    async fn warm_up(&self, spec: &Spec) -> anyhow::Result<()> {
        let topic = WARM_UP_TOPIC.to_owned();
        self.make(&topic, 1).await?;
        let until = Instant::now() + WARM_UP;
        let mut reader = self.consumer(&topic, 0, spec).await?;
        let mut producer = self.producer(&[topic], spec).await?;
        while Instant::now() < until {
            let message = Message {
                payload: Bytes::from_static(&[0; 1024]),
                is_json: false,
                key: None,
                label: None,
            };
            producer.send(0, vec![message]).await?.await?;
            reader.next().await?;
        }
        Ok(())
    }

    async fn connect(&self) -> anyhow::Result<Client> {
        let address = format!("127.0.0.1:{}", self.port);
        Ok(ClientBuilder::new(vec![address]).build().await?)
    }

    async fn make(&self, topic: &str, partitions: u32) -> anyhow::Result<()> {
        let controller = self.connect().await?.controller_client()?;
        let (copies, patience_ms) = (1, 10_000);
        controller
            .create_topic(topic, partitions as i32, copies, patience_ms)
            .await?;
        Ok(())
    }

    /// The clients of some partitions, connected.
    async fn open(&self, partitions: &[(&str, u32)]) -> anyhow::Result<Vec<PartitionClient>> {
        let client = self.connect().await?;
        let mut opened = Vec::new();
        for (topic, partition) in partitions {
            let handling = UnknownTopicHandling::Retry;
            let partition = client.partition_client(*topic, *partition as i32, handling);
            let partition = partition.await?;
            partition.get_offset(OffsetAt::Latest).await?;
            opened.push(partition);
        }
        nodelay::set_on_connections_to(self.port)?;
        Ok(opened)
    }
}

#[async_trait]
impl Target for Kafka {
    fn settings(&self) -> &str {
        &self.settings
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    async fn create(&self, topics: &[String], spec: &Spec) -> anyhow::Result<()> {
        if !self.is_warm.swap(true, Ordering::Relaxed) {
            self.warm_up(spec).await?;
        }
        self.members.clear();
        for topic in topics {
            self.make(topic, partitions::of_each(spec)).await?;
        }
        Ok(())
    }

    async fn remove(&self, topics: &[String], _: &Spec) -> anyhow::Result<()> {
        let controller = self.connect().await?.controller_client()?;
        for topic in topics {
            let patience_ms = 10_000;
            controller.delete_topic(topic, patience_ms).await?;
        }
        Ok(())
    }

    async fn restart(&self) -> anyhow::Result<Instant> {
        self.process.restart()
    }

    async fn producer(&self, topics: &[String], spec: &Spec) -> anyhow::Result<Box<dyn Producer>> {
        let partitions = partitions::of_each(spec);
        let mut all = Vec::new();
        for topic in topics {
            all.extend((0..partitions).map(|number| (topic.as_str(), number)));
        }
        let opened = self.open(&all).await?.into_iter().map(|partition| {
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
        let partitions = Partitions::new(opened.collect(), spec);
        Ok(Box::new(Publisher(partitions)))
    }

    async fn consumer(
        &self,
        topic: &str,
        group: usize,
        spec: &Spec,
    ) -> anyhow::Result<Box<dyn Consumer>> {
        let number = self.members.join(topic, group, spec);
        let mut opened = self.open(&[(topic, number)]).await?;
        Ok(Box::new(Reader {
            partition: opened.pop().context("it is open")?,
            next: 0,
        }))
    }
}

struct Publisher(Partitions<Record>);

#[async_trait]
impl Producer for Publisher {
    async fn send(&mut self, topic: usize, batch: Vec<Message>) -> anyhow::Result<Acked> {
        let timestamp = chrono::DateTime::UNIX_EPOCH + chrono::Duration::days(20_000);
        let bytes = batch.iter().map(|message| message.payload.len()).sum();
        let records = batch.into_iter().map(|message| Record {
            key: message.key.map(|key| key.to_le_bytes().to_vec()),
            value: Some(message.payload.to_vec()),
            headers: Default::default(),
            timestamp,
        });
        self.0.send(topic, records.collect(), bytes).await
    }
}

struct Reader {
    partition: PartitionClient,
    next: i64,
}

#[async_trait]
impl Consumer for Reader {
    async fn next(&mut self) -> anyhow::Result<Vec<Bytes>> {
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
        Ok(())
    }
}
