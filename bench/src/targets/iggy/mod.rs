//! Apache Iggy over its own protocol on TCP: requests one after the other on each
//! connection, which is all that its client can have under way, what waits meanwhile in
//! the next, as its background producer has it, and polls that commit the offset
//! (<https://iggy.apache.org/docs>).
//!
//! The protocol is spoken here, and not by its client's crate: that brings 174 more
//! packages, HTTP, QUIC and WebSocket with a TLS library in C among them, of which none
//! can be left out, and one whose licence `deny.toml` does not have.

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
    address::{Address, IggyAddress},
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
/// Longest wait until a server that listens takes commands.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server, and how to talk to it.
pub(crate) struct Iggy {
    /// `None` if somebody else has started it.
    process: Option<PeerProcess>,
    address: IggyAddress,
    /// Everything is in one stream.
    stream: String,
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
        let process = PeerProcess::start(start, dir)?;
        let address = IggyAddress::of(Address::of_loopback(port));
        let settings = format!("{version}, {setting}");
        Ok(Self::of(Some(process), address, &settings))
    }

    /// One that somebody else has started.
    pub(crate) fn at(address: IggyAddress) -> Self {
        let settings = format!("a server at {}", address.address);
        Self::of(None, address, &settings)
    }

    fn of(process: Option<PeerProcess>, address: IggyAddress, settings: &str) -> Self {
        Self {
            process,
            address,
            // Not what somebody has there already.
            stream: format!("sluice-bench-{}", std::process::id()),
            settings: format!(
                "{settings}; a partition for each member of a group; polls of up to \
                 {POLL_COUNT} that commit"
            ),
            members: Members::default(),
        }
    }

    /// Tries until it is done: the server listens before it takes commands.
    async fn connect(&self) -> anyhow::Result<Connection> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match Connection::open(&self.address).await {
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

    fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(PeerProcess::pid)
    }

    async fn create(&self, topics: &[String], spec: &Spec) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        self.members.clear();
        let stream = Request::create_stream(&self.stream);
        connection.request(stream).await?;
        for topic in topics {
            let request = Request::create_topic(&self.stream, topic, partitions::of_each(spec));
            if let Err(error) = connection.request(request).await {
                self.remove(topics, spec).await?;
                return Err(error);
            }
        }
        Ok(())
    }

    async fn remove(&self, _: &[String], _: &Spec) -> anyhow::Result<()> {
        if self.process.is_none() {
            let stream = Request::delete_stream(&self.stream);
            self.connect().await?.request(stream).await?;
        }
        Ok(())
    }

    async fn restart(&self) -> anyhow::Result<Instant> {
        let process = self.process.as_ref();
        process.context("it is not the bench's to kill")?.restart()
    }

    async fn producer(&self, topics: &[String], spec: &Spec) -> anyhow::Result<Box<dyn Producer>> {
        let connection = Arc::new(Mutex::new(self.connect().await?));
        let mut all = Vec::new();
        for topic in topics {
            for partition in 0..partitions::of_each(spec) {
                let (connection, topic) = (connection.clone(), topic.clone());
                let stream = self.stream.clone();
                all.push(Gather::new(LIMITS, move |payloads: Vec<Bytes>| {
                    let request = Request::send(&stream, &topic, partition, &payloads);
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
            poll: Request::poll(&self.stream, topic, group as u32 + 1, partition, count),
            connection,
        }))
    }
}

struct Publisher(Partitions<Bytes>);

#[async_trait]
impl Producer for Publisher {
    async fn send(&mut self, topic: usize, batch: Vec<Message>) -> anyhow::Result<Acked> {
        let records = batch.into_iter().map(|message| {
            let payload = message.payload;
            (message.key, payload.len(), payload)
        });
        self.0.send(topic, records.collect()).await
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
