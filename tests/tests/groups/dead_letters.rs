//! Dead letters that are named, and what is told of them.

use std::time::SystemTime;

use sluice_proto::pb::{
    Ack, DeadLetter, EventState, ExplainEventRequest, ExplainEventResponse, GroupConfig,
    IdleReason, ListDeadLettersRequest, Nack, Ordering, PurgeDeadLettersRequest,
    RedriveDeadLettersRequest, Reject, RetryPolicy, settlement::Action,
};
use sluice_tests::{
    api::{Api, Refusal},
    broker::TestBroker,
};
use tonic::Code;

use crate::setting::{GROUP, TOPIC, describe, ids, make, millis, publish, pull, settle, take};

fn reject() -> Action {
    Action::Reject(Reject {
        reason: "never".to_owned(),
    })
}

/// Takes so many events and rejects them; says which they were.
async fn reject_next(api: &Api, count: usize) -> Vec<(String, i32)> {
    let taken = take(api, count).await;
    for delivery in &taken {
        assert_eq!(settle(api, &[delivery], reject()).await, []);
    }
    let redrives = taken.iter().map(|delivery| delivery.redrives);
    let ids = ids(&taken).into_iter().map(str::to_owned);
    ids.zip(redrives).collect()
}

async fn redrive(api: &Api, offsets: &[i64], force: bool) -> Result<i64, Refusal> {
    let request = RedriveDeadLettersRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        dead_letter_offsets: offsets.to_vec(),
        force,
        ..RedriveDeadLettersRequest::default()
    };
    let redriven = api.admin.clone().redrive_dead_letters(request).await;
    let redriven = redriven.map_err(|status| Refusal::from(&status))?;
    Ok(redriven.into_inner().redriven_count)
}

async fn dead_letters(api: &Api) -> Vec<DeadLetter> {
    let request = ListDeadLettersRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        ..ListDeadLettersRequest::default()
    };
    let listed = api.admin.clone().list_dead_letters(request).await.unwrap();
    listed.into_inner().dead_letters
}

/// Offsets of the dead letters, while nothing is there to be delivered.
async fn open(api: &Api) -> Vec<i64> {
    let pulled = pull(api, 1, 0).await;
    assert_eq!(ids(&pulled.deliveries), [""; 0]);
    assert_eq!(pulled.idle(), IdleReason::Empty);
    let counts = describe(api).await.counts.unwrap();
    assert_eq!((counts.in_flight, counts.ready), (0, 0), "{counts:?}");
    let letters = dead_letters(api).await;
    letters.iter().map(|of| of.dead_letter_offset).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_are_named_are_all_redriven_or_none() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        max_redrives: 1,
        ..GroupConfig::default()
    };
    make(&api, config).await;
    publish(&api, &["a", "b", "c"]).await;
    reject_next(&api, 3).await;
    let refused_with = async |offsets: &[i64], code, reason: &str| {
        let before = open(&api).await;
        let refusal = redrive(&api, offsets, false).await.unwrap_err();
        assert_eq!((refusal.code, refusal.reason.as_str()), (code, reason));
        assert_eq!(refusal.field.as_deref(), Some("dead_letter_offsets"));
        assert_eq!(open(&api).await, before, "some of {offsets:?} are gone");
    };
    let unknown = async |offsets| {
        refused_with(offsets, Code::NotFound, "UNKNOWN_DEAD_LETTER").await;
    };

    // One that never was, in the middle and at the end, and one that is redriven.
    unknown(&[0, 7, 1]).await;
    unknown(&[0, 1, 7]).await;
    // One that is named twice is redriven once.
    assert_eq!(redrive(&api, &[0, 0], false).await, Ok(1));
    assert_eq!(reject_next(&api, 1).await, [("a".to_owned(), 1)]);
    assert_eq!(open(&api).await, [1, 2, 3]);
    unknown(&[1, 2, 0]).await;

    // One that was redriven as often as it may be, behind others.
    let limit = Code::FailedPrecondition;
    refused_with(&[1, 2, 3], limit, "REDRIVE_LIMIT").await;
    assert_eq!(redrive(&api, &[1, 2, 3], true).await, Ok(3));
    let mut again = reject_next(&api, 3).await;
    again.sort();
    let expected = [("a", 2), ("b", 1), ("c", 1)].map(|(id, times)| (id.to_owned(), times));
    assert_eq!(again, expected);
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_millis() as i64
}

/// The broker is on this machine, and so are its times.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_tells_when_each_of_its_attempts_ended() {
    let mut broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        retry: Some(RetryPolicy {
            initial_delay: Some(prost_types::Duration::default()),
            ..RetryPolicy::default()
        }),
        ..GroupConfig::default()
    };
    make(&api, config).await;
    publish(&api, &["a"]).await;
    // What is ended when: no sooner than it was asked for, no later than it was answered.
    let mut ended = Vec::new();
    let mut api = api;
    for attempt in 1..=3 {
        let taken = take(&api, 1).await;
        assert_eq!(taken[0].attempt, attempt);
        let action = match attempt {
            3 => reject(),
            _ => Action::Nack(Nack::default()),
        };
        let asked_ms = now_ms();
        assert_eq!(settle(&api, &[&taken[0]], action).await, []);
        ended.push((asked_ms, now_ms()));
        if attempt == 1 {
            // The log tells the first.
            tokio::task::block_in_place(|| broker.restart());
            api = Api::connect(broker.url()).await;
        }
    }
    let letters = dead_letters(&api).await;
    let history = letters[0].history.as_ref().unwrap();
    let told: Vec<_> = history.attempts.iter().map(|of| of.ended_at).collect();
    assert_eq!(told.len(), ended.len());
    for (told, (asked_ms, answered_ms)) in told.iter().zip(ended) {
        let told_ms = millis(*told);
        let plausible = asked_ms..=answered_ms;
        assert!(plausible.contains(&told_ms), "{told_ms} in {plausible:?}");
    }
    assert_eq!(history.dead_lettered_at, told[2], "with the last one");
}

/// By the broker's own times: what it says of the end of one attempt, and of the begin of
/// the next.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_failed_waits_as_long_as_its_group_says_and_longer_each_time() {
    /// What the wall clock, by which times are told, may differ in a few seconds from the
    /// clock by which they last.
    const CLOCK_MS: i64 = 100;
    const DELAYS_MS: [i64; 2] = [1_000, 3_000];
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        retry: Some(RetryPolicy {
            initial_delay: Some(std::time::Duration::from_secs(1).try_into().unwrap()),
            multiplier: 3.0,
            jitter: Some(0.0),
            ..RetryPolicy::default()
        }),
        ..GroupConfig::default()
    };
    make(&api, config).await;
    publish(&api, &["a"]).await;
    let mut taken = take(&api, 1).await;
    let mut begun = Vec::new();
    for _ in DELAYS_MS {
        let nack = Action::Nack(Nack::default());
        assert_eq!(settle(&api, &[&taken[0]], nack).await, []);
        taken = take(&api, 1).await;
        begun.push(millis(describe(&api).await.in_flight_events[0].since));
    }
    assert_eq!(settle(&api, &[&taken[0]], reject()).await, []);
    let letters = dead_letters(&api).await;
    let history = letters[0].history.as_ref().unwrap();
    assert_eq!(history.attempts.len(), 3);
    let waits = history.attempts.iter().zip(begun);
    for ((ended, begun_ms), delay_ms) in waits.zip(DELAYS_MS) {
        let waited_ms = begun_ms - millis(ended.ended_at);
        assert!(waited_ms >= delay_ms - CLOCK_MS, "{waited_ms} ms");
    }
}

async fn explain(api: &Api, offset: i64) -> ExplainEventResponse {
    let request = ExplainEventRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        partition: 0,
        offset,
    };
    let explained = api.admin.clone().explain_event(request).await;
    explained.unwrap().into_inner()
}

/// Whoever asks for an event names its first place, whatever befell it since.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_redriven_is_found_by_its_first_place() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        ..GroupConfig::default()
    };
    make(&api, config).await;
    publish(&api, &["a", "b"]).await;
    reject_next(&api, 2).await;
    let explained = explain(&api, 0).await;
    assert_eq!(explained.state(), EventState::DeadLettered);
    assert_eq!(explained.dead_letter_offset, Some(0));

    assert_eq!(redrive(&api, &[0], false).await, Ok(1));
    let taken = take(&api, 1).await;
    let explained = explain(&api, 0).await;
    assert_eq!(explained.state(), EventState::InFlight, "{explained:?}");
    assert_eq!((explained.attempt, explained.dead_letter_offset), (1, None));
    assert!(!explained.member.is_empty());
    assert!(explained.detail.contains("redriven"), "{explained:?}");
    // In its next life it fails again, and waits for long.
    let later = Action::Nack(Nack {
        delay: Some(prost_types::Duration {
            seconds: 3600,
            nanos: 0,
        }),
        ..Nack::default()
    });
    assert_eq!(settle(&api, &[&taken[0]], later).await, []);
    let explained = explain(&api, 0).await;
    assert_eq!(explained.state(), EventState::Delayed, "{explained:?}");
    assert_eq!(explained.attempt, 2);

    let purge = PurgeDeadLettersRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        dead_letter_offsets: vec![1],
        ..PurgeDeadLettersRequest::default()
    };
    api.admin.clone().purge_dead_letters(purge).await.unwrap();
    let explained = explain(&api, 1).await;
    assert_eq!(explained.state(), EventState::Settled, "it is purged");
    assert_eq!(explained.dead_letter_offset, None);
    // One that is done says nothing of dead letters.
    publish(&api, &["c"]).await;
    let taken = take(&api, 1).await;
    assert_eq!(settle(&api, &[&taken[0]], Action::Ack(Ack {})).await, []);
    let explained = explain(&api, 2).await;
    assert_eq!(explained.detail, "it is done");
}
