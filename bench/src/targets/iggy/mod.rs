//! Apache Iggy over its own protocol on TCP: requests one after the other on each
//! connection, as its client has them, and polls that commit the offset
//! (<https://iggy.apache.org/docs>).
//!
//! The protocol is spoken here, and not by its client's crate: that brings 188 more
//! packages, a TLS library in C among them, for five requests over a plain connection.

mod connection;
mod protocol;

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Mutex;

use self::{connection::Connection, protocol::Request};
use super::{
    gather::{Gather, Limits},
    partitions::{self, Members, Partitions},
    peer::{PeerProcess, Start, free_port},
};
use crate::load::{
    target::{Acked, Consumer, Message, Producer, Target},
    workload::Spec,
};

/// Its client waits for each answer; the server saves what has gathered to 1 MiB.
const LIMITS: Limits = Limits {
    under_way: 1,
    bytes: 1 << 20,
};
/// The most events of one poll.
const POLL_COUNT: u32 = 1000;
/// Everything is in one stream.
const STREAM: &str = "bench";
/// Longest wait until a server that listens takes commands.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server, and how to talk to it.
pub(crate) struct Iggy {
    process: PeerProcess,
    port: u16,
    settings: String,
    members: Members,
}

/// The server's program; `None` if nobody says where it is.
fn program() -> Option<PathBuf> {
    let program = env::var_os("SLUICE_BENCH_IGGY").map(PathBuf::from)?;
    program.is_file().then_some(program)
}

/// Whether there is a server.
pub(super) fn is_there() -> bool {
    program().is_some()
}

impl Iggy {
    /// Starts a server that saves and syncs each batch before it acks, or acks from
    /// memory, which is its default.
    pub(crate) fn start(dir: tempfile::TempDir, synced: bool) -> anyhow::Result<Self> {
        let program = program().context("SLUICE_BENCH_IGGY does not say where its server is")?;
        let port = free_port()?;
        let mut variables: Vec<_> = [
            ("IGGY_ROOT_USERNAME", "iggy"),
            ("IGGY_ROOT_PASSWORD", "iggy"),
            ("IGGY_HTTP_ENABLED", "false"),
            ("IGGY_QUIC_ENABLED", "false"),
            ("IGGY_WEBSOCKET_ENABLED", "false"),
        ]
        .map(|(name, value)| (name, value.into()))
        .into();
        variables.push(("IGGY_SYSTEM_PATH", dir.path().join("data").into()));
        variables.push(("IGGY_TCP_ADDRESS", format!("127.0.0.1:{port}").into()));
        let setting = if synced {
            variables.extend([
                ("IGGY_SYSTEM_PARTITION_ENFORCE_FSYNC", "true".into()),
                (
                    "IGGY_SYSTEM_PARTITION_MESSAGES_REQUIRED_TO_SAVE",
                    "1".into(),
                ),
            ]);
            "enforce_fsync, every batch saved"
        } else {
            "saved after 1,024 events or 1 MiB"
        };
        let version = version(&program);
        let start = Start {
            program: program.into(),
            args: Vec::new(),
            variables,
            port,
        };
        Ok(Self {
            process: PeerProcess::start(start, dir)?,
            port,
            settings: format!(
                "{version}, {setting}; a partition for each member of a group; polls of up to \
                 {POLL_COUNT} that commit"
            ),
            members: Members::default(),
        })
    }

    /// Tries until it is done: the server listens before it takes commands.
    async fn connect(&self) -> anyhow::Result<Connection> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match Connection::open(self.port).await {
                Ok(connection) => return Ok(connection),
                Err(error) if Instant::now() > give_up => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }
}

/// What the server calls itself.
fn version(program: &PathBuf) -> String {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}

#[async_trait]
impl Target for Iggy {
    fn settings(&self) -> &str {
        &self.settings
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    async fn create(&self, topics: &[String], spec: &Spec) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        connection.request(Request::create_stream(STREAM)).await?;
        for topic in topics {
            let request = Request::create_topic(STREAM, topic, partitions::of_each(spec));
            connection.request(request).await?;
        }
        Ok(())
    }

    async fn restart(&self) -> anyhow::Result<Instant> {
        self.process.restart()
    }

    async fn producer(&self, topics: &[String], spec: &Spec) -> anyhow::Result<Box<dyn Producer>> {
        let connection = Arc::new(Mutex::new(self.connect().await?));
        let mut all = Vec::new();
        for topic in topics {
            for partition in 0..partitions::of_each(spec) {
                let (connection, topic) = (connection.clone(), topic.clone());
                all.push(Gather::new(LIMITS, move |payloads: Vec<Bytes>| {
                    let request = Request::send(STREAM, &topic, partition, &payloads);
                    let connection = connection.clone();
                    async move {
                        connection.lock().await.request(request).await?;
                        Ok(())
                    }
                }));
            }
        }
        Ok(Box::new(Publisher(Partitions::new(all, spec))))
    }

    async fn consumer(
        &self,
        topic: &str,
        group: usize,
        spec: &Spec,
    ) -> anyhow::Result<Box<dyn Consumer>> {
        let connection = self.connect().await?;
        let partition = self.members.join(topic, group, spec);
        let count = POLL_COUNT.min(spec.window as u32);
        Ok(Box::new(Reader {
            poll: Request::poll(STREAM, topic, group as u32 + 1, partition, count),
            connection,
        }))
    }
}

struct Publisher(Partitions<Bytes>);

#[async_trait]
impl Producer for Publisher {
    async fn send(&mut self, topic: usize, batch: Vec<Message>) -> anyhow::Result<Acked> {
        let bytes = batch.iter().map(|message| message.payload.len()).sum();
        let payloads = batch.into_iter().map(|message| message.payload);
        self.0.send(topic, payloads.collect(), bytes).await
    }
}

struct Reader {
    poll: Request,
    connection: Connection,
}

#[async_trait]
impl Consumer for Reader {
    async fn next(&mut self) -> anyhow::Result<Vec<Bytes>> {
        loop {
            let answer = self.connection.request(self.poll.clone()).await?;
            let payloads = protocol::polled(answer)?;
            if !payloads.is_empty() {
                return Ok(payloads);
            }
        }
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}
