//! A broker that is killed again and again, with producers and consumers at
//! work, and what it has promised them.
//!
//! ```text
//!   single, session, stream ──> "in" ──> group "acking":     ack
//!        (producers)             └─────> group "committing": commit ack and output ──> "out"
//! ```
//!
//! `SLUICE_SEED` replays what is random in a run: what is published, and when the
//! broker is killed.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sluice_proto::pb::{
    Event, Grant, GroupConfig, OpenProducerRequest, Ordering, ProducerSequence, PublishBatch,
    PublishOpen, PublishRequest, PublishStreamRequest, consume_request::Message as Request,
    publish_stream_request::Message as ToBroker, publish_stream_response::Message as FromBroker,
};
use sluice_tests::{
    api::{Api, Refusal, event, expect, is_unknown, key_of, keyed_event, places},
    broker::TestBroker,
    history::{Delivered, History, Place},
    member::{Member, ack, commit, join},
    seed::seeded,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

const KILLS: usize = 25;
const PARTITIONS: u32 = 3;
/// What a consumer is allowed to have at once.
const WINDOW: i64 = 32;

/// What every task of a run shares.
#[derive(Clone)]
struct Run {
    history: Arc<Mutex<History>>,
    /// Where the broker is now; nothing while it is down.
    url: watch::Receiver<Option<String>>,
    /// The producers are to end.
    done: watch::Receiver<bool>,
    /// The consumers are to end.
    drained: watch::Receiver<bool>,
}

impl Run {
    fn note<T>(&self, note: impl FnOnce(&mut History) -> T) -> T {
        note(&mut self.history.lock().unwrap())
    }

    /// A connection to the broker, when there is one again. `None` when the run
    /// has come to its end.
    async fn connect(&self, end: &watch::Receiver<bool>) -> Option<Api> {
        let mut url = self.url.clone();
        let mut end = end.clone();
        loop {
            if *end.borrow() {
                return None;
            }
            let now = url.borrow_and_update().clone();
            if let Some(now) = now
                && let Ok(api) = Api::try_connect(&now).await
            {
                return Some(api);
            }
            tokio::select! {
                _ = end.changed() => {}
                _ = url.changed() => {}
                // It may have been killed before we had connected.
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }

    fn acked(&self, events: &[Event], ranges: &[sluice_proto::pb::AppendedRange]) {
        let places = places(events, PARTITIONS, ranges);
        self.note(|history| {
            for (event, place) in events.iter().zip(places) {
                history.publish_acked(&event.id, place);
            }
        });
    }

    fn invoked(&self, events: &[Event]) {
        self.note(|history| {
            for event in events {
                history.publish_invoked(&event.id);
            }
        });
    }
}

/// Events that are random, with ids that are not.
struct Source {
    name: &'static str,
    random: StdRng,
    next: u64,
}

impl Source {
    fn new(name: &'static str, random: &mut StdRng) -> Self {
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
async fn single(run: Run, mut source: Source) {
    while let Some(api) = run.connect(&run.done).await {
        while !*run.done.borrow() {
            let events = source.batch();
            run.invoked(&events);
            match api.publish("in", events.clone()).await {
                Ok(ranges) => run.acked(&events, &ranges),
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
async fn session(run: Run, mut source: Source) {
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
                    run.acked(&events, &response.into_inner().ranges);
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
async fn stream(run: Run, mut source: Source) {
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
                Some(FromBroker::Ack(ack)) => run.acked(&taken(ack.request_id), &ack.ranges),
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

/// One delivery, noted.
fn took(run: &Run, group: &str, delivery: sluice_proto::pb::Delivery) -> Taken {
    let event = delivery.event.unwrap();
    let lease = delivery.lease.unwrap();
    let delivered = Delivered {
        group: group.to_owned(),
        id: event.id.clone(),
        key: key_of(&event).map(str::to_owned),
        place: Place {
            topic: "in".to_owned(),
            partition: delivery.partition,
            offset: delivery.offset,
        },
        lease: (lease.epoch, lease.counter),
    };
    run.note(|history| history.delivered(delivered));
    Taken {
        id: event.id,
        lease,
    }
}

struct Taken {
    id: String,
    lease: sluice_proto::pb::LeaseToken,
}

/// Acks what it gets, in batches, and presents what it holds when it joins again.
async fn acking(run: Run) {
    let mut held: Vec<Taken> = Vec::new();
    while let Some(api) = run.connect(&run.drained).await {
        let mut request = join("in", "acking", WINDOW);
        request.held = held.iter().map(|taken| taken.lease).collect();
        let Ok(mut member) = Member::join(&api, request).await else {
            continue;
        };
        held.retain(|taken| !member.joined.lost.contains(&taken.lease));
        let _heartbeats = member.heartbeats();
        let mut granted = WINDOW;
        let mut drained = run.drained.clone();
        loop {
            if held.is_empty() {
                tokio::select! {
                    _ = drained.changed() => return,
                    delivery = member.delivery() => match delivery {
                        Ok(delivery) => held.push(took(&run, "acking", delivery)),
                        Err(_) => break,
                    },
                }
            }
            while let Some(delivery) = member.delivery_at_hand() {
                held.push(took(&run, "acking", delivery));
            }
            let acks = held.iter().map(|taken| ack(taken.lease)).collect();
            let Ok(failures) = member.settle(acks).await else {
                break;
            };
            let failed: BTreeSet<_> = failures.iter().map(|failure| failure.index).collect();
            granted += i64::try_from(held.len()).unwrap();
            for (index, taken) in (0..).zip(held.drain(..)) {
                if !failed.contains(&index) {
                    let lease = (taken.lease.epoch, taken.lease.counter);
                    run.note(|history| history.settled("acking", &taken.id, lease));
                }
            }
            let grant = Grant {
                max_events: granted,
                max_bytes: 0,
            };
            member.send(Request::Grant(grant)).await;
        }
    }
}

/// Acks each event and publishes one for it in one commit, which it sends again
/// until it is answered.
async fn committing(run: Run) {
    let mut session: Option<(i64, i64)> = None;
    let mut sequence = 1;
    let mut pending: Option<Taken> = None;
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
        let mut member: Option<Member> = None;
        let mut _heartbeats = None;
        let mut granted = WINDOW;
        let mut drained = run.drained.clone();
        loop {
            let taken = match pending.take() {
                Some(taken) => taken,
                None => {
                    if member.is_none() {
                        let joined = Member::join(&api, join("in", "committing", WINDOW)).await;
                        let Ok(joined) = joined else { break };
                        _heartbeats = Some(joined.heartbeats());
                        member = Some(joined);
                    }
                    let member = member.as_mut().unwrap();
                    tokio::select! {
                        _ = drained.changed() => return,
                        delivery = member.delivery() => match delivery {
                            Ok(delivery) => took(&run, "committing", delivery),
                            Err(_) => break,
                        },
                    }
                }
            };
            let output = event(&format!("out-{}", taken.id));
            run.note(|history| history.publish_invoked(&output.id));
            let mut request = commit(("in", "committing"), taken.lease, "out", output.clone());
            request.producer = Some(ProducerSequence {
                producer_id,
                producer_epoch,
                sequence,
            });
            match broker.commit(request).await {
                Ok(response) => {
                    let ranges = response.into_inner().ranges;
                    let place = places(std::slice::from_ref(&output), 1, &ranges).remove(0);
                    let lease = (taken.lease.epoch, taken.lease.counter);
                    run.note(|history| {
                        history.publish_acked(&output.id, place);
                        history.settled("committing", &taken.id, lease);
                    });
                    sequence += 1;
                }
                Err(status) if is_unknown(&status) => {
                    pending = Some(taken);
                    break;
                }
                // Refused, so its sequence is not taken. The event comes again.
                Err(status) => {
                    let refusal = Refusal::from(&status);
                    assert_eq!(refusal.reason, "LEASE_LOST", "{refusal:?}");
                }
            }
            granted += 1;
            if let Some(member) = &member {
                let grant = Grant {
                    max_events: granted,
                    max_bytes: 0,
                };
                member.send(Request::Grant(grant)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_keeps_what_it_has_promised() {
    let mut random = seeded();
    let mut broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", PARTITIONS.try_into().unwrap()).await;
    api.create_topic("out", 1).await;
    for group in ["acking", "committing"] {
        let config = GroupConfig {
            ordering: Ordering::Key.into(),
            lease_duration: Some(Duration::from_secs(5).try_into().unwrap()),
            // What is lost with a member counts an attempt; none is to die of it.
            retry: Some(sluice_proto::pb::RetryPolicy {
                max_attempts: 100,
                initial_delay: Some(Duration::ZERO.try_into().unwrap()),
                ..Default::default()
            }),
            ..GroupConfig::default()
        };
        api.create_group("in", group, config).await;
    }

    let (url, where_it_is) = watch::channel(Some(broker.url().to_owned()));
    let (done, is_done) = watch::channel(false);
    let (drained, is_drained) = watch::channel(false);
    let run = Run {
        history: Arc::default(),
        url: where_it_is,
        done: is_done,
        drained: is_drained,
    };
    let mut producers = JoinSet::new();
    producers.spawn(single(run.clone(), Source::new("single", &mut random)));
    producers.spawn(session(run.clone(), Source::new("session", &mut random)));
    producers.spawn(stream(run.clone(), Source::new("stream", &mut random)));
    let mut consumers = JoinSet::new();
    consumers.spawn(acking(run.clone()));
    consumers.spawn(acking(run.clone()));
    consumers.spawn(committing(run.clone()));
    consumers.spawn(committing(run.clone()));

    for kill in 1..=KILLS {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        url.send(None).unwrap();
        let while_starting = random.random_bool(0.2);
        let started_for = Duration::from_micros(random.random_range(0..60_000));
        // Starting and killing block.
        tokio::task::block_in_place(|| {
            broker.kill();
            if while_starting {
                broker.start_and_kill_after(started_for);
            }
            broker.restart();
        });
        url.send(Some(broker.url().to_owned())).unwrap();
        if kill % 5 == 0 {
            println!(
                "kill {kill}: acked, unknown, delivered: {:?}",
                run.note(|h| h.counts())
            );
        }
    }
    done.send(true).unwrap();
    while let Some(ended) = expect("the producers to end", producers.join_next()).await {
        ended.unwrap();
    }
    let api = Api::connect(broker.url()).await;
    for group in ["acking", "committing"] {
        api.wait_until_caught_up("in", group).await;
    }
    drained.send(true).unwrap();
    while let Some(ended) = expect("the consumers to end", consumers.join_next()).await {
        ended.unwrap();
    }

    // What is read is what the log gives after one more crash.
    broker.kill();
    broker.restart();
    let api = Api::connect(broker.url()).await;
    let mut history = run.note(std::mem::take);
    let mut inputs = BTreeSet::new();
    let mut outputs = BTreeSet::new();
    for (topic, ids) in [("in", &mut inputs), ("out", &mut outputs)] {
        for (event, place) in api.read_all(topic).await {
            history.read(&event.id, place);
            ids.insert(event.id);
        }
    }
    let mut anomalies = history.anomalies();
    anomalies.extend(history.undelivered("acking", "in"));
    anomalies.extend(history.undelivered("committing", "in"));
    for anomaly in &anomalies {
        println!("{anomaly}");
    }
    assert!(anomalies.is_empty(), "{} anomalies", anomalies.len());
    let expected: BTreeSet<_> = inputs.iter().map(|id| format!("out-{id}")).collect();
    assert_eq!(outputs, expected, "each input has its output, once");

    let (acked, unknown, delivered) = history.counts();
    println!("acked {acked}, unknown {unknown}, delivered {delivered}");
    assert!(acked > 0 && delivered > 0, "the run was worth something");
}
