//! Reading a topic without a group.

use std::time::Duration;

use futures_util::StreamExt;
use sluice_client::{GroupOptions, ReadBuilder, pb::ErrorReason};
use sluice_tests::api::expect;

use super::{Setting, event};

async fn ids(read: ReadBuilder) -> Vec<String> {
    let mut ids = Vec::new();
    let mut events = read.events().await.unwrap();
    while let Some(event) = events.next().await {
        ids.push(event.unwrap().event.id().to_owned());
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_begins_filters_and_ends_where_it_is_told() {
    let setting = Setting::new().await;
    setting
        .client
        .admin()
        .create_topic("events", 1)
        .await
        .unwrap();
    let producer = setting.client.producer().await.unwrap();
    for number in 0..5 {
        let event = event(&number.to_string()).attribute("parity", (number % 2).to_string());
        producer.publish("events", event).await.unwrap();
    }
    let read = || setting.client.read("events");
    assert_eq!(ids(read()).await, ["0", "1", "2", "3", "4"]);
    assert_eq!(ids(read().from_offset(3)).await, ["3", "4"]);
    assert_eq!(ids(read().filter("event.parity == '1'")).await, ["1", "3"]);
    assert_eq!(ids(read().max_events(2)).await, ["0", "1"]);
    assert!(ids(read().from_latest()).await.is_empty());

    let mut following = read().from_offset(4).follow().events().await.unwrap();
    let first = expect("an event", following.next()).await.unwrap().unwrap();
    assert_eq!(first.event.id(), "4");
    producer.publish("events", event("5")).await.unwrap();
    let new = expect("a new event", following.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((new.event.id(), new.offset), ("5", 5));

    let error = setting.client.read("nowhere").events().await.map(drop);
    assert_eq!(error.unwrap_err().reason(), ErrorReason::UnknownTopic);
    let error = read().filter("event.").events().await.map(drop);
    assert_eq!(error.unwrap_err().reason(), ErrorReason::InvalidFilter);
    let error = read().from_offset(99).events().await.map(drop);
    assert_eq!(error.unwrap_err().reason(), ErrorReason::OffsetOutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_follows_is_told_when_its_topic_is_deleted() {
    let setting = Setting::new().await;
    setting.topic("events").await;
    let read = setting.client.read("events").follow();
    let mut following = read.events().await.unwrap();
    setting.client.admin().delete_topic("events").await.unwrap();
    let ended = expect("the end", following.next()).await.unwrap();
    assert_eq!(ended.unwrap_err().reason(), ErrorReason::UnknownTopic);
}

/// More than one page, of several partitions.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_gives_every_event_of_the_partitions_that_it_names_in_order() {
    const EVENTS: usize = 3000;
    let setting = Setting::new().await;
    setting.topic("events").await;
    let producer = setting.client.producer().await.unwrap();
    for number in 0..EVENTS {
        let event = event(&number.to_string()).with_key(format!("key-{}", number % 50));
        drop(
            producer
                .send("events", event.text("x".repeat(500)))
                .await
                .unwrap(),
        );
    }
    expect("everything to be stored", producer.flush()).await;
    let mut count = 0;
    for partition in 0..2 {
        let read = setting.client.read("events").partitions([partition]);
        let mut events = read.events().await.unwrap();
        let mut offset = 0;
        while let Some(event) = expect("an event", events.next()).await {
            let event = event.unwrap();
            assert_eq!((event.partition, event.offset), (partition, offset));
            offset += 1;
        }
        assert!(offset > 0);
        count += offset;
    }
    assert_eq!(count, EVENTS as i64);
    let both = setting.client.read("events").partitions([0, 1]);
    assert_eq!(ids(both).await.len(), EVENTS);
    let missing = setting.client.read("events").partitions([2]).events().await;
    let missing = missing.map(drop).unwrap_err();
    assert_eq!(missing.reason(), ErrorReason::UnknownPartition);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_begins_at_the_time_that_it_is_told() {
    let setting = Setting::new().await;
    setting.topic("events").await;
    let producer = setting.client.producer().await.unwrap();
    let key = |id| event(id).with_key("one");
    producer.publish("events", key("1")).await.unwrap();
    // The broker's times are in milliseconds.
    tokio::time::sleep(Duration::from_millis(5)).await;
    producer.publish("events", key("2")).await.unwrap();
    let mut events = setting.client.read("events").events().await.unwrap();
    let mut times = Vec::new();
    while let Some(event) = events.next().await {
        times.push(event.unwrap().append_time.unwrap());
    }
    let read = |time| ids(setting.client.read("events").from_time(time));
    assert_eq!(read(times[0]).await, ["1", "2"]);
    assert_eq!(read(times[1]).await, ["2"]);
    let later = times[1] + Duration::from_secs(3600);
    assert!(read(later).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_read_with_their_history() {
    let setting = Setting::new().await;
    setting.topic("in").await;
    setting.group("in", "g", GroupOptions::default()).await;
    let producer = setting.client.producer().await.unwrap();
    producer.publish("in", event("e")).await.unwrap();
    let mut consumer = setting.client.consumer("in", "g").join().await.unwrap();
    let delivery = expect("a delivery", consumer.next())
        .await
        .unwrap()
        .unwrap();
    delivery.reject("no image").await.unwrap();
    let topic = setting.describe("in", "g").await.dead_letter_topic;
    let mut letters = setting.client.read(&topic).events().await.unwrap();
    let letter = letters.next().await.unwrap().unwrap();
    assert_eq!(letter.event.id(), "e");
    let history = letter.dead_letter.unwrap();
    assert_eq!((&history.topic[..], &history.group[..]), ("in", "g"));
    assert_eq!(history.reason, "no image");
}
