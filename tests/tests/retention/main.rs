//! Topics that keep their events for a while, on a broker with small segments:
//! its disk stays bounded, what is kept survives kills and a lost view, and
//! groups are told what they missed.

#![allow(clippy::unwrap_used)]

use std::{fs, time::Duration};

use rand::RngExt;
use sluice_proto::pb::{
    CreateTopicRequest, DeleteTopicRequest, DescribeBrokerRequest, DescribeBrokerResponse,
    DescribeTopicRequest, GroupConfig, PartitionDescription, ReadRequest, ReadStart, Retention,
    TopicConfig, TrimTopicRequest, UpdateTopicRequest, consume_response::Message as Response,
    read_start::At, trim_topic_request::Before,
};
use sluice_tests::{
    api::{Api, event, expect, keyed_event},
    broker::TestBroker,
    member::{Member, ack, join},
    seed,
};
use tonic::Code;

const SEGMENT: i64 = (16 << 20) + (16 << 10);

fn broker() -> TestBroker {
    let segment = format!("segment_bytes={SEGMENT}");
    let limits = [
        &segment[..],
        "checkpoint_bytes=1048576",
        "log_checkpoint_bytes=2097152",
        "retention_interval_ms=50",
        "tail_cache_bytes=0",
        "rewrite_below_percent=50",
        "spare_segments_max=1",
    ];
    let args: Vec<&str> = limits.iter().flat_map(|limit| ["--limit", limit]).collect();
    TestBroker::start_with(&args)
}

async fn create(api: &Api, topic: &str, retention: Retention) {
    let request = CreateTopicRequest {
        topic: topic.to_owned(),
        config: Some(TopicConfig {
            partitions: 1,
            retention: Some(retention),
            ..TopicConfig::default()
        }),
    };
    api.admin.clone().create_topic(request).await.unwrap();
}

async fn status(api: &Api) -> DescribeBrokerResponse {
    let request = DescribeBrokerRequest {};
    let response = api.admin.clone().describe_broker(request).await;
    response.unwrap().into_inner()
}

async fn partition(api: &Api, topic: &str) -> PartitionDescription {
    let request = DescribeTopicRequest {
        topic: topic.to_owned(),
    };
    let response = api.admin.clone().describe_topic(request).await.unwrap();
    response.into_inner().partitions.remove(0)
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    expect(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// Twenty times of what is kept goes through; rare events that are kept for ever
/// lie between; the broker is killed, and now and then its view is lost.
#[tokio::test]
async fn the_disk_stays_bounded_and_what_is_kept_survives_kills() {
    const KEPT: i64 = 8 << 20;
    const EVENT: usize = 500_000;
    let mut random = seed::seeded();
    let mut broker = broker();
    let mut api = Api::connect(broker.url()).await;
    let bounded = Retention {
        max_bytes: KEPT,
        ..Retention::default()
    };
    create(&api, "bounded", bounded).await;
    api.create_topic("kept", 1).await;
    let mut kept = Vec::new();
    let mut highest_bytes = 0;
    let rounds = 20 * KEPT as usize / EVENT;
    for round in 0..rounds {
        let mut large = event(&format!("large-{round:04}"));
        let mut data = vec![0; EVENT];
        random.fill(&mut data[..]);
        large.data = data.into();
        api.publish("bounded", vec![large]).await.unwrap();
        let id = format!("kept-{round:04}");
        api.publish("kept", vec![event(&id)]).await.unwrap();
        kept.push(id);
        highest_bytes = highest_bytes.max(status(&api).await.log_bytes);
        if random.random_ratio(1, 60) {
            broker.kill();
            if random.random() {
                fs::remove_dir_all(broker.data_dir().join("view")).unwrap();
            }
            broker.restart();
            api = Api::connect(broker.url()).await;
            assert_eq!(api.ids("kept").await, kept, "round {round}");
        }
    }
    // What is kept, what waits for a checkpoint and a turn, and the open segment.
    let bound = KEPT + 6 * SEGMENT;
    assert!(
        highest_bytes <= bound,
        "{highest_bytes} bytes on disk, {bound} at most"
    );
    until("what is too much is dropped", async || {
        partition(&api, "bounded").await.bytes <= KEPT
    })
    .await;
    let described = partition(&api, "bounded").await;
    assert!(described.bytes > KEPT / 2, "{described:?}");
    assert!(status(&api).await.log_bytes < bound / 2 + SEGMENT);
    broker.kill();
    fs::remove_dir_all(broker.data_dir().join("view")).unwrap();
    broker.restart();
    let api = Api::connect(broker.url()).await;
    assert_eq!(api.ids("kept").await, kept);
    assert_eq!(partition(&api, "bounded").await, described);
    let ids = api.ids("bounded").await;
    let first = described.start_offset as usize;
    let expected: Vec<_> = (first..rounds).map(|n| format!("large-{n:04}")).collect();
    assert_eq!(ids, expected);

    // A deleted topic gives back what it had.
    let topic = "bounded".to_owned();
    let request = DeleteTopicRequest { topic };
    api.admin.clone().delete_topic(request).await.unwrap();
    until("the space of a deleted topic comes back", async || {
        status(&api).await.log_bytes <= 3 * SEGMENT
    })
    .await;
    assert_eq!(api.ids("kept").await, kept);
}

#[tokio::test]
async fn a_group_that_lags_is_told_what_it_missed_or_holds_it() {
    let broker = broker();
    let api = Api::connect(broker.url()).await;
    let ten = Retention {
        max_events: 10,
        ..Retention::default()
    };
    let held = Retention {
        hold_unread: true,
        ..ten
    };
    create(&api, "drops", ten).await;
    create(&api, "holds", held).await;
    for topic in ["drops", "holds"] {
        api.create_group(topic, "slow", GroupConfig::default())
            .await;
    }
    let mut member = Member::join(&api, join("drops", "slow", 0)).await.unwrap();
    for number in 0..50 {
        for topic in ["drops", "holds"] {
            api.publish(topic, vec![event(&format!("e{number}"))])
                .await
                .unwrap();
        }
    }
    until("what is too much is dropped", async || {
        partition(&api, "drops").await.start_offset == 40
    })
    .await;
    let mut missed = 0;
    while missed < 40 {
        let response = expect("a gap", member.response()).await.unwrap();
        if let Some(Response::Gap(gap)) = response {
            assert_eq!(gap.partition, 0);
            assert!(gap.first < gap.end && gap.end <= 40, "{gap:?}");
            missed += gap.event_count;
        }
    }
    assert_eq!(missed, 40);
    let described = api.describe_group("drops", "slow").await;
    assert_eq!(described.dropped_count, 40);
    let mut member = Member::join(&api, join("drops", "slow", 100))
        .await
        .unwrap();
    for offset in 40..50 {
        let delivery = expect("what is left", member.delivery()).await.unwrap();
        assert_eq!(delivery.offset, offset);
        let failures = member.settle(vec![ack(delivery.lease.unwrap())]).await;
        assert!(failures.unwrap().is_empty());
    }
    api.wait_until_caught_up("drops", "slow").await;

    assert_eq!(partition(&api, "holds").await.start_offset, 0);
    until("status names who holds", async || {
        let held = status(&api).await.held;
        held.iter()
            .any(|h| h.topic == "holds" && h.group == "slow" && h.event_count == 40)
    })
    .await;
    // Without the hold it goes at once.
    let request = UpdateTopicRequest {
        topic: "holds".to_owned(),
        retention: Some(ten),
    };
    api.admin.clone().update_topic(request).await.unwrap();
    until("nothing is held any more", async || {
        partition(&api, "holds").await.start_offset == 40 && status(&api).await.held.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_topic_is_trimmed_by_hand_and_read_from_its_start() {
    let mut broker = broker();
    let api = Api::connect(broker.url()).await;
    api.create_topic("t", 1).await;
    let ids: Vec<_> = (100..120).map(|number| format!("e{number}")).collect();
    for id in &ids {
        api.publish("t", vec![event(id)]).await.unwrap();
    }
    let trim = |before| TrimTopicRequest {
        topic: "t".to_owned(),
        partition: Some(0),
        before: Some(before),
    };
    let trimmed = api.admin.clone().trim_topic(trim(Before::Offset(7))).await;
    let trimmed = trimmed.unwrap().into_inner().partitions;
    assert_eq!((trimmed[0].start_offset, trimmed[0].visible_end), (7, 20));
    assert_eq!(api.ids("t").await, ids[7..]);
    let read_from = async |api: &Api, offset| {
        let request = ReadRequest {
            topic: "t".to_owned(),
            start: Some(ReadStart {
                at: Some(At::Offset(offset)),
                ..ReadStart::default()
            }),
            ..ReadRequest::default()
        };
        let mut stream = api.broker.clone().read(request).await?.into_inner();
        let mut offsets = Vec::new();
        while let Some(response) = stream.message().await? {
            offsets.extend(response.events.into_iter().map(|event| event.offset));
        }
        Ok::<_, tonic::Status>(offsets)
    };
    assert_eq!(read_from(&api, 3).await.unwrap(), Vec::from_iter(7..20));
    assert_eq!(read_from(&api, 9).await.unwrap(), Vec::from_iter(9..20));
    assert_eq!(
        read_from(&api, 21).await.unwrap_err().code(),
        Code::OutOfRange
    );

    // Beyond the end, everything goes; offsets go on.
    let all = api
        .admin
        .clone()
        .trim_topic(trim(Before::Offset(1000)))
        .await;
    assert_eq!(all.unwrap().into_inner().partitions[0].start_offset, 20);
    assert!(api.ids("t").await.is_empty());
    broker.restart();
    let api = Api::connect(broker.url()).await;
    assert_eq!(partition(&api, "t").await.start_offset, 20);
    api.publish("t", vec![event("new")]).await.unwrap();
    assert_eq!(read_from(&api, 0).await.unwrap(), [20]);
}

/// Against a model: of each key the last event is there, tombstones go, offsets
/// stay, and nothing of the newest is missing.
#[tokio::test]
async fn a_compacted_topic_keeps_the_last_of_each_key() {
    let mut random = seed::seeded();
    let mut broker = broker();
    let api = Api::connect(broker.url()).await;
    let compacted = Retention {
        compact: true,
        tombstone_delay: Some(prost_types::Duration::default()),
        ..Retention::default()
    };
    create(&api, "c", compacted).await;
    let mut all = Vec::new();
    for batch in 0..60 {
        let mut events = Vec::new();
        for number in 0..100 {
            let key = random.random_range(0..50);
            let mut new = keyed_event(&format!("e{batch}-{number}"), &format!("k{key}"));
            let tombstone = random.random_ratio(1, 10);
            new.data = vec![1; if tombstone { 0 } else { 500 }].into();
            all.push((key, tombstone, new.id.clone()));
            events.push(new);
        }
        api.publish("c", events).await.unwrap();
    }
    let last = |at: usize| {
        let (key, ..) = all[at];
        all[at + 1..].iter().all(|(other, ..)| *other != key)
    };
    until("most of it is compacted", async || {
        api.ids("c").await.len() < all.len() / 2
    })
    .await;
    for killed in [false, true] {
        let mut api = api.clone();
        if killed {
            broker.kill();
            fs::remove_dir_all(broker.data_dir().join("view")).unwrap();
            broker.restart();
            api = Api::connect(broker.url()).await;
        }
        let read = api.read_all("c").await;
        let mut before = None;
        for (event, place) in &read {
            let at = place.offset as usize;
            assert!(before < Some(at), "in order");
            assert_eq!(all[at].2, event.id, "offsets stay");
            before = Some(at);
        }
        for (at, (_, tombstone, id)) in all.iter().enumerate() {
            let there = read.iter().any(|(event, _)| event.id == *id);
            assert!(
                there || *tombstone || !last(at),
                "the last of a key, {id}, is gone"
            );
        }
    }
}
