//! A broker that is killed between any two steps of dead-lettering and of
//! redriving, with what the log does for them: no event is lost, none is doubled.
//!
//! `cargo test -p sluice-tests --features fault-points --test fault_points`
//!
//! The broker is built with its fault points (`broker/src/fault_points.rs`) and
//! names them. One run of a [`story`] counts how often each is come to; then each
//! time at each point is a run that ends there, and after a restart an [`audit`]
//! tells what is left.

#![allow(clippy::unwrap_used)]

mod audit;
mod story;

use std::{collections::BTreeMap, sync::Arc};

use sluice_proto::pb::{ConnectionLoss, GroupConfig, Ordering, RetryPolicy};
use sluice_tests::{
    api::{Api, event},
    broker::{TestBroker, fault_points},
};
use tokio::{
    sync::Semaphore,
    task::{JoinSet, block_in_place},
};

use crate::story::Told;

/// Brokers at a time.
const AT_ONCE: usize = 3;

/// The events, by what becomes of them before they are redriven.
const REJECTED: &str = "rejected";
const FAILED: &str = "failed";
const DEADLY: &str = "deadly";
const DONE: &str = "done";
const EVENTS: [&str; 4] = [REJECTED, FAILED, DEADLY, DONE];

/// How a run went.
struct Run {
    /// How often each point was come to.
    hits: BTreeMap<String, u32>,
    /// Whether the broker has killed itself.
    ended: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_neither_lost_nor_doubled_wherever_the_broker_is_killed() {
    let points = block_in_place(fault_points);
    let whole = run("").await;
    assert!(!whole.ended);
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut runs = JoinSet::new();
    for point in &points {
        for time in 1..=whole.hits.get(point).copied().unwrap_or(0) {
            let (point, permits) = (point.clone(), permits.clone());
            runs.spawn(async move {
                let _permit = permits.acquire_owned().await.unwrap();
                let end = format!("{point}:{time}");
                println!("killing it at {end}");
                (point, run(&end).await.ended)
            });
        }
    }
    let mut kills: BTreeMap<String, u32> = BTreeMap::new();
    while let Some(result) = runs.join_next().await {
        let (point, ended) = result.expect("a run's panic is above, with its broker's log");
        *kills.entry(point).or_default() += u32::from(ended);
    }
    println!("killed at: {kills:#?}");
    for point in &points {
        let kills = kills.get(point).copied().unwrap_or(0);
        assert!(kills > 0, "the broker was never killed at {point}");
    }
}

/// Tells the story to a broker that ends at `end`, which is empty for one that
/// does not, and audits what is left.
async fn run(end: &str) -> Run {
    // So that the place between write and sync is there.
    let args = ["--log-writer=buffered", "--limit=segment_bytes=16793600"];
    let mut broker = block_in_place(|| TestBroker::start_with_fault_points(&args));
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        retry: Some(RetryPolicy {
            max_attempts: 1,
            ..RetryPolicy::default()
        }),
        on_connection_loss: ConnectionLoss::AtOnce.into(),
        ..GroupConfig::default()
    };
    for group in ["workers", "others"] {
        api.create_group("in", group, config.clone()).await;
    }
    let events = EVENTS.map(event).to_vec();
    api.publish("in", events).await.unwrap();

    let mut told = Told::default();
    if block_in_place(|| broker.restart_to_end_at(end)) {
        let result = match Api::try_connect(broker.url()).await {
            Ok(api) => story::tell(&api, &mut told).await,
            Err(error) => Err(tonic::Status::from_error(Box::new(error))),
        };
        if end.is_empty() {
            result.unwrap();
        }
    }
    block_in_place(|| broker.restart());
    let log = broker.log();
    let api = Api::connect(broker.url()).await;
    audit::audit(&api, &told).await;
    Run {
        hits: hits(&log),
        ended: log.lines().any(|line| line.ends_with(": the end")),
    }
}

/// How often each point was come to, by the broker's log.
fn hits(log: &str) -> BTreeMap<String, u32> {
    let mut hits = BTreeMap::new();
    let told = log.lines().filter_map(|line| {
        let (point, time) = line.strip_prefix("fault point ")?.split_once(' ')?;
        Some((point.to_owned(), time.parse().ok()?))
    });
    for (point, time) in told {
        hits.insert(point, time);
    }
    hits
}
