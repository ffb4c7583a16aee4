//! One event that stays unsettled while many pass costs little, whatever it waits
//! for.
//!
//! `SLUICE_PASSING_EVENTS=10000000 cargo test --release -p sluice-tests --test
//! groups unsettled -- --nocapture --test-threads 1` lets 10 million pass;
//! `tests/results/unsettled.md` has what that came to.

use std::{path::Path, time::Duration};

use sluice_proto::pb::{
    CreateTopicRequest, Delivery, DescribeBrokerRequest, Event, Grant, GroupConfig, Nack, Ordering,
    Retention, Settlement, TopicConfig, consume_request::Message, settlement::Action,
};
use sluice_tests::{
    api::{Api, expect},
    broker::TestBroker,
    member::{self, Member, join},
};

use crate::setting::{GROUP, TOPIC, ack, describe, settle, take};

const BATCH: usize = 5_000;
const MIB: u64 = 1 << 20;
/// So much is in each event that all of them are twice what may be left of the log.
const DATA_BYTES: usize = 1000;
/// What may be left of the log, with all that is open, spare, or on its way.
const LOG_MAX: u64 = 96 * MIB;
/// Memory that the broker may have more when all have passed than when a tenth
/// has; by the events it would be some hundred bytes of each.
const MEMORY_MAX: u64 = 24 * MIB;

/// A small log that is written anew all the time, and a small cache.
const LIMITS: [&str; 12] = [
    "--limit",
    "segment_bytes=16793600",
    "--limit",
    "tail_cache_bytes=1048576",
    "--limit",
    "log_checkpoint_bytes=4194304",
    "--limit",
    "retention_interval_ms=200",
    "--limit",
    "disk_reserve_bytes=0",
    "--limit",
    "spare_segments_max=1",
];

fn passing_events() -> usize {
    match std::env::var("SLUICE_PASSING_EVENTS") {
        Ok(given) => given.parse().expect("it is a number"),
        Err(_) => 200_000,
    }
}

/// A topic that keeps a little, and what its group has not settled if it is to
/// hold that.
async fn start(hold_unread: bool) -> (TestBroker, Api) {
    let broker = TestBroker::start_with(&LIMITS);
    let api = Api::connect(broker.url()).await;
    let request = CreateTopicRequest {
        topic: TOPIC.to_owned(),
        config: Some(TopicConfig {
            partitions: 1,
            retention: Some(Retention {
                // More than is under way at a time.
                max_bytes: 4 * (BATCH * DATA_BYTES) as i64,
                hold_unread,
                ..Retention::default()
            }),
            ..TopicConfig::default()
        }),
    };
    api.admin.clone().create_topic(request).await.unwrap();
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        ..GroupConfig::default()
    };
    api.create_group(TOPIC, GROUP, config).await;
    api.publish(TOPIC, vec![small(0)]).await.unwrap();
    (broker, api)
}

fn small(number: usize) -> Event {
    Event {
        id: number.to_string(),
        source: "/t".to_owned(),
        r#type: "t".to_owned(),
        data: vec![0; DATA_BYTES].into(),
        ..Event::default()
    }
}

/// Publishes so many events, and acks each that comes.
async fn pass(api: &Api, count: usize) {
    let mut member = Member::join(api, join(TOPIC, GROUP, BATCH as i64))
        .await
        .unwrap();
    let _heartbeats = member.heartbeats();
    let (mut published, mut acked) = (0, 0);
    while acked < count {
        if published < count && published - acked < BATCH {
            let some = BATCH.min(count - published);
            let events = (published..published + some).map(small).collect();
            api.publish(TOPIC, events).await.unwrap();
            published += some;
        }
        let first = expect("a delivery", member.delivery()).await.unwrap();
        let mut acks = vec![member::ack(first.lease.unwrap())];
        while let Some(more) = member.delivery_at_hand() {
            acks.push(member::ack(more.lease.unwrap()));
        }
        acked += acks.len();
        assert_eq!(member.settle(acks).await.unwrap(), []);
        let grant = Grant {
            max_events: (acked + BATCH) as i64,
            max_bytes: 0,
        };
        member.send(Message::Grant(grant)).await;
    }
    member.leave().await.unwrap();
}

/// Lets events pass, and looks at what the broker has of memory and disk.
async fn pass_all(broker: &TestBroker, api: &Api, what: &str) {
    let count = passing_events();
    let log = broker.data_dir().join("log");
    pass(api, count / 10).await;
    let before = broker.resident_bytes();
    pass(api, count - count / 10).await;
    let after = broker.resident_bytes();
    println!(
        "{what}, {count} pass: {} MiB of memory after a tenth, {} MiB after all, {} MiB of log",
        before / MIB,
        after / MIB,
        size_of(&log) / MIB
    );
    let more = after.saturating_sub(before);
    assert!(more < MEMORY_MAX, "{more} bytes more for {count} events");
    reclaimed(api, &log).await;
}

/// Waits until little is left of the log, and nothing is held for the group.
async fn reclaimed(api: &Api, log: &Path) {
    let holds = async || {
        let mut admin = api.admin.clone();
        let described = admin.describe_broker(DescribeBrokerRequest {}).await;
        !described.unwrap().into_inner().held.is_empty()
    };
    let waits = async {
        while size_of(log) > LOG_MAX || holds().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    expect("the log to be reclaimed", waits).await;
}

fn size_of(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap();
    // A segment may be removed meanwhile.
    let sizes = files.filter_map(|file| file.ok()?.metadata().ok());
    sizes.map(|of| of.len()).sum()
}

async fn take_the_first(api: &Api) -> Delivery {
    take(api, 1).await.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_long_for_its_retry() {
    let (broker, api) = start(true).await;
    let first = take_the_first(&api).await;
    let nack = Action::Nack(Nack {
        delay: Some(Duration::from_secs(3600).try_into().unwrap()),
        reason: "much later".to_owned(),
    });
    assert!(settle(&api, &[&first], nack).await.is_empty());
    pass_all(&broker, &api, "one waits an hour").await;
    let described = describe(&api).await;
    assert_eq!(described.counts.unwrap().parked, 1);
    let partition = &described.partitions[0];
    assert_eq!(partition.committed_end, partition.visible_end);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_on_which_somebody_works() {
    let (broker, api) = start(false).await;
    let first = take_the_first(&api).await;
    let extend = Settlement {
        lease: first.lease,
        action: Some(Action::Extend(Default::default())),
    };
    let keep = {
        let api = api.clone();
        async move {
            loop {
                let action = extend.action.clone().unwrap();
                let failures = settle(
                    &api,
                    &[&Delivery {
                        lease: extend.lease,
                        ..Delivery::default()
                    }],
                    action,
                )
                .await;
                assert!(failures.is_empty(), "{failures:?}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    };
    let keep = tokio::spawn(keep);
    pass_all(&broker, &api, "one is worked on").await;
    let partition = describe(&api).await.partitions.remove(0);
    assert_eq!((partition.committed_end, partition.lag), (0, 1));
    keep.abort();
    ack(&api, &[&first]).await;
    let partition = describe(&api).await.partitions.remove(0);
    assert_eq!(partition.committed_end, partition.visible_end);
}
