//! PublishStream: batches in, acks out, bounded by bytes under way.
//!
//! Batches to one topic go in line one after the other, so that their order
//! holds; those of another topic do not wait behind them while the first is full.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use sluice_proto::{
    ProducerId, TopicId,
    batch::BatchRef,
    wire::{self, publish_stream_request::Message as In, publish_stream_response::Message as Out},
};
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

use super::{
    admission::bytes_of,
    api::Api,
    convert, events,
    publish::producer_of,
    refusal::{Refusal, unread_message},
};
use crate::{
    commit::{Changes, Committed, record::NewEvents},
    flow::{OnItsWay, Producer, Turn, window::Window},
};

type Responses = mpsc::Sender<Result<wire::PublishStreamResponse, Status>>;

/// Batches that may be under way whatever their size.
const BATCHES_MAX: usize = 1024;
/// Topics that a stream keeps in mind, beyond those to which something is under
/// way.
const TOPICS_KEPT: usize = 64;

/// Runs a stream to its end.
pub(super) async fn run(
    api: Arc<Api>,
    connection: Option<SocketAddr>,
    requests: Streaming<wire::PublishStreamRequest>,
    responses: Responses,
) {
    let stopping = api.stopping.clone();
    let result = tokio::select! {
        result = PublishStream::run(api, connection, requests, &responses) => result,
        () = stopping.cancelled() => Err(Refusal::shutting_down().into()),
        // Nobody hears what became of batches that wait for their turn.
        () = responses.closed() => return,
    };
    if let Err(status) = result {
        let _ = responses.send(Err(status)).await;
    }
}

struct PublishStream<'a> {
    api: Arc<Api>,
    responses: &'a Responses,
    producer: Option<(i64, i64)>,
    who: Producer,
    window: Window,
    /// By topic, whether its latest batch is in line for the log.
    topics: HashMap<TopicId, InLine>,
}

/// Resolves when a batch is in line, or never will be.
type InLine = oneshot::Receiver<()>;

/// A batch that has an outcome.
struct Done {
    request_id: i64,
    bytes: u64,
    result: Result<Committed, Refusal>,
}

impl<'a> PublishStream<'a> {
    async fn run(
        api: Arc<Api>,
        connection: Option<SocketAddr>,
        mut requests: Streaming<wire::PublishStreamRequest>,
        responses: &'a Responses,
    ) -> Result<(), Status> {
        let Some(first) = requests.message().await.map_err(unread_message)? else {
            return Ok(());
        };
        let Some(In::Open(open)) = first.message else {
            return Err(Refusal::stream_state("the first message must be `open`").into());
        };
        let window = Window::new(api.limits.publish_window_bytes as u64);
        let _open = api.open_publish_stream()?;
        let session = u64::try_from(open.producer_id).ok().filter(|id| *id > 0);
        let mut stream = PublishStream {
            api,
            responses,
            producer: (open.producer_id != 0).then_some((open.producer_id, open.producer_epoch)),
            who: producer_of(session.map(ProducerId), connection),
            window,
            topics: HashMap::new(),
        };
        stream.resize_window();
        let credit = Some(credit(stream.window.tell()));
        stream
            .respond(Out::Opened(wire::PublishOpened { credit }))
            .await?;
        let mut under_way = FuturesUnordered::new();
        let mut turn = stream.api.reading.stream();
        let mut open = true;
        while open || !under_way.is_empty() {
            let may_read = open && stream.window.takes_more() && under_way.len() < BATCHES_MAX;
            tokio::select! {
                biased;
                Some(done) = under_way.next() => stream.finish(done).await?,
                request = next(&mut turn, &mut requests), if may_read => match request.map_err(unread_message)? {
                    None => open = false,
                    Some(request) => match request.message {
                        Some(In::Batch(encoded)) => {
                            let batch = BatchRef::read(&encoded).map_err(Refusal::unread)?;
                            let events = NewEvents::parts_of(encoded.clone(), &batch.events);
                            turn.read(events.bytes());
                            under_way.push(stream.take(&batch, events));
                        }
                        Some(In::Open(_)) => {
                            let message = "`open` was sent before; it comes once, first";
                            return Err(Refusal::stream_state(message).into());
                        }
                        // A kind of message from a later version.
                        None => {}
                    },
                },
            }
        }
        Ok(())
    }

    /// Takes a batch, whose events go in line behind those of its topic that came before.
    fn take(
        &mut self,
        batch: &BatchRef<'_>,
        events: NewEvents,
    ) -> impl Future<Output = Done> + use<> {
        let (request_id, bytes) = (batch.request_id, events.bytes());
        self.window.arrived(bytes);
        let changes = self.changes(batch, events);
        let topic = changes.as_ref().ok().and_then(|changes| {
            let append = changes.appends.first()?;
            Some(append.target.topic)
        });
        let (in_line, waits) = oneshot::channel();
        let before = topic.and_then(|topic| self.topics.insert(topic, waits));
        if self.topics.len() > 2 * TOPICS_KEPT {
            let waits =
                |line: &mut InLine| line.try_recv() == Err(oneshot::error::TryRecvError::Empty);
            self.topics.retain(|_, line| waits(line));
        }
        let (api, who) = (self.api.clone(), self.who);
        // What waits at a gate, or behind what does, is on no way to the log.
        let gate = topic.and_then(|topic| api.groups.flow().gate(topic));
        let on_its_way = gate.is_none().then(|| api.reading.on_its_way(bytes));
        async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            let result = match changes {
                Ok(changes) => publish(&api, who, changes, in_line, on_its_way).await,
                Err(refusal) => Err(refusal),
            };
            Done {
                request_id,
                bytes,
                result,
            }
        }
    }

    fn changes(&self, batch: &BatchRef<'_>, events: NewEvents) -> Result<Changes, Refusal> {
        let producer = match self.producer {
            Some((id, epoch)) => Some(events::producer_sequence(id, epoch, batch.sequence)?),
            None if batch.sequence != 0 => {
                return Err(Refusal::field(
                    "batch.sequence",
                    "it must be 0 in a stream that was opened without a producer",
                ));
            }
            None => None,
        };
        let appends = self
            .api
            .place_events("batch.", batch.topic, events, batch.partition)?;
        Ok(Changes {
            producer,
            appends,
            ..Changes::default()
        })
    }

    async fn finish(&mut self, done: Done) -> Result<(), Status> {
        self.window.done(done.bytes);
        match done.result {
            Ok(committed) => {
                let ack = wire::PublishAck {
                    request_id: done.request_id,
                    ranges: convert::ranges(&committed, &self.api),
                    duplicate: committed.duplicate,
                };
                self.respond(Out::Ack(ack)).await?;
            }
            Err(refusal) => self.refuse(done.request_id, refusal).await?,
        }
        self.tell_credit().await
    }

    async fn refuse(&mut self, request_id: i64, refusal: Refusal) -> Result<(), Status> {
        let error = Some(refusal.into_message());
        self.respond(Out::Refused(wire::PublishRefused { request_id, error }))
            .await
    }

    /// Makes the window what its topics, and the number of streams, leave of it.
    fn resize_window(&mut self) {
        let flow = self.api.groups.flow();
        let limits = &self.api.limits;
        let streams = self.api.publish_streams.load(Ordering::Relaxed).max(1);
        let whole = limits.publish_window_bytes * streams;
        let of_all = limits.publish_windows_bytes as f64 / whole as f64;
        let gates = self.topics.keys().filter_map(|topic| flow.gate(*topic));
        let of_topics = gates.map(|gate| gate.share()).fold(1.0, f64::min);
        self.window.set_share(of_all, of_topics);
    }

    /// Tells the credit when a good part of the window is new.
    async fn tell_credit(&mut self) -> Result<(), Status> {
        self.resize_window();
        match self.window.due() {
            Some(max_bytes) => self.respond(Out::Credit(credit(max_bytes))).await,
            None => Ok(()),
        }
    }

    async fn respond(&self, message: Out) -> Result<(), Status> {
        let response = wire::PublishStreamResponse {
            message: Some(message),
        };
        let sent = self.responses.send(Ok(response)).await;
        sent.map_err(|_| Status::cancelled("the client is gone"))
    }
}

fn credit(max_bytes: u64) -> wire::PublishCredit {
    wire::PublishCredit {
        max_bytes: max_bytes as i64,
    }
}

/// The next message of a stream, once streams may be read.
async fn next(
    turn: &mut Turn,
    requests: &mut Streaming<wire::PublishStreamRequest>,
) -> Result<Option<wire::PublishStreamRequest>, Status> {
    turn.wait().await;
    requests.message().await
}

/// Publishes a batch; `in_line` is dropped when the next one of its topic may
/// follow. One that is not on its way to the log is as soon as it is let in.
async fn publish(
    api: &Api,
    who: Producer,
    changes: Changes,
    in_line: oneshot::Sender<()>,
    on_its_way: Option<OnItsWay>,
) -> Result<Committed, Refusal> {
    let producer = changes.producer;
    // Held until it is readable.
    let _entered = match api.enter(who, &changes.appends, None).await {
        Ok(entered) => entered,
        Err(refusal) => return api.published_before(producer, refusal).await,
    };
    // Held until it has an outcome.
    let bytes = bytes_of(&changes.appends) as u64;
    let _on_its_way = on_its_way.unwrap_or_else(|| api.reading.on_its_way(bytes));
    let (_in_line, submitted) = api.submit_by(who, changes, None).await?;
    drop(in_line);
    Ok(submitted.committed().await?)
}
