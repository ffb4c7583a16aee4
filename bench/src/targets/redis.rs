//! Redis Streams: XADD in pipelines, XREADGROUP and XACK
//! (<https://redis.io/docs/latest/develop/data-types/streams/>).

use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use redis::{
    AsyncCommands, ErrorKind, IntoConnectionInfo, ServerErrorKind,
    aio::MultiplexedConnection,
    io::tcp::TcpSettings,
    streams::{StreamReadOptions, StreamReadReply},
};

use super::peer::{self, PeerProcess, Start, free_port};
use crate::load::{
    target::{ANSWER_PATIENCE, Acked, Consumer, Message, Producer, Target},
    workload::{Ack, Spec},
};

/// The most events of one read.
const READ_COUNT: usize = 1000;
pub(super) const PROGRAM: &str = "redis-server";

pub(crate) struct Redis {
    process: PeerProcess,
    settings: String,
    url: String,
}

impl Redis {
    /// Starts a server that syncs before it answers, or once a second.
    pub(crate) fn start(dir: tempfile::TempDir, synced: bool) -> anyhow::Result<Self> {
        let port = free_port()?;
        let fsync = if synced { "always" } else { "everysec" };
        let port_text = port.to_string();
        let args = [
            "--bind",
            "127.0.0.1",
            "--port",
            &port_text,
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            fsync,
            "--dir",
        ];
        let mut args: Vec<_> = args.into_iter().map(Into::into).collect();
        args.push(dir.path().into());
        let start = Start {
            program: PROGRAM.into(),
            args,
            variables: Vec::new(),
            port,
        };
        let process = PeerProcess::start(start, dir)?;
        let version = peer::version(PROGRAM).unwrap_or_default();
        Ok(Self {
            settings: format!("{version}, appendonly yes, appendfsync {fsync}"),
            url: format!("redis://127.0.0.1:{port}/"),
            process,
        })
    }

    /// Where a sync once a second takes long, it answers and writes later, and what it
    /// has not written goes with the process: no recovery could bring that back.
    async fn until_all_is_written(&self) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        loop {
            let info: String = redis::cmd("INFO")
                .arg("persistence")
                .query_async(&mut connection)
                .await?;
            if info.lines().any(|line| line == "aof_buffer_length:0") {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn connect(&self) -> anyhow::Result<MultiplexedConnection> {
        let address = self.url.as_str().into_connection_info()?;
        let at_once = TcpSettings::default().set_nodelay(true);
        let client = redis::Client::open(address.set_tcp_settings(at_once))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        connection.set_response_timeout(ANSWER_PATIENCE);
        Ok(connection)
    }
}

#[async_trait]
impl Target for Redis {
    fn settings(&self) -> &str {
        &self.settings
    }

    fn pid(&self) -> Option<u32> {
        Some(self.process.pid())
    }

    async fn create(&self, topics: &[String], spec: &Spec) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        for topic in topics {
            for group in 0..spec.groups {
                let group = format!("group-{group}");
                let _: () = connection.xgroup_create_mkstream(topic, group, "0").await?;
            }
        }
        Ok(())
    }

    async fn restart(&self) -> anyhow::Result<Instant> {
        self.until_all_is_written().await?;
        let started = self.process.restart()?;
        // It listens before it has loaded its data, and refuses until then.
        loop {
            let mut connection = self.connect().await?;
            match redis::cmd("PING").query_async::<()>(&mut connection).await {
                Ok(()) => return Ok(started),
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading) => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn producer(&self, topics: &[String], spec: &Spec) -> anyhow::Result<Box<dyn Producer>> {
        Ok(Box::new(Publisher {
            topics: topics.to_vec(),
            partitions: u64::from(spec.partitions),
            connection: self.connect().await?,
        }))
    }

    async fn consumer(
        &self,
        topic: &str,
        group: usize,
        spec: &Spec,
    ) -> anyhow::Result<Box<dyn Consumer>> {
        // One that waits blocks its connection, so that each has its own.
        let mut connection = self.connect().await?;
        let id: u64 = redis::cmd("CLIENT")
            .arg("ID")
            .query_async(&mut connection)
            .await?;
        Ok(Box::new(Member {
            topic: topic.to_owned(),
            group: format!("group-{group}"),
            member: format!("bench-{id}"),
            connection,
            count: spec.window.min(READ_COUNT),
            ack: spec.ack,
            unacked: Vec::new(),
        }))
    }
}

struct Publisher {
    topics: Vec<String>,
    /// Each a stream, by the keys of events.
    partitions: u64,
    connection: MultiplexedConnection,
}

#[async_trait]
impl Producer for Publisher {
    async fn send(&mut self, topic: usize, batch: Vec<Message>) -> anyhow::Result<Acked> {
        let mut pipeline = redis::pipe();
        for message in &batch {
            let add = pipeline.cmd("XADD");
            match message.key {
                Some(key) if self.partitions > 1 => {
                    add.arg(format!("{}-{}", self.topics[topic], key % self.partitions));
                }
                _ => {
                    add.arg(&self.topics[topic]);
                }
            }
            add.arg("*");
            if let Some(key) = message.key {
                add.arg("k").arg(key);
            }
            add.arg("p").arg(&message.payload[..]).ignore();
        }
        let mut connection = self.connection.clone();
        // Spawned, so that it goes out now and not when the ack is awaited.
        let sent = tokio::spawn(async move { pipeline.query_async::<()>(&mut connection).await });
        Ok(Box::pin(async move { Ok(sent.await??) }))
    }
}

struct Member {
    topic: String,
    group: String,
    member: String,
    connection: MultiplexedConnection,
    /// Events of one read.
    count: usize,
    ack: Ack,
    unacked: Vec<String>,
}

impl Member {
    async fn acknowledge(&mut self) -> anyhow::Result<()> {
        let ids = std::mem::take(&mut self.unacked);
        if ids.is_empty() {
            return Ok(());
        }
        match self.ack {
            Ack::Batch => {
                let _: u64 = self.connection.xack(&self.topic, &self.group, &ids).await?;
            }
            Ack::Event => {
                let mut pipeline = redis::pipe();
                for id in &ids {
                    pipeline.xack(&self.topic, &self.group, &[id]).ignore();
                }
                pipeline.query_async::<()>(&mut self.connection).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self) -> anyhow::Result<Vec<Bytes>> {
        self.acknowledge().await?;
        let options = StreamReadOptions::default()
            .group(&self.group, &self.member)
            .count(self.count)
            .block(500);
        loop {
            let reply: Option<StreamReadReply> = self
                .connection
                .xread_options(&[&self.topic], &[">"], &options)
                .await?;
            let entries = reply.into_iter().flat_map(|reply| reply.keys);
            let mut payloads = Vec::new();
            for entry in entries.flat_map(|key| key.ids) {
                let payload: Vec<u8> = entry.get("p").context("an entry without payload")?;
                payloads.push(payload.into());
                self.unacked.push(entry.id);
            }
            if !payloads.is_empty() {
                return Ok(payloads);
            }
        }
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        self.acknowledge().await
    }
}
