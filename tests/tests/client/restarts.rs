//! The broker goes away for a while, and comes back at the same address. Nobody
//! has to notice.

use std::time::Duration;

use futures_util::{StreamExt, future::join_all};
use sluice_client::{Client, Event, GroupOptions, Outputs, StageError};
use sluice_tests::{api::expect, broker::TestBroker};

use super::event;

#[tokio::test(flavor = "multi_thread")]
async fn everybody_goes_on_after_a_kill() {
    everybody_goes_on_after(TestBroker::kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_goes_on_after_an_orderly_restart() {
    everybody_goes_on_after(|broker| assert!(broker.stop().success())).await;
}

async fn everybody_goes_on_after(end: impl FnOnce(&mut TestBroker)) {
    const JOBS: usize = 100;
    let mut broker = TestBroker::start();
    let client = Client::connect(broker.url()).await.unwrap();
    let admin = client.admin();
    for topic in ["long", "jobs", "done"] {
        admin.create_topic(topic, 1).await.unwrap();
    }
    for topic in ["long", "jobs"] {
        let options = GroupOptions::default();
        admin.create_group(topic, "workers", options).await.unwrap();
    }
    let stage = client.stage("jobs", "workers").concurrency(4);
    let stage = stage
        .start(|job| async move {
            let done = Event::new("/stage", "job.done").with_id(job.event.id());
            Ok::<_, StageError>(Outputs::one("done", done))
        })
        .await
        .unwrap();
    let producer = client.producer().await.unwrap();
    producer
        .publish("jobs", event("first").with_key("one"))
        .await
        .unwrap();
    producer.publish("long", event("held")).await.unwrap();
    let mut consumer = client.consumer("long", "workers").join().await.unwrap();
    let held = expect("the long work", consumer.next())
        .await
        .unwrap()
        .unwrap();
    // Long enough for the lease to be in the log.
    tokio::time::sleep(Duration::from_millis(1500)).await;

    let address = broker.address().to_owned();
    tokio::task::block_in_place(|| end(&mut broker));
    let mut receipts = Vec::new();
    for number in 0..JOBS {
        let job = event(&format!("{number:03}")).with_key("one");
        receipts.push(producer.send("jobs", job).await.unwrap());
    }
    let stored = join_all(receipts.into_iter().map(|receipt| receipt.durable()));
    let stored = tokio::spawn(stored);
    let acked = tokio::spawn(held.ack());
    let described = tokio::spawn({
        let admin = admin.clone();
        async move { admin.describe_broker().await }
    });
    // All of them have failed to connect by then, and try again.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!stored.is_finished() && !acked.is_finished() && !described.is_finished());
    tokio::task::block_in_place(|| broker.restart_at(&address));

    for (number, position) in expect("the receipts", stored)
        .await
        .unwrap()
        .into_iter()
        .enumerate()
    {
        assert_eq!(position.unwrap().offset, 1 + number as i64);
    }
    expect("the ack", acked).await.unwrap().unwrap();
    let described = expect("the description", described).await.unwrap().unwrap();
    assert_eq!(described.log_epoch, 2);
    let mut done = client.read("done").follow().events().await.unwrap();
    let mut ids = Vec::new();
    while ids.len() < JOBS + 1 {
        let event = expect("what the stage does", done.next()).await;
        ids.push(event.unwrap().unwrap().event.id().to_owned());
    }
    expect("the stage to stop", stage.stop()).await;
    let jobs = (0..JOBS).map(|number| format!("{number:03}"));
    let expected: Vec<_> = std::iter::once("first".to_owned()).chain(jobs).collect();
    assert_eq!(ids, expected, "each once, and those of one key in order");
    // Only the ack can explain that this is the next one.
    producer.publish("long", event("next")).await.unwrap();
    let next = expect("the next work", consumer.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((next.event().id(), next.attempt()), ("next", 1));
}
