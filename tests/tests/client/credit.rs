//! What a consumer allows its broker to send: pause, and drain.

use std::time::Duration;

use sluice_client::{Consumer, Delivery, pb::IdleReason};
use sluice_tests::api::expect;

use super::{Setting, event, patient};

async fn setting(events: usize) -> Setting {
    let setting = Setting::new().await;
    setting.topic("in").await;
    setting.group("in", "workers", patient()).await;
    let producer = setting.client.producer().await.unwrap();
    for at in 0..events {
        let _ = producer.send("in", event(&at.to_string())).await.unwrap();
    }
    producer.flush().await;
    setting
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let delivery = expect("a delivery", consumer.next()).await;
    delivery.expect("the consumer goes on").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_survives_a_reconnect() {
    let setting = setting(20).await;
    let consumer = setting.client.consumer("in", "workers").concurrency(2);
    let mut consumer = consumer.join().await.unwrap();
    let first = next(&mut consumer).await;
    let second = next(&mut consumer).await;
    consumer.pause();
    first.ack().await.unwrap();
    second.ack().await.unwrap();
    let mut seen = 2;
    // Both places are free, and stay so, on this stream and on the next two.
    for _ in 0..3 {
        // The answer comes behind all that had been granted before the pause.
        let drained = expect("the end of a drain", consumer.drain()).await;
        assert_eq!(drained.unwrap(), IdleReason::NoCredit);
        let described = setting.describe("in", "workers").await;
        assert_eq!(described.idle(), IdleReason::NoCredit);
        let in_flight: i64 = described.partitions.iter().map(|p| p.in_flight).sum();
        for _ in 0..in_flight {
            next(&mut consumer).await.ack().await.unwrap();
            seen += 1;
        }
        assert!(seen <= 4, "more came than had been granted: {seen}");
        setting.proxy.cut(&setting.broker);
    }
    let nothing = tokio::time::timeout(Duration::from_millis(300), consumer.next()).await;
    assert!(nothing.is_err(), "a paused consumer got an event");
    consumer.resume();
    while seen < 20 {
        next(&mut consumer).await.ack().await.unwrap();
        seen += 1;
    }
    consumer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_when_nothing_is_left_and_not_before() {
    let setting = setting(50).await;
    let consumer = setting.client.consumer("in", "workers").concurrency(3);
    let mut consumer = consumer.join().await.unwrap();
    let drained = consumer.drain();
    tokio::pin!(drained);
    let mut seen = 0;
    let reason = loop {
        tokio::select! {
            reason = &mut drained => break reason.unwrap(),
            delivery = expect("a delivery or the end", consumer.next()) => {
                seen += 1;
                delivery.unwrap().unwrap().ack().await.unwrap();
            }
        }
    };
    assert_eq!(reason, IdleReason::Empty);
    // What came before the answer is here, if not seen yet.
    while seen < 50 {
        next(&mut consumer).await.ack().await.unwrap();
        seen += 1;
    }
    // An empty group answers at once.
    let again = expect("the end of a drain", consumer.drain()).await;
    assert_eq!(again.unwrap(), IdleReason::Empty);
    consumer.leave().await;
}
