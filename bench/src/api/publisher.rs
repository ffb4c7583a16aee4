//! A stream of batches, each with its ack. Those of one topic that wait for their turn
//! on the connection go together.

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use sluice_proto::wire::{self, publish_stream_response::Message as Out};
use tokio::sync::{mpsc, oneshot};
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::connect;

/// Batches that wait for their turn on the connection.
const QUEUE: usize = 1024;
/// What goes together has no more bytes of events, and no more events; these are the
/// client crate's.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_EVENTS: usize = 4096;

/// Publishes on a connection of its own.
pub(crate) struct Publisher {
    batches: mpsc::Sender<Batch>,
}

struct Batch {
    topic: String,
    events: Vec<Bytes>,
    bytes: usize,
    /// Who waits for its ack: more than one when batches went together.
    acked: Vec<Acked>,
}

type Acked = oneshot::Sender<anyhow::Result<()>>;

/// A `sluice.v1.PublishStreamRequest` whose events are encoded already: it has one of
/// the two.
#[derive(Clone, PartialEq, Message)]
struct StreamRequest {
    #[prost(message, optional, tag = "1")]
    open: Option<wire::PublishOpen>,
    #[prost(message, optional, tag = "2")]
    batch: Option<wire::PublishBatch>,
}

/// Whom to tell of which request.
#[derive(Default)]
struct Waiting(Mutex<HashMap<i64, Vec<Acked>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Vec<Acked>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher {
    pub(crate) async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let mut client = tonic::client::Grpc::new(connect(addr).await?);
        client.ready().await?;
        let (batches, queue) = mpsc::channel(QUEUE);
        let path = PathAndQuery::from_static("/sluice.v1.BrokerService/PublishStream");
        let codec = ProstCodec::<StreamRequest, wire::PublishStreamResponse>::default();
        let waiting = Arc::<Waiting>::default();
        let requests = tonic::Request::new(requests(queue, waiting.clone()));
        let answers = client.streaming(requests, path, codec).await?.into_inner();
        tokio::spawn(tell(answers, waiting));
        Ok(Self { batches })
    }

    /// Sends encoded events. What it returns is done when the broker has acked.
    pub(crate) async fn send(
        &self,
        topic: &str,
        events: Vec<Bytes>,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
        let (acked, ack) = oneshot::channel();
        let batch = Batch {
            topic: topic.to_owned(),
            bytes: events.iter().map(Bytes::len).sum(),
            events,
            acked: vec![acked],
        };
        let sent = self.batches.send(batch).await;
        sent.ok().context("the stream has ended")?;
        Ok(async move { ack.await.context("the stream ended before the ack")? })
    }
}

/// What goes over the stream: the opening, and then what is there, each time when the
/// connection takes more.
fn requests(
    queue: mpsc::Receiver<Batch>,
    waiting: Arc<Waiting>,
) -> impl Stream<Item = StreamRequest> + Send {
    let opening = stream::iter([StreamRequest {
        open: Some(wire::PublishOpen::default()),
        batch: None,
    }]);
    let batches = stream::unfold((queue, None), |(mut queue, next)| async {
        let mut batch = match next {
            Some(batch) => batch,
            None => queue.recv().await?,
        };
        let next = batch.gather(|| queue.try_recv().ok());
        Some((batch, (queue, next)))
    });
    let batches = batches.enumerate().map(move |(number, batch)| {
        let request_id = number as i64 + 1;
        waiting.lock().insert(request_id, batch.acked);
        let batch = wire::PublishBatch {
            request_id,
            events: batch.events,
            topic: batch.topic,
            ..wire::PublishBatch::default()
        };
        StreamRequest {
            open: None,
            batch: Some(batch),
        }
    });
    opening.chain(batches)
}

impl Batch {
    /// Takes in those that follow and may go with it. What it returns may not.
    fn gather(&mut self, mut following: impl FnMut() -> Option<Self>) -> Option<Self> {
        while let Some(next) = following() {
            let fits = self.topic == next.topic
                && self.bytes + next.bytes <= BATCH_BYTES
                && self.events.len() + next.events.len() <= BATCH_EVENTS;
            if !fits {
                return Some(next);
            }
            self.bytes += next.bytes;
            self.events.extend(next.events);
            self.acked.extend(next.acked);
        }
        None
    }
}

async fn tell(mut answers: tonic::Streaming<wire::PublishStreamResponse>, waiting: Arc<Waiting>) {
    while let Ok(Some(answer)) = answers.message().await {
        let (request_id, refused) = match answer.message {
            Some(Out::Ack(ack)) => (ack.request_id, None),
            Some(Out::Refused(refused)) => (refused.request_id, refused.error),
            _ => continue,
        };
        let whom = waiting.lock().remove(&request_id);
        for acked in whom.into_iter().flatten() {
            let result = match &refused {
                None => Ok(()),
                Some(error) => Err(anyhow::anyhow!("refused: {error:?}")),
            };
            // Whoever does not wait any more has ended its load.
            let _ = acked.send(result);
        }
    }
    // Whoever still waits is told by the closed channel.
    waiting.lock().clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(topic: &str, events: usize, bytes: usize) -> Batch {
        Batch {
            topic: topic.to_owned(),
            events: vec![Bytes::from(vec![0; bytes]); events],
            bytes: events * bytes,
            acked: vec![oneshot::channel().0],
        }
    }

    /// How many events and acks go together, of a queue of batches.
    fn together(queue: Vec<Batch>) -> Vec<(usize, usize)> {
        let mut queue = queue.into_iter();
        let (mut next, mut together) = (queue.next(), Vec::new());
        while let Some(mut batch) = next {
            next = batch.gather(|| queue.next());
            together.push((batch.events.len(), batch.acked.len()));
        }
        together
    }

    #[test]
    fn batches_of_one_topic_go_together_as_far_as_the_limits_let_them() {
        let of_a = || batch("a", 2, 10);
        assert_eq!(together(vec![of_a(), of_a(), of_a()]), [(6, 3)]);
        let other = vec![of_a(), of_a(), batch("b", 1, 10), of_a()];
        assert_eq!(together(other), [(4, 2), (1, 1), (2, 1)]);
        let large = vec![of_a(), batch("a", 1, BATCH_BYTES - 20), of_a()];
        assert_eq!(together(large), [(3, 2), (2, 1)]);
        let many = vec![of_a(), batch("a", BATCH_EVENTS - 1, 0), of_a()];
        assert_eq!(together(many), [(2, 1), (BATCH_EVENTS - 1, 1), (2, 1)]);
    }
}
