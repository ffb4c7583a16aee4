//! A broker that is killed again and again, with producers and consumers at
//! work, and what it has promised them.
//!
//! ```text
//!   single, session, stream ──> "in" ──> group "acking":     ack
//!        (producers)             ├─────> group "committing": commit ack and output ──> "out"
//!                                └─────> a reader of each partition, from its beginning
//! ```
//!
//! `SLUICE_SEED` replays what is random in a run: what is published, and when the
//! broker is killed. `SLUICE_KILLS` says how often it is, in each of the two tests.

#![allow(clippy::unwrap_used)]

mod consumers;
mod producers;
mod readers;
mod run;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rand::RngExt;
use sluice_proto::pb::{GroupConfig, Ordering, RetryPolicy};
use sluice_tests::{
    api::{Api, expect},
    broker::TestBroker,
    seed::seeded,
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    consumers::{acking, committing},
    producers::{Source, session, single, stream},
    readers::following,
    run::{PARTITIONS, Run},
};

/// Kills in each test, unless `SLUICE_KILLS` says otherwise.
const KILLS: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_keeps_what_it_has_promised() {
    kill_again_and_again(&[]).await;
}

/// With limits so low that checkpoints are written all the time, segments change,
/// and what is read comes from the files.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_keeps_what_it_has_promised_across_checkpoints_and_segments() {
    let limits = [
        "--limit=checkpoint_bytes=65536",
        "--limit=segment_bytes=16793600",
        "--limit=tail_cache_bytes=0",
        "--limit=group_payload_bytes_max=4096",
    ];
    kill_again_and_again(&limits).await;
}

async fn kill_again_and_again(args: &[&str]) {
    let kills = match std::env::var("SLUICE_KILLS") {
        Ok(kills) => kills.parse().expect("SLUICE_KILLS is a number"),
        Err(_) => KILLS,
    };
    let mut random = seeded();
    let mut broker = TestBroker::start_with(args);
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", PARTITIONS.try_into().unwrap()).await;
    api.create_topic("out", 1).await;
    for group in ["acking", "committing"] {
        let config = GroupConfig {
            ordering: Ordering::Key.into(),
            lease_duration: Some(Duration::from_secs(5).try_into().unwrap()),
            // What is lost with a member counts an attempt; none is to die of it.
            retry: Some(RetryPolicy {
                max_attempts: 100,
                initial_delay: Some(Duration::ZERO.try_into().unwrap()),
                ..RetryPolicy::default()
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
    let partitions = 0..i32::try_from(PARTITIONS).unwrap();
    for partition in partitions.clone() {
        consumers.spawn(following(run.clone(), partition));
    }

    for kill in 1..=kills {
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
        if kill % (kills / 5).max(1) == 0 {
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
    for partition in partitions {
        let reader = readers::name(partition);
        anomalies.extend(history.unread(&reader, "in", partition));
    }
    for anomaly in &anomalies {
        println!("{}: {anomaly}", anomaly.name());
    }
    assert!(anomalies.is_empty(), "{} anomalies", anomalies.len());
    let expected: BTreeSet<_> = inputs.iter().map(|id| format!("out-{id}")).collect();
    assert_eq!(outputs, expected, "each input has its output, once");

    let (acked, unknown, delivered) = history.counts();
    let read = history.polled_count();
    println!("kills {kills}, acked {acked}, unknown {unknown}, delivered {delivered}, read {read}");
    assert!(acked > 0 && delivered > 0, "the run was worth something");
}
