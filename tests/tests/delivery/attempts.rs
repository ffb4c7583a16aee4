//! What counts as an attempt: a test for each line of the README's table.

use std::time::Duration;

use sluice_proto::pb::{
    AttemptEnd, ConnectionLoss, DeadLetterHistory, FailedAttempt, ListDeadLettersRequest,
    PullRequest,
};
use sluice_tests::{
    api::{Api, expect},
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
    let limited = sluice_proto::pb::GroupConfig {
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
    let at_once = sluice_proto::pb::GroupConfig {
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
    let long = sluice_proto::pb::GroupConfig {
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
    let limited = sluice_proto::pb::GroupConfig {
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
        let never_given = sluice_proto::pb::LeaseToken {
            counter: lease.counter + 1000,
            ..lease
        };
        let commit = sluice_proto::pb::CommitRequest {
            inputs: vec![sluice_proto::pb::CommitInput {
                topic: "in".to_owned(),
                group: "workers".to_owned(),
                acks: vec![lease, never_given],
            }],
            ..sluice_proto::pb::CommitRequest::default()
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
async fn a_leave_and_an_unread_pull_count_nothing() {
    let (_broker, api) = with_events(config(), 1).await;
    let mut first = member(&api, 1).await;
    assert_eq!(first.delivery().await.unwrap().attempt, 1);
    expect("the end of the stream", first.leave())
        .await
        .unwrap();
    // What a pull is not there to take goes back as well.
    let pull = PullRequest {
        topic: "in".to_owned(),
        group: "workers".to_owned(),
        ..PullRequest::default()
    };
    let pulled = api.broker.clone().pull(pull).await.unwrap().into_inner();
    assert_eq!(pulled.deliveries[0].attempt, 1);
}
