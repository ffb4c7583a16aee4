//! What counts as an attempt: a test for each line of the README's table.

use std::time::Duration;

use sluice_proto::pb::{
    AttemptEnd, CommitInput, CommitRequest, ConnectionLoss, DeadLetterHistory, Event,
    FailedAttempt, GroupConfig, LeaseToken, ListDeadLettersRequest, PullRequest,
};
use sluice_tests::{
    api::{Api, event, expect},
    member::{Member, ack, join},
};

use super::{LEASE_MS, config, member, ms, nack, reject, with_events};

/// What the wall clock, by which times are told, may differ in a few seconds from the
/// clock by which they last.
const CLOCK_MS: i64 = 100;

/// Milliseconds since 1970.
fn millis(time: Option<prost_types::Timestamp>) -> i64 {
    let time = time.unwrap();
    time.seconds * 1000 + i64::from(time.nanos) / 1_000_000
}

/// Waits for the group's first dead letter.
async fn dead_letter(api: &Api) -> DeadLetterHistory {
    expect("a dead letter", async {
        loop {
            let request = ListDeadLettersRequest {
                topic: "in".to_owned(),
                group: "workers".to_owned(),
                ..ListDeadLettersRequest::default()
            };
            let listed = api.admin.clone().list_dead_letters(request).await.unwrap();
            if let Some(letter) = listed.into_inner().dead_letters.pop() {
                return letter.history.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// How the event fared, told by rejecting it.
async fn history(api: &Api, member: &mut Member) -> Vec<FailedAttempt> {
    let delivery = member.delivery().await.unwrap();
    let failures = member.settle(vec![reject(delivery.lease.unwrap())]).await;
    assert_eq!(failures.unwrap(), []);
    dead_letter(api).await.attempts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nack_counts() {
    let (_broker, api) = with_events(config(), 1).await;
    let mut worker = member(&api, 9).await;
    let _beats = worker.heartbeats();
    for attempt in 1..=3 {
        let delivery = worker.delivery().await.unwrap();
        assert_eq!(delivery.attempt, attempt);
        let failures = worker.settle(vec![nack(delivery.lease.unwrap(), 0)]).await;
        assert_eq!(failures.unwrap(), []);
    }
    let letter = dead_letter(&api).await;
    assert_eq!(letter.attempt_count, 3);
    let ends: Vec<_> = letter.attempts.iter().map(FailedAttempt::end).collect();
    assert_eq!(ends, [AttemptEnd::Nack; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reject_is_the_last_attempt() {
    let (_broker, api) = with_events(config(), 1).await;
    let mut worker = member(&api, 1).await;
    let attempts = history(&api, &mut worker).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].end(), AttemptEnd::Reject);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_takes_longer_than_the_limit_counts_whatever_heartbeats_come() {
    let limited = GroupConfig {
        processing_limit: ms(500),
        lease_duration: ms(60_000),
        ..config()
    };
    let (_broker, api) = with_events(limited, 1).await;
    let mut worker = member(&api, 9).await;
    let _beats = worker.heartbeats();
    let first = worker.delivery().await.unwrap();
    let lost = expect("the lease to be lost", worker.lost()).await.unwrap();
    assert_eq!(lost, [first.lease.unwrap()]);
    let late = worker.settle(vec![ack(first.lease.unwrap())]).await;
    assert_eq!(late.unwrap().len(), 1, "a late ack is refused");
    let attempts = history(&api, &mut worker).await;
    assert_eq!(attempts[0].end(), AttemptEnd::ProcessingLimit);
    assert!(!attempts[0].uncounted);
    assert_eq!(attempts[1].attempt, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_counts_for_an_event_that_was_alone() {
    let (_broker, api) = with_events(config(), 1).await;
    let mut silent = member(&api, 1).await;
    assert_eq!(silent.delivery().await.unwrap().attempt, 1);
    let mut other = member(&api, 1).await;
    let _beats = other.heartbeats();
    let attempts = history(&api, &mut other).await;
    assert_eq!(attempts[0].end(), AttemptEnd::LeaseExpired);
    assert!(!attempts[0].uncounted);
    assert_eq!(attempts[1].attempt, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_counts_for_none_of_several_and_each_is_tried_alone() {
    let (_broker, api) = with_events(config(), 3).await;
    let mut silent = member(&api, 3).await;
    for _ in 0..3 {
        assert_eq!(silent.delivery().await.unwrap().attempt, 1);
    }
    let mut other = member(&api, 9).await;
    let _beats = other.heartbeats();
    for _ in 0..3 {
        let delivery = other.delivery().await.unwrap();
        assert_eq!(delivery.attempt, 1);
        assert!(other.delivery_at_hand().is_none(), "it comes alone");
        let in_flight = api.describe_group("in", "workers").await.partitions[0].in_flight;
        assert_eq!(in_flight, 1);
        let failures = other.settle(vec![ack(delivery.lease.unwrap())]).await;
        assert_eq!(failures.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_counts_at_the_deadline() {
    let (_broker, api) = with_events(config(), 1).await;
    let mut first = member(&api, 1).await;
    first.delivery().await.unwrap();
    drop(first);
    let mut other = member(&api, 1).await;
    let _beats = other.heartbeats();
    let attempts = history(&api, &mut other).await;
    assert_eq!(attempts[0].end(), AttemptEnd::ConnectionLost);
    assert_eq!(attempts[1].attempt, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_counts_at_once_where_the_group_says_so() {
    let at_once = GroupConfig {
        on_connection_loss: ConnectionLoss::AtOnce.into(),
        // So long that only the connection can explain the second delivery.
        lease_duration: ms(60 * 60 * 1000),
        ..config()
    };
    let (_broker, api) = with_events(at_once, 1).await;
    let mut first = member(&api, 1).await;
    first.delivery().await.unwrap();
    drop(first);
    let mut other = member(&api, 1).await;
    let attempts = history(&api, &mut other).await;
    assert_eq!(attempts[0].end(), AttemptEnd::ConnectionLost);
    assert_eq!(attempts[1].attempt, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_broker_counts_nothing_whether_the_worker_comes_back_or_not() {
    let long = GroupConfig {
        lease_duration: ms(4 * LEASE_MS),
        ..config()
    };
    let (mut broker, api) = with_events(long, 2).await;
    let mut back = member(&api, 1).await;
    let kept = back.delivery().await.unwrap();
    let mut gone = member(&api, 1).await;
    let lost = gone.delivery().await.unwrap();
    let _beats = (back.heartbeats(), gone.heartbeats());
    // Until both leases are noted.
    tokio::time::sleep(Duration::from_secs(3)).await;
    broker.kill();
    broker.restart();

    let api = Api::connect(broker.url()).await;
    let mut again = join("in", "workers", 9);
    again.held = vec![kept.lease.unwrap()];
    let mut back = Member::join(&api, again).await.unwrap();
    let _beats = back.heartbeats();
    assert_eq!(back.joined.lost, []);
    let failures = back.settle(vec![ack(kept.lease.unwrap())]).await;
    assert_eq!(failures.unwrap(), []);
    let delivery = back.delivery().await.unwrap();
    assert_eq!((delivery.offset, delivery.attempt), (lost.offset, 1));
    let failures = back.settle(vec![reject(delivery.lease.unwrap())]).await;
    assert_eq!(failures.unwrap(), []);
    let attempts = dead_letter(&api).await.attempts;
    assert_eq!(attempts[0].end(), AttemptEnd::BrokerRestart);
    assert!(attempts[0].uncounted);
    assert_eq!(attempts[1].attempt, 1);
}

/// The broker is killed in the middle of an attempt, and its worker goes on; what it
/// settles in between may be refused. How long the attempt then took by the broker's
/// clock, and how long the broker says it may, in milliseconds.
async fn limited_attempt_over_a_restart(refused: bool) -> (i64, i64) {
    const LIMIT_MS: u64 = 4_000;
    let limited = GroupConfig {
        processing_limit: ms(LIMIT_MS),
        lease_duration: ms(60_000),
        ..config()
    };
    let (mut broker, api) = with_events(limited, 1).await;
    let mut worker = member(&api, 9).await;
    let lease = worker.delivery().await.unwrap().lease.unwrap();
    // Until the lease is noted, and more than half of the limit is over.
    tokio::time::sleep(Duration::from_millis(LIMIT_MS * 5 / 8)).await;
    tokio::task::block_in_place(|| broker.restart());

    let api = Api::connect(broker.url()).await;
    // The worker takes its time to come back.
    tokio::time::sleep(Duration::from_millis(LIMIT_MS / 4)).await;
    let mut again = join("in", "workers", 9);
    again.held = vec![lease];
    let mut worker = Member::join(&api, again).await.unwrap();
    let _beats = worker.heartbeats();
    assert_eq!(worker.joined.lost, []);
    let since = api.describe_group("in", "workers").await.in_flight_events[0].since;
    if refused {
        let never_given = LeaseToken {
            counter: lease.counter + 1000,
            ..lease
        };
        let commit = CommitRequest {
            inputs: vec![CommitInput {
                topic: "in".to_owned(),
                group: "workers".to_owned(),
                acks: vec![lease, never_given],
            }],
            ..CommitRequest::default()
        };
        let refusal = api.broker.clone().commit(commit).await.unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::FailedPrecondition);
    }
    let lost = expect("the lease to be lost", worker.lost()).await.unwrap();
    assert_eq!(lost, [lease]);
    let attempts = history(&api, &mut worker).await;
    assert_eq!(attempts[0].end(), AttemptEnd::ProcessingLimit);
    assert!(!attempts[0].uncounted);
    assert_eq!(attempts[1].attempt, 2);
    let took_ms = millis(attempts[0].ended_at) - millis(since);
    (took_ms, LIMIT_MS as i64)
}

/// Not from when it was delivered first, which a clock would have to tell that somebody
/// may have set.
#[tokio::test(flavor = "multi_thread")]
async fn the_limit_counts_anew_when_a_worker_comes_back_to_a_restarted_broker() {
    let (took_ms, limit_ms) = limited_attempt_over_a_restart(false).await;
    assert!(took_ms >= limit_ms - CLOCK_MS, "{took_ms} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_settlement_leaves_the_limit_after_a_restart_as_it_was() {
    let (took_ms, limit_ms) = limited_attempt_over_a_restart(true).await;
    assert!(took_ms >= limit_ms - CLOCK_MS, "{took_ms} ms");
}

/// The loss is in the log: a broker that is killed right after it has not
/// forgotten that the events are suspect.
#[tokio::test(flavor = "multi_thread")]
async fn suspicion_survives_a_restart_of_the_broker() {
    let (mut broker, api) = with_events(config(), 2).await;
    let mut silent = member(&api, 2).await;
    silent.delivery().await.unwrap();
    silent.delivery().await.unwrap();
    expect("the leases to be lost", silent.lost())
        .await
        .unwrap();
    let reason = sluice_proto::pb::IdleReason::Suspect;
    // Nobody else is there, and the silent one gets nothing.
    expect("the loss to be recorded", async {
        while api.describe_group("in", "workers").await.idle() != reason {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    broker.kill();
    broker.restart();
    let api = Api::connect(broker.url()).await;
    let mut other = member(&api, 9).await;
    let _beats = other.heartbeats();
    for _ in 0..2 {
        let delivery = other.delivery().await.unwrap();
        assert_eq!(delivery.attempt, 1);
        assert!(other.delivery_at_hand().is_none(), "it comes alone");
        let failures = other.settle(vec![ack(delivery.lease.unwrap())]).await;
        assert_eq!(failures.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leave_counts_nothing() {
    let (_broker, api) = with_events(config(), 1).await;
    let mut first = member(&api, 1).await;
    assert_eq!(first.delivery().await.unwrap().attempt, 1);
    expect("the end of the stream", first.leave())
        .await
        .unwrap();
    let mut other = member(&api, 1).await;
    let attempts = history(&api, &mut other).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(
        (attempts[0].attempt, attempts[0].end()),
        (1, AttemptEnd::Reject)
    );
}

/// A group whose leases last far longer than a test waits, so that only what was handed
/// back comes again.
fn lasting() -> GroupConfig {
    GroupConfig {
        lease_duration: ms(60 * 60 * 1000),
        ..config()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_for_pulls_whose_callers_are_gone_counts_nothing_and_goes_on() {
    let (_broker, api) = with_events(lasting(), 0).await;
    let pull = |wait_s| {
        let pull = PullRequest {
            topic: "in".to_owned(),
            group: "workers".to_owned(),
            wait: Some(Duration::from_secs(wait_s).try_into().unwrap()),
            ..PullRequest::default()
        };
        let mut broker = api.broker.clone();
        async move { broker.pull(pull).await.unwrap().into_inner() }
    };
    for number in 0..20 {
        // Somebody who pulls has been heard of, and does not wait for the answer.
        for _ in 0..3 {
            tokio::select! {
                biased;
                _ = pull(60) => panic!("there is nothing to pull"),
                _ = pull(0) => {}
            }
        }
        // On the same connection, so that the broker hears of it first.
        api.describe_group("in", "workers").await;
        let name = format!("e{number}");
        api.publish("in", vec![event(&name)]).await.unwrap();
        let pulled = pull(30).await;
        let [delivery] = &pulled.deliveries[..] else {
            panic!("{name} went to somebody who is gone: {pulled:?}");
        };
        assert_eq!(delivery.event.as_ref().unwrap().id, name);
        assert_eq!(delivery.attempt, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_was_not_sent_when_it_ended_counts_nothing_and_comes_again_at_once() {
    const EVENTS: i64 = 500;
    let (_broker, api) = with_events(lasting(), 0).await;
    // The first fill the connection, the next ones wait in the broker.
    let deaf = member(&api, EVENTS).await;
    for _ in 0..5 {
        let events = (0..EVENTS / 5).map(|number| Event {
            data: vec![7; 20_000].into(),
            ..event(&format!("e{number}"))
        });
        api.publish("in", events.collect()).await.unwrap();
    }
    let described = async || api.describe_group("in", "workers").await;
    let pause = || tokio::time::sleep(Duration::from_millis(50));
    let (mut leased, mut same) = (0, 0);
    expect("no more to be leased", async {
        while leased == 0 || same < 10 {
            pause().await;
            let in_flight = described().await.counts.unwrap().in_flight;
            same = if in_flight == leased { same + 1 } else { 0 };
            leased = in_flight;
        }
    })
    .await;
    drop(deaf);
    expect("the stream to end", async {
        while described().await.members.iter().any(|of| of.connected) {
            pause().await;
        }
    })
    .await;
    let sent = described().await.counts.unwrap().in_flight;
    assert!((1..leased).contains(&sent), "{sent} of {leased} were sent");

    let mut other = member(&api, EVENTS).await;
    let mut handed_back = Vec::new();
    for _ in sent..EVENTS {
        let delivery = expect("an event", other.delivery()).await.unwrap();
        assert_eq!(delivery.attempt, 1);
        if delivery.offset < leased {
            handed_back.push(delivery.lease.unwrap());
        }
    }
    assert_eq!(handed_back.len() as i64, leased - sent);
    // Nothing is told of a first time.
    let failures = other.settle(vec![reject(handed_back[0])]).await;
    assert_eq!(failures.unwrap(), []);
    let attempts = dead_letter(&api).await.attempts;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].end(), AttemptEnd::Reject);
}
