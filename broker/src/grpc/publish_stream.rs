//! PublishStream: batches in, acks out, bounded by bytes under way.

use std::sync::Arc;

use futures_util::{StreamExt, stream::FuturesUnordered};
use sluice_proto::wire::{
    self, publish_stream_request::Message as In, publish_stream_response::Message as Out,
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{
    api::Api,
    convert, events,
    refusal::{Refusal, unread_message},
};
use crate::commit::{Changes, CommitError, Committed};

type Responses = mpsc::Sender<Result<wire::PublishStreamResponse, Status>>;

/// Batches that may be under way whatever their size.
const BATCHES_MAX: usize = 1024;

/// Runs a stream to its end.
pub(super) async fn run(
    api: Arc<Api>,
    requests: Streaming<wire::PublishStreamRequest>,
    responses: Responses,
) {
    let stopping = api.stopping.clone();
    let result = tokio::select! {
        result = PublishStream::run(api, requests, &responses) => result,
        () = stopping.cancelled() => Err(Refusal::shutting_down().into()),
    };
    if let Err(status) = result {
        let _ = responses.send(Err(status)).await;
    }
}

struct PublishStream<'a> {
    api: Arc<Api>,
    responses: &'a Responses,
    producer: Option<(i64, i64)>,
    /// Bytes of batches that are done with.
    done_bytes: u64,
    in_flight_bytes: u64,
    /// The credit that was told last.
    told: u64,
}

/// A batch that has an outcome.
struct Done {
    request_id: i64,
    bytes: u64,
    result: Result<Committed, CommitError>,
}

impl<'a> PublishStream<'a> {
    async fn run(
        api: Arc<Api>,
        mut requests: Streaming<wire::PublishStreamRequest>,
        responses: &'a Responses,
    ) -> Result<(), Status> {
        let Some(first) = requests.message().await.map_err(unread_message)? else {
            return Ok(());
        };
        let Some(In::Open(open)) = first.message else {
            return Err(Refusal::stream_state("the first message must be `open`").into());
        };
        let mut stream = PublishStream {
            api,
            responses,
            producer: (open.producer_id != 0).then_some((open.producer_id, open.producer_epoch)),
            done_bytes: 0,
            in_flight_bytes: 0,
            told: 0,
        };
        let credit = Some(stream.credit());
        stream
            .respond(Out::Opened(wire::PublishOpened { credit }))
            .await?;
        let window = stream.api.limits.publish_window_bytes as u64;
        let mut in_flight = FuturesUnordered::new();
        let mut open = true;
        while open || !in_flight.is_empty() {
            let may_read = open && stream.in_flight_bytes < window && in_flight.len() < BATCHES_MAX;
            tokio::select! {
                biased;
                Some(done) = in_flight.next() => stream.finish(done).await?,
                request = requests.message(), if may_read => match request.map_err(unread_message)? {
                    None => open = false,
                    Some(request) => match request.message {
                        Some(In::Batch(batch)) => {
                            if let Some(done) = stream.submit(batch).await? {
                                in_flight.push(done);
                            }
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

    /// Puts a batch in line, in the order of the stream. `None` when it is
    /// refused.
    async fn submit(
        &mut self,
        batch: wire::PublishBatch,
    ) -> Result<Option<impl Future<Output = Done> + use<>>, Status> {
        let request_id = batch.request_id;
        let bytes = batch.events.iter().map(|event| event.len() as u64).sum();
        let submitted = match self.changes(batch) {
            Ok(changes) => self.api.proposals.submit(changes).await.map_err(Into::into),
            Err(refusal) => Err(refusal),
        };
        match submitted {
            Ok(submitted) => {
                self.in_flight_bytes += bytes;
                Ok(Some(async move {
                    Done {
                        request_id,
                        bytes,
                        result: submitted.committed().await,
                    }
                }))
            }
            Err(refusal) => {
                self.done_bytes += bytes;
                self.refuse(request_id, refusal).await?;
                Ok(None)
            }
        }
    }

    fn changes(&self, batch: wire::PublishBatch) -> Result<Changes, Refusal> {
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
        let appends =
            self.api
                .place_events("batch.", &batch.topic, batch.events, batch.partition)?;
        Ok(Changes {
            producer,
            appends,
            ..Changes::default()
        })
    }

    async fn finish(&mut self, done: Done) -> Result<(), Status> {
        self.in_flight_bytes -= done.bytes;
        self.done_bytes += done.bytes;
        match done.result {
            Ok(committed) => {
                let ack = wire::PublishAck {
                    request_id: done.request_id,
                    ranges: convert::ranges(&committed, &self.api),
                    duplicate: committed.duplicate,
                };
                self.respond(Out::Ack(ack)).await?;
            }
            Err(error) => self.refuse(done.request_id, error.into()).await?,
        }
        self.tell_credit().await
    }

    async fn refuse(&mut self, request_id: i64, refusal: Refusal) -> Result<(), Status> {
        let error = Some(refusal.into_message());
        self.respond(Out::Refused(wire::PublishRefused { request_id, error }))
            .await?;
        self.tell_credit().await
    }

    /// Tells the credit when a good part of the window is new.
    async fn tell_credit(&mut self) -> Result<(), Status> {
        let window = self.api.limits.publish_window_bytes as u64;
        if self.done_bytes + window < self.told + window / 4 {
            return Ok(());
        }
        let credit = self.credit();
        self.respond(Out::Credit(credit)).await
    }

    fn credit(&mut self) -> wire::PublishCredit {
        self.told = self.done_bytes + self.api.limits.publish_window_bytes as u64;
        wire::PublishCredit {
            max_bytes: self.told as i64,
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
