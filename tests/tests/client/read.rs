//! Reading a topic without a group.

use futures_util::StreamExt;
use sluice_client::{ReadBuilder, pb::ErrorReason};
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
