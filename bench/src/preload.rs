//! Fills a topic before it is measured how fast it is worked off.

use std::net::SocketAddr;

use bytes::Bytes;
use prost::Message;
use sluice_proto::{
    pb,
    wire::{self, publish_stream_request::Message as In, publish_stream_response::Message as Out},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use crate::{events, publish::connect};

/// Bytes of a batch.
const BATCH_BYTES: usize = 256 << 10;
/// Batches under way.
const IN_FLIGHT: usize = 8;

/// Publishes `count` events of `event_bytes` each, whose keys are `keys` ones in
/// turn, or none.
pub(crate) async fn run(
    addr: SocketAddr,
    topic: &str,
    count: u64,
    event_bytes: usize,
    keys: usize,
) -> anyhow::Result<()> {
    let mut client = tonic::client::Grpc::new(connect(addr).await?);
    client.ready().await?;
    let (requests, stream) = mpsc::channel(IN_FLIGHT + 1);
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
    let distinct = keyed_events(event_bytes, keys);
    let mut events = distinct.iter().cycle().take(count as usize).cloned();
    let per_batch = (BATCH_BYTES / event_bytes).clamp(1, 1000);
    let (mut sent, mut acked) = (0, 0);
    loop {
        while sent - acked < IN_FLIGHT {
            let batch: Vec<Bytes> = events.by_ref().take(per_batch).collect();
            if batch.is_empty() {
                break;
            }
            let batch = wire::PublishBatch {
                request_id: sent as i64,
                topic: topic.to_owned(),
                events: batch,
                ..wire::PublishBatch::default()
            };
            requests.send(request(In::Batch(batch))).await?;
            sent += 1;
        }
        if sent == acked {
            return Ok(());
        }
        match answers.message().await?.and_then(|answer| answer.message) {
            Some(Out::Ack(_)) => acked += 1,
            Some(Out::Refused(refused)) => anyhow::bail!("refused: {:?}", refused.error),
            Some(Out::Opened(_) | Out::Credit(_)) => {}
            None => anyhow::bail!("the stream ended with {} batches unacked", sent - acked),
        }
    }
}

/// One event for each key; one without a key when there are none.
fn keyed_events(event_bytes: usize, keys: usize) -> Vec<Bytes> {
    let plain = events::event(event_bytes);
    if keys == 0 {
        return vec![plain];
    }
    let event = pb::Event::decode(plain).expect("the bench has encoded it");
    (0..keys)
        .map(|key| {
            let mut event = event.clone();
            let key = ("partitionkey".to_owned(), format!("key-{key}"));
            event.attributes.extend([key]);
            event.encode_to_vec().into()
        })
        .collect()
}

fn request(message: In) -> wire::PublishStreamRequest {
    wire::PublishStreamRequest {
        message: Some(message),
    }
}
