//! Eight workers that are stopped, continued and killed at random.
//!
//! `SLUICE_SEED` replays what the events ask for, and who is stopped or killed
//! when and for how long. `SLUICE_CHAOS_SECONDS` says for how long.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::process::Signal;
use sluice_proto::pb::GroupConfig;
use sluice_tests::{
    api::Api,
    seed::seeded,
    task::{End, Task},
};
use tokio::task::block_in_place;

use super::{
    broker,
    check::{Counts, Story},
    config,
    crew::{Crew, Worker},
    dead_letters, lag, ms,
};

const WORKERS: usize = 8;
const SECONDS: u64 = 12;
const LEASE_MS: u64 = 1000;
const MAX_ATTEMPTS: i32 = 5;
/// Events that are there for the workers, at least, and published at a time.
const BACKLOG: i64 = 100;

/// A worker's place, where one follows the other.
struct Place {
    worker: Worker,
    /// How many there were.
    number: u32,
    /// Until when it is stopped.
    stopped: Option<Instant>,
}

/// Publishes events, each with a task of its own.
struct Source {
    random: StdRng,
    published: BTreeSet<String>,
}

impl Source {
    async fn publish(&mut self, api: &Api, count: i64) {
        let mut events = Vec::new();
        for _ in 0..count {
            let id = format!("e{}", self.published.len());
            let task = Task {
                // Now and then longer than a lease lasts.
                ms: match self.random.random_range(0..20) {
                    0 => LEASE_MS * 3 / 2,
                    _ => self.random.random_range(0..30),
                },
                end: match self.random.random_range(0..10) {
                    0..4 => End::Ack,
                    4..6 => End::Commit,
                    _ => End::Reject,
                },
                nacks: match self.random.random_range(0..10) {
                    0..7 => 0,
                    7 => 1,
                    8 => 3,
                    _ => MAX_ATTEMPTS,
                },
            };
            events.push(task.event(&id));
            self.published.insert(id);
        }
        api.publish("in", events).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_befalls_workers_each_event_is_settled_once_and_attempts_say_what_happened() {
    let seconds = match std::env::var("SLUICE_CHAOS_SECONDS") {
        Ok(seconds) => seconds.parse().expect("SLUICE_CHAOS_SECONDS is a number"),
        Err(_) => SECONDS,
    };
    let mut random = seeded();
    let mut source = Source {
        random: StdRng::seed_from_u64(random.random()),
        published: BTreeSet::new(),
    };
    let short = GroupConfig {
        lease_duration: ms(LEASE_MS),
        ..config()
    };
    let (mut broker, api) = broker(3, short).await;
    let crew = Crew::of(broker.url());
    // One event at a time, or several.
    let credit = |place: usize| 1 + place / 2;
    let start = |place: usize, number: u32| Place {
        worker: crew.start(&format!("w{place}-{number}"), credit(place)),
        number,
        stopped: None,
    };
    let mut places: Vec<_> = (0..WORKERS).map(|place| start(place, 1)).collect();

    let (mut stops, mut kills) = (0, 0);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        if lag(&api).await < BACKLOG {
            source.publish(&api, BACKLOG).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..150))).await;
        for place in &mut places {
            if place.stopped.is_some_and(|until| until <= Instant::now()) {
                place.worker.signal(Signal::CONT);
                place.stopped = None;
            }
        }
        let at = random.random_range(0..WORKERS);
        let (kill, millis) = (
            random.random_bool(0.4),
            random.random_range(50..5 * LEASE_MS / 2),
        );
        if kill {
            kills += 1;
            let number = places[at].number + 1;
            // Killing waits for the process's end.
            block_in_place(|| places[at] = start(at, number));
        } else if places[at].stopped.is_none() {
            stops += 1;
            places[at].worker.signal(Signal::STOP);
            places[at].stopped = Some(Instant::now() + Duration::from_millis(millis));
        }
    }
    for (at, place) in places.iter_mut().enumerate() {
        if place.stopped.take().is_some() {
            place.worker.signal(Signal::CONT);
        }
        if place.worker.has_ended() {
            let number = place.number + 1;
            *place = start(at, number);
        }
    }
    api.wait_until_caught_up("in", "workers").await;

    let workers = places.into_iter().map(|place| place.worker).collect();
    let said = block_in_place(|| crew.end(workers));
    // What counts is what is in the log.
    block_in_place(|| broker.restart());
    let api = Api::connect(broker.url()).await;
    assert_eq!(lag(&api).await, 0);
    let letters = dead_letters(&api).await;
    let story = Story::new(&said, &letters, &api.ids("out").await, MAX_ATTEMPTS);
    let counts = story.counts();
    println!(
        "{seconds} s, {} events, stops {stops}, kills {kills}, {counts:?}",
        source.published.len()
    );
    let anomalies = story.anomalies(&source.published);
    for anomaly in &anomalies {
        println!("{anomaly}");
    }
    assert!(anomalies.is_empty(), "{} anomalies", anomalies.len());
    let Counts {
        refused,
        unknown: _,
        again,
        dead_letters,
        recorded_losses,
        deliveries: _,
    } = counts;
    let worth = [stops, kills, refused, again, dead_letters, recorded_losses];
    assert!(!worth.contains(&0), "the run was worth nothing: {worth:?}");
}
