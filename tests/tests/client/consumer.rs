//! Consumer: leases that keep themselves, settlements, reconnecting.

use std::time::Duration;

use sluice_client::{
    Client, Consumer, Delivery, GroupOptions, TopicOptions,
    pb::{AttemptEnd, Channel, ErrorReason},
};
use sluice_tests::api::expect;

use super::{Setting, event, patient, quick};

async fn next(consumer: &mut Consumer) -> Delivery {
    let delivery = expect("a delivery", consumer.next()).await;
    delivery.expect("the consumer goes on").unwrap()
}

async fn publish(client: &Client, ids: &[&str]) {
    let producer = client.producer().await.unwrap();
    for id in ids {
        producer.publish("in", event(id)).await.unwrap();
    }
}

async fn setting(options: GroupOptions) -> Setting {
    let setting = Setting::new().await;
    setting.topic("in").await;
    setting.group("in", "workers", options).await;
    setting
}

#[tokio::test(flavor = "multi_thread")]
async fn ack_nack_and_reject_do_what_they_say() {
    let setting = setting(patient()).await;
    publish(&setting.client, &["ack", "nack", "reject", "drop"]).await;
    let consumer = setting.client.consumer("in", "workers").concurrency(4);
    let mut consumer = consumer.join().await.unwrap();
    let mut again = Vec::new();
    for _ in 0..6 {
        let delivery = next(&mut consumer).await;
        let id = delivery.event().id().to_owned();
        match (id.as_str(), delivery.attempt()) {
            ("ack", 1) => delivery.ack().await.unwrap(),
            ("nack", 1) => delivery.nack(None, "later").await.unwrap(),
            ("reject", 1) => delivery.reject("never").await.unwrap(),
            ("drop", 1) => drop(delivery),
            ("nack" | "drop", 2) => {
                again.push(id);
                delivery.ack().await.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    again.sort();
    assert_eq!(again, ["drop", "nack"]);
    let admin = setting.client.admin();
    let letters = admin.list_dead_letters("in", "workers").await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].event.as_ref().unwrap().id, "reject");
    assert_eq!(letters[0].history.as_ref().unwrap().reason, "never");

    let redriven = admin.redrive_dead_letters("in", "workers", None).await;
    assert_eq!(redriven.unwrap(), 1);
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.event().id(), "reject");
    assert_eq!((delivery.attempt(), delivery.redrives()), (1, 1));
    delivery.ack().await.unwrap();
    consumer.leave().await;
    let described = setting.describe("in", "workers").await;
    assert_eq!(described.partitions.iter().map(|p| p.lag).sum::<i64>(), 0);
    assert_eq!(described.dead_letter_count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nack_with_a_delay_comes_again_no_sooner() {
    let setting = setting(patient()).await;
    publish(&setting.client, &["e"]).await;
    let consumer = setting.client.consumer("in", "workers").member("w-1");
    let mut consumer = consumer.join().await.unwrap();
    let first = next(&mut consumer).await;
    let delay = Duration::from_millis(700);
    let since = std::time::Instant::now();
    first
        .nack(Some(delay), "the model is loading")
        .await
        .unwrap();
    let second = next(&mut consumer).await;
    assert!(since.elapsed() >= delay);
    assert_eq!(second.attempt(), 2);
    second.reject("no model").await.unwrap();
    let admin = setting.client.admin();
    let letters = admin.list_dead_letters("in", "workers").await.unwrap();
    let attempts = letters[0].history.clone().unwrap().attempts;
    let told: Vec<_> = attempts
        .iter()
        .map(|attempt| {
            (
                attempt.member.as_str(),
                attempt.end(),
                attempt.reason.as_str(),
            )
        })
        .collect();
    let expected = [
        ("w-1", AttemptEnd::Nack, "the model is loading"),
        ("w-1", AttemptEnd::Reject, "no model"),
    ];
    assert_eq!(told, expected);
}

/// A worker that cannot reach the broker, while another can.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_was_away_too_long_learns_that_its_lease_is_lost() {
    let setting = setting(patient().lease(Duration::from_secs(2))).await;
    publish(&setting.client, &["e"]).await;
    let away = setting.client.consumer("in", "workers");
    let mut away = away.join().await.unwrap();
    let held = next(&mut away).await;
    setting.proxy.close();
    let client = setting.other_client().await;
    let mut other = client.consumer("in", "workers").join().await.unwrap();
    let again = next(&mut other).await;
    assert_eq!((again.event().id(), again.attempt()), ("e", 2));
    assert!(!held.lost().is_cancelled());

    setting.proxy.cut(&setting.broker);
    expect("the loss to be told", held.lost().cancelled()).await;
    let late = expect("the late ack", held.ack()).await.unwrap_err();
    assert!(late.is_lease_lost(), "{late}");
    again.ack().await.unwrap();
    other.leave().await;
    publish(&client, &["next"]).await;
    assert_eq!(next(&mut away).await.event().id(), "next");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_can_leave_while_the_broker_is_away() {
    let setting = setting(GroupOptions::default()).await;
    publish(&setting.client, &["e"]).await;
    let consumer = setting.client.consumer("in", "workers");
    let mut consumer = consumer.join().await.unwrap();
    let held = next(&mut consumer).await;
    setting.proxy.close();
    let settling = tokio::spawn(held.ack());
    expect("the consumer to leave", consumer.leave()).await;
    let settled = expect("the ack", settling).await.unwrap();
    assert!(settled.is_err(), "nobody can have taken it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_of_many_lease_times_keeps_its_event() {
    let setting = setting(patient().lease(Duration::from_secs(1))).await;
    publish(&setting.client, &["long"]).await;
    let mut slow = setting
        .client
        .consumer("in", "workers")
        .join()
        .await
        .unwrap();
    let held = next(&mut slow).await;
    let mut idle = setting
        .client
        .consumer("in", "workers")
        .join()
        .await
        .unwrap();
    let second = tokio::time::timeout(Duration::from_secs(4), idle.next()).await;
    assert!(second.is_err(), "it was given to another: {second:?}");
    assert!(!held.lost().is_cancelled());
    held.ack().await.unwrap();
}

/// The handler does not notice that the broker was killed and started again.
#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_over_a_restart_of_the_broker() {
    let mut setting = setting(GroupOptions::default()).await;
    publish(&setting.client, &["before"]).await;
    let mut consumer = setting
        .client
        .consumer("in", "workers")
        .join()
        .await
        .unwrap();
    let held = next(&mut consumer).await;
    // Long enough for the lease to be in the log.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    setting.kill_and_restart();
    publish(&setting.client, &["after"]).await;
    expect("the ack", held.ack()).await.unwrap();
    let after = next(&mut consumer).await;
    assert_eq!((after.event().id(), after.attempt()), ("after", 1));
    after.ack().await.unwrap();
}

/// Settlements whose answers are lost with the connection.
#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_lost_when_connections_break_all_the_time() {
    let setting = setting(quick().max_attempts(100)).await;
    let ids: Vec<_> = (0..200).map(|number| number.to_string()).collect();
    publish(
        &setting.client,
        &ids.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await;
    let consumer = setting.client.consumer("in", "workers").concurrency(8);
    let mut consumer = consumer.join().await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let mut rounds = 0;
    loop {
        let lag: i64 = {
            let described = setting.describe("in", "workers").await;
            described.partitions.iter().map(|p| p.lag).sum()
        };
        if lag == 0 {
            break;
        }
        rounds += 1;
        assert!(rounds < 500, "{lag} events are left");
        for _ in 0..8 {
            let delivery = tokio::time::timeout(Duration::from_millis(200), consumer.next()).await;
            let Ok(delivery) = delivery else { break };
            let delivery = delivery.unwrap().unwrap();
            let id = delivery.event().id().to_owned();
            let cut = seen.len() % 10 == 3;
            let ack = delivery.ack();
            if cut {
                setting.proxy.cut(&setting.broker);
            }
            // A lost lease is either done, or comes again.
            match ack.await {
                Ok(()) => drop(seen.insert(id)),
                Err(error) => assert!(error.is_lease_lost(), "{error}"),
            }
        }
    }
    assert!(seen.len() > 150, "only {} acks were answered", seen.len());
    assert!(setting.describe("in", "workers").await.dead_letter_count == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_events_are_taken_than_there_are_places() {
    let setting = setting(GroupOptions::default()).await;
    let ids: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    publish(
        &setting.client,
        &ids.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await;
    let consumer = setting
        .client
        .consumer("in", "workers")
        .concurrency(2)
        .prefetch(3);
    let mut consumer = consumer.join().await.unwrap();
    let first = next(&mut consumer).await;
    let in_flight = async {
        loop {
            let described = setting.describe("in", "workers").await;
            let held: i64 = described.partitions.iter().map(|p| p.in_flight).sum();
            assert!(held <= 5, "{held} events at once");
            if held == 5 {
                return described;
            }
        }
    };
    let described = expect("five events under lease", in_flight).await;
    assert_eq!(described.members[0].credit_events, 0);
    first.ack().await.unwrap();
    let mut ids = 1;
    while ids < 20 {
        next(&mut consumer).await.ack().await.unwrap();
        ids += 1;
    }
}

/// The lease is thirty seconds; nobody waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_held_goes_to_others_at_once_when_it_leaves_or_is_dropped() {
    let setting = setting(GroupOptions::default()).await;
    publish(&setting.client, &["e"]).await;
    let mut leaving = setting
        .client
        .consumer("in", "workers")
        .join()
        .await
        .unwrap();
    let held = next(&mut leaving).await;
    leaving.leave().await;
    let mut dropped = setting
        .client
        .consumer("in", "workers")
        .join()
        .await
        .unwrap();
    let again = next(&mut dropped).await;
    // Nobody failed, so it is the first attempt still.
    assert_eq!((again.event().id(), again.attempt()), ("e", 1));
    assert!(held.ack().await.is_err());
    drop(dropped);
    let mut last = setting
        .client
        .consumer("in", "workers")
        .join()
        .await
        .unwrap();
    next(&mut last).await.ack().await.unwrap();
    drop(again);
}

/// They wait at the consumer, and nobody has looked at them.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_ahead_goes_to_others_at_once_and_counts_no_attempt() {
    // One attempt only: a second one would be a dead letter.
    let setting = setting(GroupOptions::default().max_attempts(1)).await;
    let ids = ["a", "b", "c", "d", "e", "f"];
    publish(&setting.client, &ids).await;
    for leave in [true, false] {
        let first = setting.client.consumer("in", "workers").prefetch(5);
        let first = first.join().await.unwrap();
        let fetched = async {
            loop {
                let described = setting.describe("in", "workers").await;
                let held: i64 = described.partitions.iter().map(|p| p.in_flight).sum();
                if held == 6 {
                    return;
                }
            }
        };
        expect("all to be fetched", fetched).await;
        match leave {
            true => first.leave().await,
            false => drop(first),
        }
    }
    let mut second = setting
        .client
        .consumer("in", "workers")
        .join()
        .await
        .unwrap();
    for _ in ids {
        let delivery = next(&mut second).await;
        assert_eq!(delivery.attempt(), 1);
        delivery.ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_not_there_or_goes_away_is_told() {
    let setting = setting(GroupOptions::default()).await;
    let missing = setting.client.consumer("in", "nobody").join().await;
    assert_eq!(missing.unwrap_err().reason(), ErrorReason::UnknownGroup);
    let mut consumer = setting
        .client
        .consumer("in", "workers")
        .join()
        .await
        .unwrap();
    setting
        .client
        .admin()
        .delete_group("in", "workers")
        .await
        .unwrap();
    let ended = expect("the end", consumer.next()).await.unwrap();
    assert_eq!(ended.unwrap_err().reason(), ErrorReason::UnknownGroup);
    assert!(consumer.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_tells_the_epoch_of_its_offset() {
    let setting = setting(patient()).await;
    let admin = setting.client.admin();
    let buffered = TopicOptions::default().channel(Channel::Buffered);
    admin.create_topic("buffered", buffered).await.unwrap();
    setting.group("buffered", "workers", patient()).await;
    let epoch = admin.describe_broker().await.unwrap().log_epoch;
    let producer = setting.client.producer().await.unwrap();
    for (topic, expected) in [("in", 0), ("buffered", epoch)] {
        producer.publish(topic, event("e")).await.unwrap();
        let consumer = setting.client.consumer(topic, "workers");
        // It lives until the ack is answered.
        let mut consumer = consumer.join().await.unwrap();
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.epoch(), expected, "{topic}");
        delivery.ack().await.unwrap();
    }
}
