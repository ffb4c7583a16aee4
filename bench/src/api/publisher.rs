//! A stream of batches, each with its ack.

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use bytes::Bytes;
use sluice_proto::wire::{
    self, publish_stream_request::Message as In, publish_stream_response::Message as Out,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::connect;

/// Batches that wait for their turn on the connection.
const QUEUE: usize = 64;

/// Publishes on a connection of its own.
pub(crate) struct Publisher {
    requests: mpsc::Sender<wire::PublishStreamRequest>,
    waiting: Arc<Waiting>,
    last_request_id: i64,
}

/// Whom to tell of which batch.
#[derive(Default)]
struct Waiting(Mutex<HashMap<i64, oneshot::Sender<anyhow::Result<()>>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<i64, oneshot::Sender<anyhow::Result<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher {
    pub(crate) async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let mut client = tonic::client::Grpc::new(connect(addr).await?);
        client.ready().await?;
        let (requests, stream) = mpsc::channel(QUEUE);
        let open = In::Open(wire::PublishOpen::default());
        requests.send(request(open)).await?;
        let path = PathAndQuery::from_static("/sluice.v1.BrokerService/PublishStream");
        let codec =
            ProstCodec::<wire::PublishStreamRequest, wire::PublishStreamResponse>::default();
        let stream = tonic::Request::new(ReceiverStream::new(stream));
        let answers = client.streaming(stream, path, codec).await?.into_inner();
        let waiting = Arc::<Waiting>::default();
        tokio::spawn(tell(answers, waiting.clone()));
        Ok(Self {
            requests,
            waiting,
            last_request_id: 0,
        })
    }

    /// Sends encoded events. What it returns is done when the broker has acked.
    pub(crate) async fn send(
        &mut self,
        topic: &str,
        events: Vec<Bytes>,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
        self.last_request_id += 1;
        let (acked, ack) = oneshot::channel();
        self.waiting.lock().insert(self.last_request_id, acked);
        let batch = wire::PublishBatch {
            request_id: self.last_request_id,
            events,
            topic: topic.to_owned(),
            ..wire::PublishBatch::default()
        };
        let sent = self.requests.send(request(In::Batch(batch))).await;
        sent.context("the stream has ended")?;
        Ok(async move { ack.await.context("the stream ended before the ack")? })
    }
}

async fn tell(mut answers: tonic::Streaming<wire::PublishStreamResponse>, waiting: Arc<Waiting>) {
    while let Ok(Some(answer)) = answers.message().await {
        let (request_id, result) = match answer.message {
            Some(Out::Ack(ack)) => (ack.request_id, Ok(())),
            Some(Out::Refused(refused)) => {
                let error = anyhow::anyhow!("refused: {:?}", refused.error);
                (refused.request_id, Err(error))
            }
            _ => continue,
        };
        if let Some(whom) = waiting.lock().remove(&request_id) {
            let _ = whom.send(result);
        }
    }
    // Whoever still waits is told by the closed channel.
    waiting.lock().clear();
}

fn request(message: In) -> wire::PublishStreamRequest {
    wire::PublishStreamRequest {
        message: Some(message),
    }
}
