//! A broker that is killed between any two steps of dead-lettering, of redriving
//! and of parking, with what the log does for them: no event is lost, none is
//! doubled.
//!
//! `cargo test -p sluice-tests --features fault-points --test fault_points`
//!
//! The broker is built with its fault points (`broker/src/fault_points.rs`) and
//! names them. One run of each [`Story`] counts how often each is come to; then
//! each time at each point is a run that ends there, and an audit after a restart
//! tells what is left.

#![allow(clippy::unwrap_used)]

mod audit;
mod parking;
mod story;

use std::{collections::BTreeMap, sync::Arc};

use sluice_tests::{
    api::{Api, expect},
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

/// What is done until the broker dies.
#[derive(Clone, Copy, Debug)]
enum Story {
    /// Events become dead letters, and are redriven.
    DeadLetters,
    /// An event waits for its next attempt, and another one of its key for it.
    Parking,
}

/// How a run went.
struct Run {
    /// How often each point was come to.
    hits: BTreeMap<String, u32>,
    /// Whether the broker has killed itself.
    ended: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_neither_lost_nor_doubled_wherever_the_broker_is_killed() {
    let points = block_in_place(fault_points);
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut runs = JoinSet::new();
    for story in [Story::DeadLetters, Story::Parking] {
        let whole = run(story, "").await;
        assert!(!whole.ended);
        for point in &points {
            for time in 1..=whole.hits.get(point).copied().unwrap_or(0) {
                let (point, permits) = (point.clone(), permits.clone());
                runs.spawn(async move {
                    let _permit = permits.acquire_owned().await.unwrap();
                    let end = format!("{point}:{time}");
                    println!("{story:?}: killing it at {end}");
                    (point, run(story, &end).await.ended)
                });
            }
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

/// Tells a story to a broker that ends at `end`, which is empty for one that
/// does not, and audits what is left.
async fn run(story: Story, end: &str) -> Run {
    // So that the place between write and sync is there.
    let args = [
        "--log-writer=buffered",
        "--limit=segment_bytes=16793600",
        "--limit=park_after_ms=100",
    ];
    let mut broker = block_in_place(|| TestBroker::start_with_fault_points(&args));
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    match story {
        Story::DeadLetters => story::prepare(&api).await,
        Story::Parking => parking::prepare(&api).await,
    }

    let (mut told, mut parking) = (Told::default(), parking::Told::default());
    if block_in_place(|| broker.restart_to_end_at(end)) {
        let result = match Api::try_connect(broker.url()).await {
            Ok(api) => match story {
                Story::DeadLetters => expect("its end", story::tell(&api, &mut told)).await,
                Story::Parking => expect("its end", parking::tell(&api, &mut parking)).await,
            },
            Err(error) => Err(tonic::Status::from_error(Box::new(error))),
        };
        if end.is_empty() {
            result.unwrap();
        }
    }
    block_in_place(|| broker.restart());
    let log = broker.log();
    let api = Api::connect(broker.url()).await;
    match story {
        Story::DeadLetters => audit::audit(&api, &told).await,
        Story::Parking => parking::audit(&api, &parking).await,
    }
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
