//! Readers that lag behind a topic that is being published to: they get
//! everything in order, hold up nobody at the head, and hold little memory.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use sluice_proto::pb::{
    Event, GroupConfig, Latest, Ordering, ReadRequest, ReadResponse, ReadStart, read_start::At,
};
use sluice_tests::{
    api::{Api, event, expect},
    broker::TestBroker,
    member::{Member, ack, join},
};
use tokio::task::{JoinHandle, JoinSet};
use tonic::Streaming;

/// Events of one batch, and their bytes.
const BATCH: usize = 16;
const EVENT_BYTES: usize = 16 << 10;

fn batch(number: usize) -> Vec<Event> {
    let large = |at| Event {
        data_content_type: "application/octet-stream".to_owned(),
        data: vec![b'x'; EVENT_BYTES].into(),
        ..event(&id(number * BATCH + at))
    };
    (0..BATCH).map(large).collect()
}

fn id(number: usize) -> String {
    format!("{number:06}")
}

async fn publish_batches(api: &Api, batches: usize) {
    for number in 0..batches {
        api.publish("t", batch(number)).await.unwrap();
    }
}

/// Publishes to a topic of its own until it is told to end.
fn publishing_goes_on(api: &Api, end: Arc<AtomicBool>) -> JoinHandle<()> {
    let api = api.clone();
    tokio::spawn(async move {
        api.create_topic("noise", 1).await;
        while !end.load(Relaxed) {
            api.publish("noise", batch(0)).await.unwrap();
            // A few megabytes a second are enough to count as publishing.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}

async fn read(api: &Api, start: Option<At>) -> Streaming<ReadResponse> {
    let request = ReadRequest {
        topic: "t".to_owned(),
        follow: true,
        start: start.map(|at| ReadStart {
            at: Some(at),
            ..ReadStart::default()
        }),
        ..ReadRequest::default()
    };
    api.broker.clone().read(request).await.unwrap().into_inner()
}

/// Takes events up to the one with this number, which must come in order from
/// that one on.
async fn take(stream: &mut Streaming<ReadResponse>, from: usize, end: usize) {
    let mut next = from;
    while next < end {
        let page = expect("the next page", stream.message()).await.unwrap();
        for read in page.unwrap().events {
            assert_eq!(read.event.unwrap().id, id(next));
            assert_eq!(read.offset, i64::try_from(next).unwrap());
            next += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lagging_readers_get_everything_in_order_at_a_limited_rate() {
    const BATCHES: usize = 8;
    let broker = TestBroker::start_with(&[
        "--limit=tail_cache_bytes=0",
        "--limit=lagging_reads_max=2",
        "--limit=lagging_bytes_per_s=8388608",
        "--limit=group_payload_bytes_max=65536",
    ]);
    let api = Api::connect(broker.url()).await;
    api.create_topic("t", 1).await;
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        ..GroupConfig::default()
    };
    api.create_group("t", "g", config).await;
    publish_batches(&api, BATCHES).await;
    let end = Arc::new(AtomicBool::new(false));
    let publishing = publishing_goes_on(&api, end.clone());
    let mut readers = JoinSet::new();
    for _ in 0..10 {
        let mut stream = read(&api, None).await;
        readers.spawn(async move { take(&mut stream, 0, BATCHES * BATCH).await });
    }
    let mut member = Member::join(&api, join("t", "g", 1_000_000)).await.unwrap();
    // What is in memory goes first, and each goes once.
    let mut delivered = BTreeSet::new();
    while delivered.len() < BATCHES * BATCH {
        let delivery = expect("a delivery", member.delivery()).await.unwrap();
        let number = usize::try_from(delivery.offset).unwrap();
        assert_eq!(delivery.event.unwrap().id, id(number));
        assert!(delivered.insert(number), "{number} was delivered twice");
        let settled = member.settle(vec![ack(delivery.lease.unwrap())]);
        assert!(expect("an ack", settled).await.unwrap().is_empty());
    }
    while let Some(reader) = expect("the readers to come to the end", readers.join_next()).await {
        reader.unwrap();
    }
    end.store(true, Relaxed);
    publishing.await.unwrap();
}

/// Who lags all but stands still here while publishing goes on; so would a reader
/// at the head that was taken for one that lags.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_at_the_head_is_not_limited() {
    const BEFORE: usize = 120;
    const SINCE: usize = 100;
    let broker = TestBroker::start_with(&[
        "--limit=tail_cache_bytes=16777216",
        "--limit=lagging_bytes_per_s=1",
    ]);
    let api = Api::connect(broker.url()).await;
    api.create_topic("t", 1).await;
    publish_batches(&api, BEFORE).await;
    let end = Arc::new(AtomicBool::new(false));
    let publishing = publishing_goes_on(&api, end.clone());
    let mut lagging = Vec::new();
    for _ in 0..3 {
        lagging.push(read(&api, None).await);
    }
    let mut at_the_head = read(&api, Some(At::Latest(Latest {}))).await;
    for number in BEFORE..BEFORE + SINCE {
        api.publish("t", batch(number)).await.unwrap();
        take(&mut at_the_head, number * BATCH, (number + 1) * BATCH).await;
    }
    // Without publishing there is no limit.
    end.store(true, Relaxed);
    publishing.await.unwrap();
    for mut stream in lagging {
        take(&mut stream, 0, (BEFORE + SINCE) * BATCH).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_lag_and_stand_still_hold_a_few_pages_each() {
    const READERS: usize = 60;
    const MIB: u64 = 1 << 20;
    let broker = TestBroker::start_with(&["--limit=tail_cache_bytes=0"]);
    let api = Api::connect(broker.url()).await;
    api.create_topic("t", 1).await;
    publish_batches(&api, 128).await;
    let before = broker.memory_bytes();
    let mut stalled = Vec::new();
    for _ in 0..READERS {
        // A connection each, so that each has windows of its own.
        let api = Api::connect(broker.url()).await;
        let mut stream = read(&api, None).await;
        let first = expect("the first page", stream.message()).await.unwrap();
        assert!(!first.unwrap().events.is_empty());
        stalled.push((api, stream));
    }
    // All that is going to be read ahead, or the bound is passed.
    let mut held = 0;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        held = broker.memory_bytes().saturating_sub(before);
        assert!(held < READERS as u64 * 4 * MIB, "{} MiB", held / MIB);
    }
    println!("{READERS} stalled readers hold {} MiB", held / MIB);
    for (_, mut stream) in stalled.drain(..2) {
        let mut next = 0;
        while next < 128 * BATCH {
            let page = expect("the next page", stream.message()).await.unwrap();
            let events = page.unwrap().events;
            next = usize::try_from(events.last().unwrap().offset).unwrap() + 1;
        }
    }
}
