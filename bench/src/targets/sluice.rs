//! Sluice itself, over the API as any client would.

use std::{collections::HashMap, ffi::OsStr, net::SocketAddr};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use sluice_proto::{
    event::EventRef,
    pb::{self, admin_service_client::AdminServiceClient},
    wire::{
        self, consume_request::Message as ConsumeIn, consume_response::Message as ConsumeOut,
        publish_stream_request::Message as PublishIn,
        publish_stream_response::Message as PublishOut,
    },
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use crate::{
    consume,
    load::{
        target::{Acked, Consumer, Message, Producer, Target},
        workload::{Ack, Spec},
    },
    process::ServerProcess,
    publish::connect,
};

/// Events that a member may have at once.
const WINDOW: i64 = 4000;

/// A broker over a folder of its own.
pub(crate) struct Sluice {
    process: ServerProcess,
    settings: String,
    _dir: tempfile::TempDir,
}

impl Sluice {
    pub(crate) fn start(dir: tempfile::TempDir) -> anyhow::Result<Self> {
        let args: [&OsStr; 2] = ["broker".as_ref(), dir.path().as_os_str()];
        Ok(Self {
            process: ServerProcess::start(&args)?,
            settings: format!("{}, every default", env!("CARGO_PKG_VERSION")),
            _dir: dir,
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.process.addr
    }
}

#[async_trait]
impl Target for Sluice {
    fn name(&self) -> &str {
        "sluice, fsync"
    }

    fn settings(&self) -> &str {
        &self.settings
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    async fn create(&self, topic: &str, spec: &Spec) -> anyhow::Result<()> {
        let mut admin = AdminServiceClient::new(connect(self.addr()).await?);
        let config = pb::TopicConfig {
            partitions: spec.partitions as i32,
            ..pb::TopicConfig::default()
        };
        admin
            .create_topic(pb::CreateTopicRequest {
                topic: topic.to_owned(),
                config: Some(config),
            })
            .await?;
        let ordering = if spec.keys > 0 {
            pb::Ordering::Key
        } else {
            pb::Ordering::None
        };
        for group in 0..spec.groups {
            let config = pb::GroupConfig {
                ordering: ordering.into(),
                max_in_flight: 100_000,
                ..pb::GroupConfig::default()
            };
            admin
                .create_group(pb::CreateGroupRequest {
                    topic: topic.to_owned(),
                    group: name_of(group),
                    config: Some(config),
                })
                .await?;
        }
        Ok(())
    }

    async fn producer(&self, topic: &str) -> anyhow::Result<Box<dyn Producer>> {
        Ok(Box::new(Publisher::open(self.addr(), topic).await?))
    }

    async fn consumer(
        &self,
        topic: &str,
        group: usize,
        spec: &Spec,
    ) -> anyhow::Result<Box<dyn Consumer>> {
        let grant = grant(0);
        let stream = consume::join(self.addr(), topic, &name_of(group), "bench", grant).await?;
        // Each event is acked by itself in the log; a batch of acks travels
        // together in one message either way.
        let (Ack::Event | Ack::Batch) = spec.ack;
        Ok(Box::new(Member {
            requests: stream.0,
            answers: stream.1,
            received: 0,
            granted: WINDOW,
            unsettled: Vec::new(),
            last_request_id: 0,
            settled: 0,
        }))
    }
}

fn name_of(group: usize) -> String {
    format!("group-{group}")
}

/// Whom to tell of which batch.
type Waiting = HashMap<i64, oneshot::Sender<anyhow::Result<()>>>;

struct Publisher {
    topic: String,
    requests: mpsc::Sender<wire::PublishStreamRequest>,
    waiting: std::sync::Arc<std::sync::Mutex<Waiting>>,
    last_request_id: i64,
    /// The payload that was encoded last, and its event.
    encoded: Option<(Bytes, Bytes)>,
}

impl Publisher {
    async fn open(addr: SocketAddr, topic: &str) -> anyhow::Result<Self> {
        let mut client = tonic::client::Grpc::new(connect(addr).await?);
        client.ready().await?;
        let (requests, stream) = mpsc::channel(64);
        let open = PublishIn::Open(wire::PublishOpen::default());
        requests.send(publish(open)).await?;
        let path = PathAndQuery::from_static("/sluice.v1.BrokerService/PublishStream");
        let codec =
            ProstCodec::<wire::PublishStreamRequest, wire::PublishStreamResponse>::default();
        let stream = tonic::Request::new(ReceiverStream::new(stream));
        let response = client.streaming(stream, path, codec).await?;
        let mut answers = response.into_inner();
        let waiting = std::sync::Arc::new(std::sync::Mutex::new(Waiting::new()));
        let tell = waiting.clone();
        tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                let (request_id, result) = match answer.message {
                    Some(PublishOut::Ack(ack)) => (ack.request_id, Ok(())),
                    Some(PublishOut::Refused(refused)) => {
                        let error = anyhow::anyhow!("refused: {:?}", refused.error);
                        (refused.request_id, Err(error))
                    }
                    _ => continue,
                };
                if let Some(whom) = lock(&tell).remove(&request_id) {
                    let _ = whom.send(result);
                }
            }
            // Whoever still waits is told by the closed channel.
            lock(&tell).clear();
        });
        Ok(Self {
            topic: topic.to_owned(),
            requests,
            waiting,
            last_request_id: 0,
            encoded: None,
        })
    }

    fn event(&mut self, message: Message) -> Bytes {
        if let (None, Some((payload, event))) = (message.key, &self.encoded)
            && payload.as_ptr() == message.payload.as_ptr()
        {
            return event.clone();
        }
        let mut event = pb::Event {
            id: "bench".into(),
            source: "/sluice/bench".into(),
            r#type: "bench.load".into(),
            data: message.payload.clone(),
            ..pb::Event::default()
        };
        if let Some(key) = message.key {
            let key = ("partitionkey".to_owned(), format!("key-{key}"));
            event.attributes.extend([key]);
        }
        let event = Bytes::from(event.encode_to_vec());
        self.encoded = Some((message.payload, event.clone()));
        event
    }
}

fn lock(waiting: &std::sync::Mutex<Waiting>) -> std::sync::MutexGuard<'_, Waiting> {
    waiting
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[async_trait]
impl Producer for Publisher {
    async fn send(&mut self, batch: Vec<Message>) -> anyhow::Result<Acked> {
        self.last_request_id += 1;
        let (acked, ack) = oneshot::channel();
        lock(&self.waiting).insert(self.last_request_id, acked);
        let events = batch.into_iter().map(|message| self.event(message));
        let events = events.collect();
        let batch = wire::PublishBatch {
            request_id: self.last_request_id,
            events,
            topic: self.topic.clone(),
            ..wire::PublishBatch::default()
        };
        self.requests
            .send(publish(PublishIn::Batch(batch)))
            .await
            .context("the stream has ended")?;
        Ok(Box::pin(async move {
            ack.await.context("the stream ended before the ack")?
        }))
    }
}

fn publish(message: PublishIn) -> wire::PublishStreamRequest {
    wire::PublishStreamRequest {
        message: Some(message),
    }
}

struct Member {
    requests: mpsc::Sender<wire::ConsumeRequest>,
    answers: tonic::Streaming<wire::ConsumeResponse>,
    received: i64,
    granted: i64,
    unsettled: Vec<wire::Settlement>,
    last_request_id: i64,
    settled: i64,
}

impl Member {
    async fn settle(&mut self) -> anyhow::Result<()> {
        if self.unsettled.is_empty() {
            return Ok(());
        }
        self.last_request_id += 1;
        let settle = wire::SettleBatch {
            request_id: self.last_request_id,
            settlements: std::mem::take(&mut self.unsettled),
        };
        self.requests
            .send(request(ConsumeIn::Settle(settle)))
            .await?;
        if self.granted - self.received < WINDOW / 2 {
            self.granted = self.received + WINDOW;
            self.requests
                .send(request(ConsumeIn::Grant(grant(self.received))))
                .await?;
        }
        Ok(())
    }

    /// The next payloads; none when what came was something else.
    async fn receive(&mut self) -> anyhow::Result<Vec<Bytes>> {
        let answer = self.answers.message().await?;
        match answer.context("the stream has ended")?.message {
            Some(ConsumeOut::Deliveries(batch)) => {
                let mut payloads = Vec::with_capacity(batch.deliveries.len());
                for delivery in batch.deliveries {
                    let event = EventRef::read(&delivery.event)?;
                    payloads.push(delivery.event.slice_ref(event.data()));
                    self.unsettled.push(wire::Settlement {
                        lease: delivery.lease,
                        action: Some(wire::settlement::Action::Ack(wire::Ack {})),
                    });
                }
                self.received += payloads.len() as i64;
                Ok(payloads)
            }
            Some(ConsumeOut::Settled(settled)) => {
                anyhow::ensure!(settled.failures.is_empty(), "{:?}", settled.failures);
                self.settled += 1;
                Ok(Vec::new())
            }
            Some(ConsumeOut::LeasesLost(lost)) => {
                anyhow::bail!("lost {} leases", lost.leases.len())
            }
            _ => Ok(Vec::new()),
        }
    }
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self) -> anyhow::Result<Vec<Bytes>> {
        self.settle().await?;
        loop {
            let payloads = self.receive().await?;
            if !payloads.is_empty() {
                return Ok(payloads);
            }
        }
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        self.settle().await?;
        while self.settled < self.last_request_id {
            let late = self.receive().await?;
            anyhow::ensure!(late.is_empty(), "{} events too many", late.len());
        }
        Ok(())
    }
}

/// Credit for a full window beyond what was received.
fn grant(received: i64) -> wire::Grant {
    wire::Grant {
        max_events: received + WINDOW,
        max_bytes: 0,
    }
}

fn request(message: ConsumeIn) -> wire::ConsumeRequest {
    wire::ConsumeRequest {
        message: Some(message),
    }
}
