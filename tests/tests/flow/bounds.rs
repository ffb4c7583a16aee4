//! Limits that bound memory, each at its bound: what is refused, and what goes on.

use std::time::Duration;

use sluice_proto::pb::{
    BacklogPolicy, ConnectionLoss, ConsumeRequest, DescribeBrokerRequest, Grant, GroupConfig,
    Heartbeat, IdleReason, Ordering, PublishBatch, PublishOpen, PublishStreamRequest,
    consume_request, consume_response, publish_stream_request, publish_stream_response,
};
use sluice_tests::{
    api::{Api, Refusal, event, expect},
    broker::TestBroker,
    member::{Member, ack, join},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::{events, events_max, limited, publish_within};

const MIB: i64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_too_many_is_closed_and_the_others_go_on() {
    let broker = TestBroker::start_with(&["--limit", "connections_max=2"]);
    let (first, second) = (
        Api::connect(broker.url()).await,
        Api::connect(broker.url()).await,
    );
    let describe = async |api: &Api| {
        let request = DescribeBrokerRequest {};
        api.admin.clone().describe_broker(request).await
    };
    describe(&first).await.unwrap();
    describe(&second).await.unwrap();
    match Api::try_connect(broker.url()).await {
        Ok(third) => {
            let refused = expect("an answer", describe(&third)).await.unwrap_err();
            let closed = [Code::Unavailable, Code::Unknown, Code::Cancelled];
            assert!(closed.contains(&refused.code()), "{refused:?}");
        }
        // It was closed while it was made.
        Err(_closed) => {}
    }
    describe(&first).await.unwrap();
    describe(&second).await.unwrap();
    // One that goes makes room.
    drop(second);
    expect("room for another", async {
        loop {
            if let Ok(third) = Api::try_connect(broker.url()).await
                && describe(&third).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    describe(&first).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_with_so_many_bytes_and_one_more_is_refused() {
    let broker = TestBroker::start_with(&["--limit", "publish_waiting_bytes=1048576"]);
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    api.create_topic("free", 1).await;
    let limit = limited(events_max(BacklogPolicy::Throttle, 10));
    api.create_group("in", "workers", limit).await;
    api.publish("in", events(10)).await.unwrap();
    let large = || {
        let mut large = event("large");
        large.data = vec![b'x'; 600 << 10].into();
        vec![large]
    };
    let waiting = {
        let api = api.clone();
        let request = large();
        tokio::spawn(async move {
            loop {
                match api.publish("in", request.clone()).await {
                    // One of those below came first, and will be gone soon.
                    Err(status) if Refusal::from(&status).reason == "OVERLOADED" => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    done => return done,
                }
            }
        })
    };
    // Until it waits, others of its size are let in line, too.
    let refused = expect("a refusal", async {
        loop {
            let soon = Duration::from_secs(2);
            let status = publish_within(&api, "in", large(), soon).await.unwrap_err();
            let refusal = Refusal::from(&status);
            if refusal.reason == "OVERLOADED" {
                return (refusal, status);
            }
            assert_eq!(refusal.reason, "BACKLOG_FULL", "{status:?}");
        }
    })
    .await;
    let (refusal, status) = refused;
    assert_eq!(refusal.code, Code::ResourceExhausted);
    for part in ["publish_waiting_bytes", "1048576", "nothing was appended"] {
        assert!(refusal.message.contains(part), "{}", refusal.message);
    }
    assert!(status.get_error_details().retry_info().is_some());
    // What is small still fits, and what need not wait is in nobody's way.
    let small = publish_within(&api, "in", events(1), Duration::from_secs(2)).await;
    assert_eq!(Refusal::from(&small.unwrap_err()).reason, "BACKLOG_FULL");
    api.publish("free", events(1)).await.unwrap();
    // The one that waits is let in when there is room.
    assert!(!waiting.is_finished());
    let mut member = Member::join(&api, join("in", "workers", 10)).await.unwrap();
    for _ in 0..10 {
        let lease = member.delivery().await.unwrap().lease.unwrap();
        assert!(member.settle(vec![ack(lease)]).await.unwrap().is_empty());
    }
    expect("the one that waits", waiting)
        .await
        .unwrap()
        .unwrap();
}

/// A PublishStream that is open, and the credit that it has.
struct Open {
    requests: mpsc::Sender<PublishStreamRequest>,
    responses: Streaming<sluice_proto::pb::PublishStreamResponse>,
    credit: i64,
}

impl Open {
    /// Sends batches of one event of so many bytes, whatever the credit.
    fn send(&self, topic: &str, batches: i64, bytes: usize) -> JoinHandle<()> {
        let (requests, topic) = (self.requests.clone(), topic.to_owned());
        tokio::spawn(async move {
            for request_id in 1..=batches {
                let mut event = event(&request_id.to_string());
                event.data = vec![b'x'; bytes].into();
                let batch = publish_stream_request::Message::Batch(PublishBatch {
                    request_id,
                    topic: topic.clone(),
                    events: vec![event],
                    ..PublishBatch::default()
                });
                let message = Some(batch);
                let sent = requests.send(PublishStreamRequest { message }).await;
                sent.expect("the stream goes on");
            }
        })
    }

    /// Waits until so many batches are acked.
    async fn acked(&mut self, batches: i64) {
        let mut acked = 0;
        while acked < batches {
            match self.responses.message().await.unwrap().unwrap().message {
                Some(publish_stream_response::Message::Ack(_)) => acked += 1,
                Some(publish_stream_response::Message::Credit(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn open(api: &Api) -> Result<Open, Status> {
    let (requests, outgoing) = mpsc::channel(8);
    let open = publish_stream_request::Message::Open(PublishOpen::default());
    let message = Some(open);
    requests
        .send(PublishStreamRequest { message })
        .await
        .unwrap();
    let mut broker = api.broker.clone();
    let responses = broker.publish_stream(ReceiverStream::new(outgoing)).await?;
    let mut responses = responses.into_inner();
    let first = expect("the answer", responses.message()).await?;
    match first.unwrap().message.unwrap() {
        publish_stream_response::Message::Opened(opened) => Ok(Open {
            requests,
            responses,
            credit: opened.credit.unwrap().max_bytes,
        }),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_have_smaller_windows_and_one_too_many_is_refused() {
    let broker = TestBroker::start_with(&["--limit", "publish_windows_bytes=1048576"]);
    let api = Api::connect(broker.url()).await;
    let mut streams = Vec::new();
    for number in 1..=16 {
        let stream = open(&api).await.unwrap();
        // Each share is what is there by the number of streams, and never less
        // than 64 KiB.
        let share = (MIB / number).max(64 << 10);
        assert!((stream.credit - share).abs() <= 1, "{}", stream.credit);
        streams.push(stream);
    }
    let Err(status) = open(&api).await else {
        panic!("there is no window for another stream");
    };
    let refusal = Refusal::from(&status);
    assert_eq!(refusal.code, Code::ResourceExhausted, "{status:?}");
    assert_eq!(refusal.reason, "TOO_MANY");
    for part in ["16 PublishStreams", "1048576", "publish_windows_bytes"] {
        assert!(refusal.message.contains(part), "{}", refusal.message);
    }
    // When they are gone, the next one has all.
    drop(streams);
    expect("a whole window", async {
        while !matches!(open(&api).await, Ok(stream) if stream.credit == MIB) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// What waits at a topic's gate is on no way to the log.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_read_by_turns_all_go_on_but_for_those_of_a_full_topic() {
    const BATCHES: i64 = 30;
    let broker = TestBroker::start_with(&["--limit", "publish_reading_bytes=65536"]);
    let api = Api::connect(broker.url()).await;
    api.create_topic("full", 1).await;
    api.create_topic("free", 1).await;
    let config = limited(events_max(BacklogPolicy::Throttle, 1));
    api.create_group("full", "workers", config).await;
    api.publish("full", events(1)).await.unwrap();
    let mut held = open(&api).await.unwrap();
    let sending = held.send("full", 5, 50_000);
    let mut free = Vec::new();
    for number in 0..8 {
        let api = Api::connect(broker.url()).await;
        let stream = open(&api).await.unwrap();
        // A batch that is larger than all that may be on its way has it alone.
        let sending = stream.send("free", BATCHES, 20_000 * (1 + number));
        free.push((stream, sending));
    }
    for (stream, sending) in &mut free {
        expect("all batches", stream.acked(BATCHES)).await;
        sending.await.unwrap();
    }
    let mut member = Member::join(&api, join("full", "workers", 10))
        .await
        .unwrap();
    for _ in 0..6 {
        let delivery = expect("an event", member.delivery()).await.unwrap();
        let lease = delivery.lease.unwrap();
        assert!(member.settle(vec![ack(lease)]).await.unwrap().is_empty());
    }
    expect("those of the full topic", held.acked(5)).await;
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_larger_than_the_grant_moves_and_becomes_debt() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        ..GroupConfig::default()
    };
    api.create_group("in", "workers", config).await;
    let mut large = event("large");
    large.data = vec![b'x'; 10_000].into();
    let size = prost::Message::encoded_len(&large) as i64;
    api.publish("in", vec![large.clone(), large.clone(), large])
        .await
        .unwrap();
    let grant = |max_bytes| Grant {
        max_events: 100,
        max_bytes,
    };
    let mut request = join("in", "workers", 100);
    request.grant = Some(grant(1));
    let mut member = Member::join(&api, request).await.unwrap();
    member.delivery().await.unwrap();
    // To the byte: what it overshot by is missing from the next grants.
    for (max_bytes, moves) in [(size, false), (size + 1, true), (2 * size, false)] {
        let grant = Some(grant(max_bytes));
        let heartbeat = consume_request::Message::Heartbeat(Heartbeat { grant });
        member.send(heartbeat).await;
        if moves {
            member.delivery().await.unwrap();
            continue;
        }
        let answer = async {
            loop {
                match member.response().await.unwrap().unwrap() {
                    consume_response::Message::Heartbeat(answer) => {
                        if answer.idle() == IdleReason::NoCredit {
                            return;
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        };
        expect("the answer to a heartbeat", answer).await;
    }
    let described = api.describe_group("in", "workers").await;
    assert_eq!(described.partitions[0].in_flight, 2);
    assert!(member.delivery_at_hand().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_gone_before_their_join_is_answered_leave_nothing_behind() {
    const CLIENTS: usize = 200;
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        on_connection_loss: ConnectionLoss::AtOnce.into(),
        solo_wait: Some(prost_types::Duration::default()),
        ..GroupConfig::default()
    };
    api.create_group("in", "workers", config).await;
    for _ in 0..CLIENTS {
        let (outbox, requests) = mpsc::channel(8);
        let join = consume_request::Message::Join(join("in", "workers", 100));
        let message = Some(join);
        outbox.send(ConsumeRequest { message }).await.unwrap();
        // The headers come at once, and the answer to the join after them.
        let mut broker = api.broker.clone();
        let responses = broker.consume(ReceiverStream::new(requests)).await;
        drop(responses.unwrap());
    }
    expect("all of them to be out", async {
        while !api.describe_group("in", "workers").await.members.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // Nothing that comes now is given to one of them.
    api.publish("in", events(10)).await.unwrap();
    let mut member = Member::join(&api, join("in", "workers", 10)).await.unwrap();
    for _ in 0..10 {
        let delivery = member.delivery().await.unwrap();
        assert_eq!(delivery.attempt, 1);
        let lease = delivery.lease.unwrap();
        assert!(member.settle(vec![ack(lease)]).await.unwrap().is_empty());
    }
}
