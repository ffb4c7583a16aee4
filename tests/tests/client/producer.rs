//! Producer: awaited, batched, once.

use futures_util::{StreamExt, future::join_all};
use sluice_client::{Event, pb::ErrorReason};
use sluice_tests::api::expect;

use super::{Setting, event};

async fn ids(setting: &Setting, topic: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut events = setting.client.read(topic).events().await.unwrap();
    while let Some(event) = events.next().await {
        ids.push(event.unwrap().event.id().to_owned());
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_is_where_the_receipt_says() {
    let setting = Setting::new().await;
    setting.topic("events").await;
    let producer = setting.client.producer().await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..500 {
        let event = event(&number.to_string()).with_key(format!("key-{}", number % 7));
        receipts.push(producer.send("events", event).await.unwrap());
    }
    expect("everything to be durable", producer.flush()).await;
    let mut events = setting.client.read("events").events().await.unwrap();
    let mut stored = std::collections::HashMap::new();
    while let Some(event) = events.next().await {
        let event = event.unwrap();
        let place = (event.partition, event.offset);
        assert!(stored.insert(event.event.id().to_owned(), place).is_none());
    }
    assert_eq!(stored.len(), 500);
    for (number, receipt) in receipts.into_iter().enumerate() {
        let position = receipt.durable().await.unwrap();
        let place = (position.partition, position.offset);
        assert_eq!(stored[&number.to_string()], place);
    }
}

/// What is sent while acks are on their way does not wait for them.
#[tokio::test(flavor = "multi_thread")]
async fn several_batches_of_a_partition_are_under_way() {
    let setting = Setting::new().await;
    setting.topic("events").await;
    let producer = setting.client.producer().await.unwrap();
    let first = event("0").with_key("one");
    let _ = producer.send("events", first).await.unwrap();
    expect("everything to be durable", producer.flush()).await;

    setting.proxy.mute(true);
    let other = setting.other_client().await;
    for number in 1..=4 {
        let event = event(&number.to_string()).with_key("one");
        let _ = producer.send("events", event).await.unwrap();
        // The next one is sent when this one is there, and no ack of it.
        expect("the event to be stored", async {
            loop {
                let stored = other.read("events").events().await.unwrap().count().await;
                if stored > number {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    // They are four; what comes now gathers, and goes when there is an ack.
    for number in 5..=20 {
        let event = event(&number.to_string()).with_key("one");
        let _ = producer.send("events", event).await.unwrap();
    }
    setting.proxy.mute(false);
    expect("everything to be durable", producer.flush()).await;
    let expected: Vec<_> = (0..=20).map(|number| number.to_string()).collect();
    assert_eq!(ids(&setting, "events").await, expected);
}

/// The broker is killed, and the connection cut, again and again while events
/// are sent.
#[tokio::test(flavor = "multi_thread")]
async fn kills_and_cuts_neither_lose_nor_double_nor_reorder_what_one_producer_sends() {
    const EVENTS: usize = 4000;
    let mut setting = Setting::new().await;
    setting.topic("events").await;
    let producer = setting.client.producer().await.unwrap();
    let sending = tokio::spawn(async move {
        let mut receipts = Vec::with_capacity(EVENTS);
        for number in 0..EVENTS {
            let event = event(&number.to_string()).with_key("one");
            receipts.push(producer.send("events", event).await.unwrap());
            if number % 50 == 0 {
                tokio::task::yield_now().await;
                // So that some are under way at every disturbance.
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        join_all(receipts.into_iter().map(|receipt| receipt.durable())).await
    });
    for round in 0.. {
        if sending.is_finished() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        match round % 3 {
            0 => setting.kill_and_restart(),
            _ => setting.proxy.cut(&setting.broker),
        }
        assert!(round < 200, "no end");
    }
    let outcomes = expect("every receipt", sending).await.unwrap();
    let mut last = None;
    for outcome in outcomes {
        let position = outcome.unwrap();
        assert!(last.is_none_or(|last| last < position.offset));
        last = Some(position.offset);
    }
    let expected: Vec<_> = (0..EVENTS).map(|number| number.to_string()).collect();
    assert_eq!(ids(&setting, "events").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_refused_fails_by_itself() {
    let setting = Setting::new().await;
    setting.topic("events").await;
    let producer = setting.client.producer().await.unwrap();
    let large = event("large").bytes("application/octet-stream", vec![0; 2 << 20]);
    let nameless = Event::new("", "test.made").with_id("nameless");
    let first = producer.publish("events", large).await.unwrap_err();
    assert_eq!(first.reason(), ErrorReason::LimitExceeded, "{first}");
    assert!(first.to_string().contains("1048576"), "{first}");
    let second = producer.publish("events", nameless).await.unwrap_err();
    assert_eq!(second.reason(), ErrorReason::InvalidField, "{second}");
    assert_eq!(second.field(), "source", "{second}");
    let third = producer.publish("nowhere", event("e")).await.unwrap_err();
    assert_eq!(third.reason(), ErrorReason::UnknownTopic, "{third}");
    producer.publish("events", event("good")).await.unwrap();
    assert_eq!(ids(&setting, "events").await, ["good"]);
}

/// Also when it gathers with others into one batch, which is all or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_refused_among_others_fail_alone() {
    let setting = Setting::new().await;
    setting.topic("events").await;
    let producer = setting.client.producer().await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..300 {
        let event = event(&number.to_string()).with_key("one");
        let event = match number {
            100 => event.attribute("NOT ALLOWED", "x"),
            150 => event.bytes("image/png", vec![0; 2 << 20]),
            // More than fits into any message.
            200 => event.bytes("image/png", vec![0; 20 << 20]),
            _ => event,
        };
        let sent = expect("a place in the queue", producer.send("events", event));
        receipts.push(sent.await);
    }
    let outcomes = receipts.into_iter().map(|receipt| async {
        match receipt {
            Ok(receipt) => receipt.durable().await,
            Err(error) => Err(error),
        }
    });
    let outcomes = expect("every outcome", join_all(outcomes)).await;
    let mut expected = Vec::new();
    for (number, outcome) in outcomes.into_iter().enumerate() {
        match number {
            100 => {
                let error = outcome.unwrap_err();
                assert_eq!(error.reason(), ErrorReason::InvalidField, "{error}");
                assert!(error.field().starts_with("attributes"), "{error:?}");
            }
            150 | 200 => {
                let error = outcome.unwrap_err();
                assert_eq!(error.reason(), ErrorReason::LimitExceeded, "{error}");
            }
            _ => {
                outcome.unwrap();
                expected.push(number.to_string());
            }
        }
    }
    assert_eq!(ids(&setting, "events").await, expected);
}

/// What gathers is more than such a broker takes at once.
#[tokio::test(flavor = "multi_thread")]
async fn batches_keep_to_the_limits_of_the_broker() {
    let limits = [
        "batch_events_max=10",
        "event_bytes_max=1024",
        "request_bytes_max=66560",
        "publish_window_bytes=65536",
    ];
    for limits in [&limits[..1], &limits[1..]] {
        let setting = Setting::with_limits(limits).await;
        setting.topic("events").await;
        let producer = setting.client.producer().await.unwrap();
        let sends = (0..1000).map(|number| {
            let event = event(&number.to_string()).with_key("one");
            producer.publish("events", event.text("x".repeat(800)))
        });
        for outcome in expect("every outcome", join_all(sends)).await {
            outcome.unwrap();
        }
        assert_eq!(ids(&setting, "events").await.len(), 1000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_published_when_the_producer_is_gone() {
    let setting = Setting::new().await;
    setting.topic("events").await;
    let producer = setting.client.producer().await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..100 {
        let event = event(&number.to_string()).with_key("one");
        receipts.push(producer.send("events", event).await.unwrap());
    }
    drop(producer);
    let durable = join_all(receipts.into_iter().map(|receipt| receipt.durable()));
    for (number, position) in expect("the receipts", durable)
        .await
        .into_iter()
        .enumerate()
    {
        assert_eq!(position.unwrap().offset, number as i64);
    }
}

/// The new one has fewer partitions.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_is_looked_up_anew() {
    let setting = Setting::new().await;
    let admin = setting.client.admin();
    admin.create_topic("events", 64).await.unwrap();
    let producer = setting.client.producer().await.unwrap();
    producer.publish("events", event("1")).await.unwrap();
    admin.delete_topic("events").await.unwrap();
    let gone = producer.publish("events", event("2")).await.unwrap_err();
    assert_eq!(gone.reason(), ErrorReason::UnknownTopic, "{gone}");
    admin.create_topic("events", 1).await.unwrap();
    for number in 3..20 {
        let event = event(&number.to_string());
        producer.publish("events", event).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_of_the_same_name_takes_over() {
    let setting = Setting::new().await;
    setting.topic("events").await;
    let old = setting.client.named_producer("ingest").await.unwrap();
    old.publish("events", event("1")).await.unwrap();
    let new = setting.client.named_producer("ingest").await.unwrap();
    let fenced = old.publish("events", event("2")).await.unwrap_err();
    assert_eq!(fenced.reason(), ErrorReason::ProducerFenced, "{fenced}");
    new.publish("events", event("3")).await.unwrap();
    assert_eq!(ids(&setting, "events").await, ["1", "3"]);
}
