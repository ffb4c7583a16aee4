//! Too many, too fast, or not reading: what it costs, and whom. With
//! `SLUICE_FLOW_FULL` set, at length: `tests/results/flow.md`.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream};
use sluice_proto::pb::{BacklogPolicy, ConnectionLoss, GroupConfig, Ordering};
use sluice_tests::{
    api::{Api, Refusal, event, expect},
    broker::TestBroker,
    member::{Member, ack, join},
};
use tokio::{task::JoinSet, time::Instant};

use super::{events_max, lag, limited, pipeline::scaled, publish_within};

const MIB: u64 = 1 << 20;
/// Clients that connect at the same time.
const CONNECTING: usize = 50;

fn unordered() -> GroupConfig {
    GroupConfig {
        ordering: Ordering::None.into(),
        ..GroupConfig::default()
    }
}

/// Acks what comes, until so many events are done.
async fn work(api: &Api, group: &str, count: i64) {
    let mut member = Member::join(api, join("in", group, 100)).await.unwrap();
    for done in 1..=count {
        let lease = member.delivery().await.unwrap().lease.unwrap();
        assert!(member.settle(vec![ack(lease)]).await.unwrap().is_empty());
        let grant = sluice_proto::pb::Grant {
            max_events: 100 + done,
            max_bytes: 0,
        };
        let grant = sluice_proto::pb::consume_request::Message::Grant(grant);
        member.send(grant).await;
    }
    member.leave().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_never_read_take_bounded_memory_and_hold_up_nobody() {
    let total = scaled(4, 64) as u64 * MIB;
    let limit = format!("stream_buffers_bytes={total}");
    let broker =
        TestBroker::start_with(&["--limit", &limit, "--limit", "tail_cache_bytes=8388608"]);
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let config = GroupConfig {
        max_in_flight: 100_000,
        ..unordered()
    };
    api.create_group("in", "stalled", config).await;
    api.create_group("in", "others", unordered()).await;
    let (count, bytes) = (scaled(60, 1000), 16 << 10);
    let events = scaled(2000, 10_000);
    let publish = async |from: i64| {
        for at in 0..events / 20 {
            let batch = (0..20).map(|in_batch| {
                let mut large = event(&format!("{from}-{at}-{in_batch}"));
                large.data = vec![b'x'; bytes].into();
                large
            });
            api.publish("in", batch.collect()).await.unwrap();
        }
    };
    // Once without them, to compare with.
    let began = Instant::now();
    tokio::join!(publish(0), work(&api, "others", events));
    let alone = began.elapsed();

    let alone_bytes = broker.memory_bytes();
    let mut stalled = Vec::new();
    for _ in 0..count {
        // On a connection of its own each, so that each has its own window.
        let api = Api::connect(broker.url()).await;
        let joined = Member::join(&api, join("in", "stalled", i64::MAX)).await;
        stalled.push(joined.unwrap());
    }
    let before = broker.memory_bytes();
    // What they take until nothing more goes in is not what others wait for.
    publish(2).await;
    work(&api, "others", events).await;
    let began = Instant::now();
    tokio::join!(publish(1), work(&api, "others", events));
    let beside = began.elapsed();
    let after = broker.memory_bytes();
    // The stated cap: what all streams buffer, and for each of them one event that
    // waits and what its connection buffers.
    let each = 2 * bytes as u64 + 2 * MIB;
    let cap = total + count as u64 * each + 32 * MIB;
    let grown = after.saturating_sub(before);
    eprintln!(
        "{count} that never read: memory {} MiB without them, {} MiB connected, grown by {} MiB, \
         cap {} MiB; {events} events for others in {alone:?} before, {beside:?} beside them",
        alone_bytes / MIB,
        before / MIB,
        grown / MIB,
        cap / MIB,
    );
    assert!(grown <= cap, "{grown} of {cap}");
    assert_eq!(lag(&api, "in", "others").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_and_go_leave_no_credit_and_no_memory_behind() {
    // Those of before may still be on their way out.
    let broker = TestBroker::start_with(&["--limit", "members_per_group_max=5000"]);
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let config = GroupConfig {
        on_connection_loss: ConnectionLoss::AtOnce.into(),
        // Nothing is suspect for long.
        solo_wait: Some(prost_types::Duration::default()),
        retry: Some(sluice_proto::pb::RetryPolicy {
            max_attempts: 100,
            initial_delay: Some(prost_types::Duration::default()),
            max_delay: Some(prost_types::Duration::default()),
            ..sluice_proto::pb::RetryPolicy::default()
        }),
        ..unordered()
    };
    api.create_group("in", "workers", config).await;
    let (clients, times) = (scaled(40, 1000), scaled(5, 20));
    let come_and_go = async |rounds: i64| {
        for _ in 0..rounds {
            let joined = (0..clients).map(|_| async {
                let api = Api::connect(broker.url()).await;
                Member::join(&api, join("in", "workers", 10)).await.unwrap()
            });
            // All of them are there together, before all of them are gone.
            let joined = stream::iter(joined).buffer_unordered(CONNECTING);
            drop(joined.collect::<Vec<_>>().await);
        }
    };
    come_and_go(1).await;
    let before = broker.memory_bytes();
    let events = (0..100).map(|at| event(&at.to_string())).collect();
    api.publish("in", events).await.unwrap();
    come_and_go(times).await;
    // The last of them are gone, and with them their credit and leases.
    loop {
        let described = api.describe_group("in", "workers").await;
        if described.members.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let grown = broker.memory_bytes().saturating_sub(before);
    eprintln!(
        "{clients} clients, {times} times: memory grown by {} KiB",
        grown >> 10
    );
    assert!(grown < 48 * MIB, "{grown}");
    // One member with credit for all gets all, but for what so many clients had in
    // vain that it is a dead letter.
    let given_up = api.describe_group("in", "workers").await.dead_letter_count;
    println!("{given_up} of 100 events are dead letters");
    expect("everything", work(&api, "workers", 100 - given_up)).await;
    assert_eq!(lag(&api, "in", "workers").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_throttled_with_flat_memory_and_nothing_lost() {
    // With a cache that is full soon.
    let broker = TestBroker::start_with(&["--limit", "tail_cache_bytes=4194304"]);
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 2).await;
    let limit = limited(events_max(BacklogPolicy::Throttle, 500));
    api.create_group("in", "workers", limit).await;
    let acked = Arc::new(Mutex::new((BTreeSet::new(), Vec::new())));
    let refused = Arc::new(AtomicI64::new(0));
    let mut sources = JoinSet::new();
    // Twice as many as can be taken, and more.
    for number in 0..16 {
        let (acked, refused) = (acked.clone(), refused.clone());
        let api = Api::connect(broker.url()).await;
        sources.spawn(async move {
            for at in 0.. {
                let id = format!("{number}-{at}");
                let began = Instant::now();
                let one = vec![event(&id)];
                match publish_within(&api, "in", one, Duration::from_millis(30)).await {
                    Ok(_) => {
                        let mut acked = acked.lock().unwrap();
                        acked.0.insert(id);
                        acked.1.push(began.elapsed());
                    }
                    Err(status) => {
                        let reason = Refusal::from(&status).reason;
                        refused.fetch_add(i64::from(reason == "BACKLOG_FULL"), Relaxed);
                    }
                }
            }
        });
    }
    let mut member = Member::join(&api, join("in", "workers", i64::MAX))
        .await
        .unwrap();
    let mut seen = BTreeSet::new();
    let mut memory = Vec::new();
    let began = Instant::now();
    let lasts = Duration::from_secs(u64::try_from(scaled(4, 120)).unwrap());
    while began.elapsed() < lasts {
        let delivery = member.delivery().await.unwrap();
        seen.insert(delivery.event.unwrap().id);
        let lease = delivery.lease.unwrap();
        assert!(member.settle(vec![ack(lease)]).await.unwrap().is_empty());
        tokio::time::sleep(Duration::from_millis(2)).await;
        if seen.len() % 100 == 0 {
            memory.push(broker.memory_bytes());
        }
    }
    sources.shutdown().await;
    let (acked, mut latencies) = std::mem::take(&mut *acked.lock().unwrap());
    // Some were under way: what was acked is there, and perhaps a few more.
    while lag(&api, "in", "workers").await > 0 {
        let delivery = member.delivery().await.unwrap();
        seen.insert(delivery.event.unwrap().id);
        let lease = delivery.lease.unwrap();
        assert!(member.settle(vec![ack(lease)]).await.unwrap().is_empty());
    }
    latencies.sort_unstable();
    let p99 = latencies[latencies.len() * 99 / 100];
    let refused = refused.load(Relaxed);
    let settled = &memory[memory.len() / 4..];
    let (least, most) = (settled.iter().min().unwrap(), settled.iter().max().unwrap());
    eprintln!(
        "{lasts:?} of overload: {} acked, p99 {p99:?}, {refused} told that it is full, memory {} to {} KiB",
        acked.len(),
        least >> 10,
        most >> 10,
    );
    assert!(acked.is_subset(&seen), "what was acked is lost");
    assert!(refused > 0, "nobody was told");
    assert!(most - least < 32 * MIB, "{least} to {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn modest_producers_get_what_they_ask_for_beside_a_greedy_one() {
    const MODEST: usize = 9;
    /// Each of them asks for one event of so many that the topic takes.
    const SHARE: i64 = 10;
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let limit = limited(events_max(BacklogPolicy::Throttle, 50));
    api.create_group("in", "workers", limit).await;
    let mut greedy = JoinSet::new();
    let connection = Api::connect(broker.url()).await;
    for number in 0..64 {
        let api = connection.clone();
        greedy.spawn(async move {
            for at in 0.. {
                let id = |of: usize| format!("greedy-{number}-{at}-{of}");
                let events = (0..4).map(|of| event(&id(of))).collect();
                let _ = api.publish("in", events).await;
            }
        });
    }
    // It fills the topic first.
    while lag(&api, "in", "workers").await < 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let got: Arc<Vec<AtomicI64>> = Arc::new((0..MODEST).map(|_| AtomicI64::new(0)).collect());
    let connections = (0..MODEST).map(|_| Api::connect(broker.url()));
    let connections = join_all(connections).await;
    let mut modest = JoinSet::new();
    let mut member = Member::join(&api, join("in", "workers", i64::MAX))
        .await
        .unwrap();
    let total = scaled(1200, 12_000);
    for done in 1..=total {
        let lease = member.delivery().await.unwrap().lease.unwrap();
        assert!(member.settle(vec![ack(lease)]).await.unwrap().is_empty());
        if done % SHARE == 0 {
            for (number, api) in connections.iter().enumerate() {
                let (api, got) = (api.clone(), got.clone());
                modest.spawn(async move {
                    let one = vec![event(&format!("modest-{number}-{done}"))];
                    api.publish("in", one).await.unwrap();
                    got[number].fetch_add(1, Relaxed);
                });
            }
        }
    }
    let asked = total / SHARE;
    let got: Vec<_> = got.iter().map(|got| got.load(Relaxed)).collect();
    eprintln!("each modest producer asked for {asked} events, and got {got:?} in time");
    // All but the last few, which were asked for just now; however long it goes on.
    let in_time = asked - 10;
    assert!(got.iter().all(|got| *got >= in_time), "{got:?} of {asked}");
    greedy.shutdown().await;
    modest.shutdown().await;
}
