//! Producers: one batch at a time, with a session, and on a stream.

use std::{collections::VecDeque, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sluice_proto::pb::{
    Event, OpenProducerRequest, ProducerSequence, PublishBatch, PublishOpen, PublishRequest,
    PublishStreamRequest, publish_stream_request::Message as ToBroker,
    publish_stream_response::Message as FromBroker,
};
use sluice_tests::api::{Refusal, event, is_unknown, keyed_event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::run::Run;

/// Events that are random, with ids that are not.
pub(crate) struct Source {
    name: &'static str,
    random: StdRng,
    next: u64,
}

impl Source {
    pub(crate) fn new(name: &'static str, random: &mut StdRng) -> Self {
        Self {
            name,
            random: StdRng::seed_from_u64(random.random()),
            next: 0,
        }
    }

    /// A batch of events with few keys, or of events without.
    fn batch(&mut self) -> Vec<Event> {
        let keyed = self.random.random_bool(0.7);
        let count = self.random.random_range(1..6);
        let batch = (0..count).map(|_| {
            self.next += 1;
            let id = format!("{}-{}", self.name, self.next);
            let mut event = if keyed {
                keyed_event(&id, &format!("k{}", self.random.random_range(0..20)))
            } else {
                event(&id)
            };
            // Sometimes more than a block of 4 KiB.
            let size = self
                .random
                .random_range(0..if count == 1 { 20_000 } else { 500 });
            event.data_content_type = "application/octet-stream".to_owned();
            event.data = vec![b'x'; size].into();
            event
        });
        batch.collect()
    }

    async fn rest(&mut self) {
        let millis = self.random.random_range(0..4);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

/// Whether the broker has refused for good what it should have taken; it may be
/// overloaded.
fn unexpected(status: &Status) -> bool {
    !is_unknown(status) && status.code() != Code::ResourceExhausted
}

/// Publishes each batch once, and never tries again.
pub(crate) async fn single(run: Run, mut source: Source) {
    while let Some(api) = run.connect(&run.done).await {
        while !*run.done.borrow() {
            let events = source.batch();
            run.invoked(&events);
            match api.publish("in", events.clone()).await {
                Ok(ranges) => run.acked(source.name, &events, &ranges),
                Err(status) if is_unknown(&status) => break,
                Err(status) => {
                    assert!(!unexpected(&status), "{status:?}");
                    run.note(|history| events.iter().for_each(|e| history.publish_refused(&e.id)));
                }
            }
            source.rest().await;
        }
    }
}

/// Publishes with a session, and sends each batch again until it is answered, so
/// that all of them are there in the end, once.
pub(crate) async fn session(run: Run, mut source: Source) {
    let mut session: Option<(i64, i64)> = None;
    let mut sequence = 1;
    let mut pending: Option<Vec<Event>> = None;
    // The last batch is not left open: until then the consumers' end counts.
    while let Some(api) = run.connect(&run.drained).await {
        let mut broker = api.broker.clone();
        if session.is_none() {
            let request = OpenProducerRequest::default();
            let Ok(opened) = broker.open_producer(request).await else {
                continue;
            };
            let opened = opened.into_inner();
            session = Some((opened.producer_id, opened.producer_epoch));
        }
        let (producer_id, producer_epoch) = session.unwrap();
        loop {
            if pending.is_none() && *run.done.borrow() {
                return;
            }
            let events = pending.get_or_insert_with(|| source.batch()).clone();
            run.invoked(&events);
            let request = PublishRequest {
                topic: "in".to_owned(),
                events: events.clone(),
                partition: None,
                producer: Some(ProducerSequence {
                    producer_id,
                    producer_epoch,
                    sequence,
                }),
            };
            match broker.publish(request).await {
                Ok(response) => {
                    run.acked(source.name, &events, &response.into_inner().ranges);
                    pending = None;
                    sequence += 1;
                }
                Err(status) => {
                    assert!(!unexpected(&status), "{status:?}");
                    break;
                }
            }
            source.rest().await;
        }
    }
}

/// Publishes on a stream with several batches under way, and never tries again.
pub(crate) async fn stream(run: Run, mut source: Source) {
    while let Some(api) = run.connect(&run.done).await {
        let (outbox, requests) = mpsc::channel(64);
        let send = |message| {
            outbox.try_send(PublishStreamRequest {
                message: Some(message),
            })
        };
        send(ToBroker::Open(PublishOpen::default())).unwrap();
        let requests = ReceiverStream::new(requests);
        let Ok(answers) = api.broker.clone().publish_stream(requests).await else {
            continue;
        };
        let mut answers = answers.into_inner();
        let mut under_way: VecDeque<(i64, Vec<Event>)> = VecDeque::new();
        let mut request_id = 0;
        while !*run.done.borrow() {
            while under_way.len() < 16 {
                let events = source.batch();
                request_id += 1;
                run.invoked(&events);
                under_way.push_back((request_id, events.clone()));
                let batch = PublishBatch {
                    request_id,
                    topic: "in".to_owned(),
                    events,
                    ..PublishBatch::default()
                };
                if send(ToBroker::Batch(batch)).is_err() {
                    break;
                }
            }
            let Ok(Some(answer)) = answers.message().await else {
                break;
            };
            let mut taken = |request_id| {
                let at = under_way.iter().position(|(id, _)| *id == request_id);
                under_way.remove(at.unwrap()).unwrap().1
            };
            match answer.message {
                Some(FromBroker::Ack(ack)) => {
                    run.acked(source.name, &taken(ack.request_id), &ack.ranges)
                }
                Some(FromBroker::Refused(refused)) => {
                    let refusal = Refusal::from(refused.error.as_ref().unwrap());
                    let passing =
                        matches!(refusal.code, Code::Unavailable | Code::ResourceExhausted);
                    assert!(passing, "{refusal:?}");
                    let events = taken(refused.request_id);
                    run.note(|history| events.iter().for_each(|e| history.publish_refused(&e.id)));
                }
                _ => {}
            }
            source.rest().await;
        }
    }
}
