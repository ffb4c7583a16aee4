//! The wall clock is set forward and back by a day, under a broker that runs and under
//! one that does not.

use std::{fs, path::PathBuf, time::Duration};

use sluice_proto::pb::{
    BacklogLimit, BacklogPolicy, CreateTopicRequest, Delivery, GroupConfig, Join, LeaseToken, Nack,
    Retention, Settlement, TopicConfig, settlement::Action,
};
use sluice_tests::{
    api::{Api, event, expect},
    broker::TestBroker,
    member::{Member, ack, join},
};
use tempfile::TempDir;
use tokio::task::block_in_place;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Long enough for what a jump brings about at once.
const A_MOMENT: Duration = Duration::from_millis(700);
const ARGS: &[&str] = &[
    "--limit=retention_interval_ms=20",
    "--limit=park_after_ms=60000",
];

/// A broker whose wall clock can be set.
struct Clocked {
    broker: TestBroker,
    clock: PathBuf,
    _folder: TempDir,
}

impl Clocked {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let clock = folder.path().join("clock");
        let mut broker = block_in_place(|| TestBroker::start_with_fault_points(ARGS));
        broker.set_fault("SLUICE_FAULT_CLOCK", clock.to_str().unwrap());
        let mut clocked = Self {
            broker,
            clock,
            _folder: folder,
        };
        clocked.set(0);
        clocked.restart();
        clocked
    }

    /// Sets the clock so much ahead of the machine's.
    fn set(&self, ahead_ms: i64) {
        let written = self.clock.with_extension("new");
        fs::write(&written, ahead_ms.to_string()).unwrap();
        fs::rename(&written, &self.clock).unwrap();
    }

    fn restart(&mut self) {
        block_in_place(|| self.broker.restart());
    }

    /// Sets it while the broker does not run.
    fn restart_at(&mut self, ahead_ms: i64) {
        self.broker.kill();
        self.set(ahead_ms);
        self.restart();
    }

    async fn api(&self) -> Api {
        Api::connect(self.broker.url()).await
    }
}

fn seconds(seconds: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_secs(seconds).try_into().unwrap())
}

async fn make_group(api: &Api, processing_limit: Option<prost_types::Duration>) {
    api.create_topic("t", 1).await;
    let config = GroupConfig {
        lease_duration: seconds(600),
        processing_limit,
        ..GroupConfig::default()
    };
    api.create_group("t", "g", config).await;
}

fn nack(delivery: &Delivery, delay: Option<prost_types::Duration>) -> Settlement {
    Settlement {
        lease: delivery.lease,
        action: Some(Action::Nack(Nack {
            delay,
            reason: "later".to_owned(),
        })),
    }
}

fn lease(delivery: &Delivery) -> LeaseToken {
    delivery.lease.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lease_ends_early_and_none_is_lost() {
    let mut clocked = Clocked::start();
    let api = clocked.api().await;
    make_group(&api, seconds(3600)).await;
    api.publish("t", vec![event("held")]).await.unwrap();
    let mut member = Member::join(&api, join("t", "g", 1)).await.unwrap();
    let held = expect("an event", member.delivery()).await.unwrap();
    for ahead_ms in [DAY_MS, 0, -DAY_MS, 0] {
        clocked.set(ahead_ms);
        // Without a heartbeat: it has ten minutes by its own clock.
        tokio::time::sleep(A_MOMENT).await;
        let group = api.describe_group("t", "g").await;
        let in_flight: i64 = group.partitions.iter().map(|p| p.in_flight).sum();
        assert_eq!(in_flight, 1, "the clock is {ahead_ms} ms ahead");
    }
    // It is in the log by now, and its holder comes back to a broker whose clock has
    // jumped.
    for ahead_ms in [DAY_MS, -DAY_MS] {
        clocked.restart_at(ahead_ms);
        let api = clocked.api().await;
        let presented = Join {
            held: vec![lease(&held)],
            ..join("t", "g", 1)
        };
        let mut member = Member::join(&api, presented).await.unwrap();
        tokio::time::sleep(A_MOMENT).await;
        assert!(member.delivery_at_hand().is_none());
        if ahead_ms == DAY_MS {
            continue;
        }
        let failures = member.settle(vec![ack(lease(&held))]).await.unwrap();
        assert!(failures.is_empty(), "{failures:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_goes_by_the_wall_clock_and_never_waits_longer_than_it_should() {
    let mut clocked = Clocked::start();
    let api = clocked.api().await;
    make_group(&api, None).await;
    // The clock goes back while it waits.
    api.publish("t", vec![event("soon")]).await.unwrap();
    let mut member = Member::join(&api, join("t", "g", 1_000)).await.unwrap();
    let first = expect("an event", member.delivery()).await.unwrap();
    member.settle(vec![nack(&first, seconds(1))]).await.unwrap();
    clocked.set(-DAY_MS);
    let again = expect("the second attempt", member.delivery())
        .await
        .unwrap();
    assert_eq!(again.attempt, 2);
    // It goes back once more, under a broker that does not run.
    member.settle(vec![nack(&again, seconds(3))]).await.unwrap();
    clocked.restart_at(-2 * DAY_MS);
    let api = clocked.api().await;
    let mut member = Member::join(&api, join("t", "g", 1_000)).await.unwrap();
    let third = expect("the third attempt", member.delivery())
        .await
        .unwrap();
    assert_eq!(third.attempt, 3);
    // It waits for an hour, parked, and that is over when the broker comes back.
    member
        .settle(vec![nack(&third, seconds(3600))])
        .await
        .unwrap();
    clocked.restart_at(0);
    let api = clocked.api().await;
    let mut member = Member::join(&api, join("t", "g", 1_000)).await.unwrap();
    let fourth = expect("the fourth attempt", member.delivery())
        .await
        .unwrap();
    assert_eq!(fourth.attempt, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_does_not_jump_with_the_clock_nor_over_a_restart() {
    let mut clocked = Clocked::start();
    let api = clocked.api().await;
    let request = CreateTopicRequest {
        topic: "t".to_owned(),
        config: Some(TopicConfig {
            retention: Some(Retention {
                max_age: seconds(3600),
                ..Retention::default()
            }),
            ..TopicConfig::default()
        }),
    };
    api.admin.clone().create_topic(request).await.unwrap();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(format!("e{n}"));
        api.publish("t", vec![event(&ids[n])]).await.unwrap();
    }
    // Until the broker has looked once what it keeps.
    tokio::time::sleep(A_MOMENT).await;
    for (ahead_ms, restart) in [
        (DAY_MS, false),
        (DAY_MS, true),
        (-DAY_MS, false),
        (-DAY_MS, true),
        (2 * DAY_MS, true),
        (0, true),
    ] {
        if restart {
            clocked.restart_at(ahead_ms);
        } else {
            clocked.set(ahead_ms);
        }
        let api = clocked.api().await;
        // The log has a time after the jump.
        ids.push(format!("e{}", ids.len()));
        api.publish("t", vec![event(ids.last().unwrap())])
            .await
            .unwrap();
        tokio::time::sleep(A_MOMENT).await;
        let mut kept = api.ids("t").await;
        kept.sort();
        ids.sort();
        assert_eq!(kept, ids, "the clock is {ahead_ms} ms ahead");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_does_not_grow_old_with_the_clock() {
    let clocked = Clocked::start();
    let api = clocked.api().await;
    api.create_topic("t", 1).await;
    let config = GroupConfig {
        backlog: Some(BacklogLimit {
            policy: BacklogPolicy::Reject.into(),
            max_age: seconds(3600),
            ..BacklogLimit::default()
        }),
        ..GroupConfig::default()
    };
    api.create_group("t", "g", config).await;
    api.publish("t", vec![event("old")]).await.unwrap();
    for ahead_ms in [DAY_MS, -DAY_MS, 2 * DAY_MS] {
        clocked.set(ahead_ms);
        // Until its age was measured.
        tokio::time::sleep(A_MOMENT).await;
        api.publish("t", vec![event("new")]).await.unwrap();
    }
}
