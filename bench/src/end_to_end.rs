//! The way of one event from publisher to consumer, at a given rate: events are
//! sent when their time has come, whether or not earlier ones are through.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sluice_proto::{
    pb,
    wire::{self, publish_stream_request::Message as In, publish_stream_response::Message as Out},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use crate::publish::connect;

/// How long events take, sorted.
pub(crate) struct Latencies(pub(crate) Vec<Duration>);

/// From sending to the ack.
pub(crate) async fn to_ack(
    addr: SocketAddr,
    topic: &str,
    event: Bytes,
    rate: u32,
    time: Duration,
) -> anyhow::Result<Latencies> {
    let mut client = tonic::client::Grpc::new(connect(addr).await?);
    client.ready().await?;
    let (requests, stream) = mpsc::channel(1024);
    requests.send(open()).await?;
    let codec = ProstCodec::<wire::PublishStreamRequest, wire::PublishStreamResponse>::default();
    let path = PathAndQuery::from_static("/sluice.v1.BrokerService/PublishStream");
    let response = client
        .streaming(
            tonic::Request::new(ReceiverStream::new(stream)),
            path,
            codec,
        )
        .await?;
    let mut answers = response.into_inner();
    let count = (f64::from(rate) * time.as_secs_f64()) as usize;
    let topic = topic.to_owned();
    let sender =
        tokio::spawn(async move { send_at_rate(&requests, &topic, event, rate, count).await });
    let mut acked = vec![None; count];
    while let Some(answer) = answers.message().await? {
        match answer.message {
            Some(Out::Ack(ack)) => acked[ack.request_id as usize] = Some(Instant::now()),
            Some(Out::Refused(refused)) => anyhow::bail!("refused: {:?}", refused.error),
            _ => {}
        }
    }
    let due = sender.await??;
    latencies(&due, &acked)
}

/// From sending to the delivery to a member of a group.
pub(crate) async fn to_delivery(
    addr: SocketAddr,
    topic: &str,
    group: &str,
    event: Bytes,
    rate: u32,
    time: Duration,
) -> anyhow::Result<Latencies> {
    let count = (f64::from(rate) * time.as_secs_f64()) as usize;
    let mut broker = pb::broker_service_client::BrokerServiceClient::new(connect(addr).await?);
    let (messages, stream) = mpsc::channel(1024);
    messages.send(join(topic, group, count)).await?;
    let mut answers = broker
        .consume(ReceiverStream::new(stream))
        .await?
        .into_inner();
    // Joined.
    answers.message().await?;

    let mut publisher = tonic::client::Grpc::new(connect(addr).await?);
    publisher.ready().await?;
    let (requests, stream) = mpsc::channel(1024);
    requests.send(open()).await?;
    let codec = ProstCodec::<wire::PublishStreamRequest, wire::PublishStreamResponse>::default();
    let path = PathAndQuery::from_static("/sluice.v1.BrokerService/PublishStream");
    let response = publisher
        .streaming(
            tonic::Request::new(ReceiverStream::new(stream)),
            path,
            codec,
        )
        .await?;
    let mut acks = response.into_inner();
    tokio::spawn(async move { while let Ok(Some(_)) = acks.message().await {} });
    let topic = topic.to_owned();
    let sender =
        tokio::spawn(async move { send_at_rate(&requests, &topic, event, rate, count).await });

    let mut delivered = vec![None; count];
    let mut arrived = 0;
    while arrived < count {
        let Some(answer) = answers.message().await? else {
            anyhow::bail!("the stream ended after {arrived} of {count} deliveries");
        };
        if let Some(pb::consume_response::Message::Deliveries(batch)) = answer.message {
            let now = Instant::now();
            let settlements = batch
                .deliveries
                .into_iter()
                .map(|delivery| {
                    // The topic has one partition and nothing else in it.
                    delivered[delivery.offset as usize] = Some(now);
                    arrived += 1;
                    pb::Settlement {
                        lease: delivery.lease,
                        action: Some(pb::settlement::Action::Ack(pb::Ack {})),
                    }
                })
                .collect();
            messages
                .send(pb::ConsumeRequest {
                    message: Some(pb::consume_request::Message::Settle(pb::SettleBatch {
                        request_id: 0,
                        settlements,
                    })),
                })
                .await?;
        }
    }
    let due = sender.await??;
    latencies(&due, &delivered)
}

fn join(topic: &str, group: &str, count: usize) -> pb::ConsumeRequest {
    pb::ConsumeRequest {
        message: Some(pb::consume_request::Message::Join(pb::Join {
            topic: topic.into(),
            group: group.into(),
            grant: Some(pb::Grant {
                max_events: count as i64,
                max_bytes: 0,
            }),
            ..pb::Join::default()
        })),
    }
}

fn open() -> wire::PublishStreamRequest {
    wire::PublishStreamRequest {
        message: Some(In::Open(wire::PublishOpen::default())),
    }
}

/// Sends events one by one, and tells when each was due.
async fn send_at_rate(
    requests: &mpsc::Sender<wire::PublishStreamRequest>,
    topic: &str,
    event: Bytes,
    rate: u32,
    count: usize,
) -> anyhow::Result<Vec<Instant>> {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    // Open loop: late ones are sent at once, and their wait counts.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut due = Vec::with_capacity(count);
    for request_id in 0..count {
        due.push(ticks.tick().await.into_std());
        let batch = wire::PublishBatch {
            request_id: request_id as i64,
            topic: topic.to_owned(),
            events: vec![event.clone()],
            ..wire::PublishBatch::default()
        };
        requests
            .send(wire::PublishStreamRequest {
                message: Some(In::Batch(batch)),
            })
            .await?;
    }
    Ok(due)
}

fn latencies(due: &[Instant], done: &[Option<Instant>]) -> anyhow::Result<Latencies> {
    let mut times = Vec::with_capacity(due.len());
    for (due, done) in due.iter().zip(done) {
        let done = done.ok_or_else(|| anyhow::anyhow!("an event did not arrive"))?;
        times.push(done.saturating_duration_since(*due));
    }
    times.sort_unstable();
    Ok(Latencies(times))
}
