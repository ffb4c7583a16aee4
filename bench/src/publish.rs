//! Durable publishing at full speed: streams with a bounded number of batches
//! under way each.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sluice_proto::wire::{
    self, publish_stream_request::Message as In, publish_stream_response::Message as Out,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// Who publishes what.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) addr: SocketAddr,
    /// One stream each, in turn.
    pub(crate) topics: Vec<String>,
    pub(crate) streams: usize,
    /// Batches under way in each stream.
    pub(crate) in_flight: usize,
    pub(crate) events: Vec<Bytes>,
    pub(crate) time: Duration,
}

/// What was acked, from the first ack to the last that came in time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acked {
    pub(crate) payload_bytes: u64,
    pub(crate) time: Duration,
}

impl Acked {
    pub(crate) fn bytes_per_second(&self) -> f64 {
        self.payload_bytes as f64 / self.time.as_secs_f64()
    }
}

/// Publishes for `load.time` and waits for the acks.
pub(crate) async fn run(load: &Load) -> anyhow::Result<Acked> {
    let mut streams = JoinSet::new();
    let started = Instant::now();
    for stream in 0..load.streams {
        let topic = load.topics[stream % load.topics.len()].clone();
        streams.spawn(one_stream(load.clone(), topic, started));
    }
    let mut batches = 0;
    while let Some(stream) = streams.join_next().await {
        batches += stream??;
    }
    let time = started.elapsed();
    let bytes: usize = load.events.iter().map(Bytes::len).sum();
    Ok(Acked {
        payload_bytes: batches * bytes as u64,
        time,
    })
}

/// A connection with the settings that the client crate has.
pub(crate) async fn connect(addr: SocketAddr) -> anyhow::Result<Channel> {
    let channel = Endpoint::from_shared(format!("http://{addr}"))?
        .tcp_nodelay(true)
        .connect()
        .await?;
    Ok(channel)
}

async fn one_stream(load: Load, topic: String, started: Instant) -> anyhow::Result<u64> {
    let mut client = tonic::client::Grpc::new(connect(load.addr).await?);
    client.ready().await?;
    let (requests, stream) = mpsc::channel(load.in_flight + 1);
    requests
        .send(request(In::Open(wire::PublishOpen::default())))
        .await?;
    let path = PathAndQuery::from_static("/sluice.v1.BrokerService/PublishStream");
    let codec = ProstCodec::<wire::PublishStreamRequest, wire::PublishStreamResponse>::default();
    let response = client
        .streaming(
            tonic::Request::new(ReceiverStream::new(stream)),
            path,
            codec,
        )
        .await?;
    let mut answers = response.into_inner();
    let mut requests = Some(requests);
    let (mut sent, mut acked) = (0, 0);
    loop {
        while let Some(open) = &requests
            && sent - acked < load.in_flight
        {
            if started.elapsed() >= load.time {
                requests = None;
                break;
            }
            let batch = wire::PublishBatch {
                request_id: sent as i64,
                topic: topic.clone(),
                events: load.events.clone(),
                ..wire::PublishBatch::default()
            };
            open.send(request(In::Batch(batch))).await?;
            sent += 1;
        }
        match answers.message().await?.and_then(|answer| answer.message) {
            Some(Out::Ack(_)) => acked += 1,
            Some(Out::Refused(refused)) => anyhow::bail!("refused: {:?}", refused.error),
            Some(Out::Opened(_) | Out::Credit(_)) => {}
            None => {
                anyhow::ensure!(sent == acked, "{} batches were not acked", sent - acked);
                return Ok(acked as u64);
            }
        }
    }
}

fn request(message: In) -> wire::PublishStreamRequest {
    wire::PublishStreamRequest {
        message: Some(message),
    }
}
