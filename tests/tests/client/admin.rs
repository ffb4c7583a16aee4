//! Topics, groups and dead letters.

use std::time::Duration;

use futures_util::StreamExt;
use sluice_client::{Admin, Error, GroupOptions, pb::ErrorReason};
use sluice_tests::api::expect;

use super::{Setting, event};

fn reason<T>(result: Result<T, Error>) -> ErrorReason {
    result.map(drop).unwrap_err().reason()
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_listed_described_and_deleted() {
    let setting = Setting::new().await;
    let admin = setting.client.admin();
    assert!(admin.create_topic("uploads", 3).await.unwrap());
    assert!(!admin.create_topic("uploads", 3).await.unwrap());
    let other = admin.create_topic("uploads", 4).await;
    assert_eq!(reason(other), ErrorReason::TopicExists);
    let bad = admin.create_topic("up/loads", 1).await.unwrap_err();
    assert_eq!(
        (bad.reason(), bad.field()),
        (ErrorReason::InvalidField, "topic")
    );
    admin.create_topic("pages", 1).await.unwrap();

    let names = async |internal| -> Vec<_> {
        let topics = admin.list_topics(internal).await.unwrap();
        topics.into_iter().map(|topic| topic.topic).collect()
    };
    assert_eq!(names(false).await, ["pages", "uploads"]);
    admin
        .create_group("uploads", "ocr", GroupOptions::default())
        .await
        .unwrap();
    assert_eq!(names(false).await, ["pages", "uploads"]);
    assert!(names(true).await.len() > 2);
    let producer = setting.client.producer().await.unwrap();
    producer.publish("uploads", event("e")).await.unwrap();
    let described = admin.describe_topic("uploads").await.unwrap();
    assert_eq!(described.partitions.len(), 3);
    let ends: i64 = described.partitions.iter().map(|p| p.visible_end).sum();
    assert_eq!(ends, 1);
    assert_eq!(described.groups, ["ocr"]);
    let broker = admin.describe_broker().await.unwrap();
    assert_eq!((broker.topic_count, broker.group_count), (2, 1));

    let read = admin.delete_topic("uploads").await;
    assert_eq!(reason(read), ErrorReason::TopicHasGroups);
    admin.delete_group("uploads", "ocr").await.unwrap();
    admin.delete_topic("uploads").await.unwrap();
    let gone = admin.describe_topic("uploads").await;
    assert_eq!(reason(gone), ErrorReason::UnknownTopic);
    let gone = admin.delete_topic("uploads").await;
    assert_eq!(reason(gone), ErrorReason::UnknownTopic);
    assert_eq!(names(true).await, ["pages"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_made_listed_described_and_deleted() {
    let setting = Setting::new().await;
    let admin = setting.client.admin();
    admin.create_topic("in", 2).await.unwrap();
    admin.create_topic("other", 1).await.unwrap();
    let blurred = || GroupOptions::default().filter("event.data.confidence < 0.8");
    let create = async |group, options| admin.create_group("in", group, options).await;
    assert!(create("ocr", blurred()).await.unwrap());
    assert!(!create("ocr", blurred()).await.unwrap());
    let differs = create("ocr", blurred().unordered()).await;
    assert_eq!(reason(differs), ErrorReason::GroupExists);
    let bad = create("bad", GroupOptions::default().filter("event.")).await;
    assert_eq!(reason(bad), ErrorReason::InvalidFilter);
    let nowhere = admin.create_group("nowhere", "g", blurred()).await;
    assert_eq!(reason(nowhere), ErrorReason::UnknownTopic);
    admin
        .create_group("other", "nlp", GroupOptions::default())
        .await
        .unwrap();

    let names = async |topic| -> Vec<_> {
        let groups = admin.list_groups(topic).await.unwrap();
        groups.into_iter().map(|group| group.group).collect()
    };
    assert_eq!(names(None).await, ["ocr", "nlp"]);
    assert_eq!(names(Some("other")).await, ["nlp"]);
    let described = admin.describe_group("in", "ocr").await.unwrap();
    let config = described.config.unwrap();
    assert_eq!(config.filter, "event.data.confidence < 0.8");
    assert_eq!(config.retry.unwrap().max_attempts, 5, "the default is said");
    assert_eq!(described.partitions.len(), 2);

    admin.delete_group("in", "ocr").await.unwrap();
    let gone = admin.describe_group("in", "ocr").await;
    assert_eq!(reason(gone), ErrorReason::UnknownGroup);
    assert_eq!(names(None).await, ["nlp"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_has_the_settings_that_it_is_given() {
    let setting = Setting::new().await;
    setting.topic("in").await;
    let options = GroupOptions::default()
        .max_redrives(3)
        .retry_multiplier(1.5)
        .retry_delay(Duration::from_millis(250), Duration::from_secs(120));
    setting.group("in", "g", options).await;
    let config = setting.describe("in", "g").await.config.unwrap();
    assert_eq!(config.max_redrives, 3);
    let retry = config.retry.unwrap();
    assert_eq!((retry.multiplier, retry.max_attempts), (1.5, 5));
    assert_eq!(retry.initial_delay.unwrap().nanos, 250_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_begins_at_the_offset_or_time_that_it_is_told() {
    let setting = Setting::new().await;
    let admin = setting.client.admin();
    admin.create_topic("in", 1).await.unwrap();
    let producer = setting.client.producer().await.unwrap();
    for number in 0..4 {
        producer
            .publish("in", event(&number.to_string()))
            .await
            .unwrap();
        // The broker's times are in milliseconds.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut events = setting.client.read("in").events().await.unwrap();
    let mut times = Vec::new();
    while let Some(event) = events.next().await {
        times.push(event.unwrap().append_time.unwrap());
    }
    let from = GroupOptions::default;
    for (group, options, expected) in [
        ("all", from(), &["0", "1", "2", "3"][..]),
        ("offset", from().from_offset(2), &["2", "3"]),
        ("beyond", from().from_offset(9), &[]),
        ("time", from().from_time(times[1]), &["1", "2", "3"]),
        ("new", from().from_latest(), &[]),
    ] {
        setting.group("in", group, options).await;
        let mut consumer = setting.client.consumer("in", group).join().await.unwrap();
        for id in expected {
            let delivery = expect("a delivery", consumer.next()).await;
            let delivery = delivery.unwrap().unwrap();
            assert_eq!(delivery.event().id(), *id, "{group}");
            delivery.ack().await.unwrap();
        }
        let lag = setting.describe("in", group).await.partitions[0].lag;
        assert_eq!(lag, 0, "{group}");
    }
}

/// More than one page of them.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_and_redriven_one_by_one_or_all() {
    const LETTERS: usize = 25;
    let setting = Setting::new().await;
    let admin = setting.client.admin();
    admin.create_topic("in", 1).await.unwrap();
    admin
        .create_group("in", "g", GroupOptions::default())
        .await
        .unwrap();
    let producer = setting.client.producer().await.unwrap();
    for number in 0..LETTERS {
        producer
            .publish("in", event(&number.to_string()))
            .await
            .unwrap();
    }
    let mut consumer = setting.client.consumer("in", "g").join().await.unwrap();
    for _ in 0..LETTERS {
        let delivery = expect("a delivery", consumer.next())
            .await
            .unwrap()
            .unwrap();
        delivery.reject("no").await.unwrap();
    }
    let letters = admin.list_dead_letters("in", "g").await.unwrap();
    let ids: Vec<_> = letters
        .iter()
        .map(|letter| letter.event.clone().unwrap().id)
        .collect();
    let expected: Vec<_> = (0..LETTERS).map(|number| number.to_string()).collect();
    assert_eq!(ids, expected);

    let at = letters[7].dead_letter_offset;
    let one = admin.dead_letter("in", "g", at).await.unwrap().unwrap();
    assert_eq!(one.history.unwrap().reason, "no");
    assert_eq!(
        admin
            .redrive_dead_letters("in", "g", Some(vec![at]))
            .await
            .unwrap(),
        1
    );
    let delivery = expect("the redriven one", consumer.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((delivery.event().id(), delivery.redrives()), ("7", 1));
    delivery.ack().await.unwrap();
    assert_eq!(admin.dead_letter("in", "g", at).await.unwrap(), None);
    let again = admin.redrive_dead_letters("in", "g", Some(vec![at])).await;
    assert_eq!(reason(again), ErrorReason::UnknownDeadLetter);

    assert_eq!(left(&admin).await, LETTERS - 1);
    let all = admin.redrive_dead_letters("in", "g", None).await.unwrap();
    assert_eq!(all, LETTERS as i64 - 1);
    assert_eq!(left(&admin).await, 0);
    for _ in 1..LETTERS {
        let delivery = expect("a redriven one", consumer.next())
            .await
            .unwrap()
            .unwrap();
        delivery.ack().await.unwrap();
    }
}

async fn left(admin: &Admin) -> usize {
    admin.list_dead_letters("in", "g").await.unwrap().len()
}
