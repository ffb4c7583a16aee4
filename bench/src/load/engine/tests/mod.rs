//! The engine against a broker in memory, which is as slow and as wrong as it is
//! told to be.

#![allow(clippy::unwrap_used)]

mod broker;

use self::broker::Slow;
use super::*;
use crate::load::workload::Spec;

fn spec() -> Spec {
    Spec {
        kind: Kind::EndToEnd,
        event_bytes: 64,
        rate: 500.0,
        outstanding: 10_000,
        groups: 1,
        members: 1,
        seconds: 1.0,
        warmup_seconds: 0.2,
        ..Spec::default()
    }
}

/// What is there before the members come.
fn drain() -> Spec {
    Spec {
        kind: Kind::Drain,
        events: 1000,
        patience_seconds: 0.5,
        ..spec()
    }
}

fn chain() -> Spec {
    Spec {
        kind: Kind::Chain,
        stages: 3,
        patience_seconds: 2.0,
        ..spec()
    }
}

fn filtered() -> Spec {
    Spec {
        payload: Payload::Json,
        event_bytes: 200,
        labels: 10,
        filter: "event.label == \"0\"".into(),
        ..drain()
    }
}

async fn outcome_of(slow: Slow, spec: &Spec) -> Outcome {
    run(slow.target(), spec).await.unwrap()
}

/// Why the figures of a broker are not taken.
async fn refusal(slow: Slow, spec: &Spec) -> String {
    let error = run(slow.target(), spec).await.unwrap_err();
    format!("{error:#}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_delay_is_in_every_latency() {
    let slow = Slow {
        delay: Duration::from_millis(50),
        ..Slow::new()
    };
    let outcome = outcome_of(slow, &spec()).await;
    // It can only be later than that.
    assert!(outcome.acks.min() >= 50_000, "{}", outcome.acks.min());
    assert!(outcome.deliveries.min() >= 50_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_of_some_is_in_the_percentiles_of_those() {
    let slow = Slow {
        delay: Duration::from_millis(100),
        delays_one_in: 20,
        ..Slow::new()
    };
    let outcome = outcome_of(slow, &spec()).await;
    let all = outcome.acks.len();
    let late = all - outcome.acks.count_between(1, 99_000);
    // Of about 500, of which the first that counts may be any.
    assert!(late >= all / 20, "{late} of {all}");
    assert!(outcome.acks.value_at_quantile(0.96) >= 99_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_that_was_due_in_a_stall_has_waited_for_its_end() {
    // From 0.4 s to 0.9 s: half of the measured second.
    let slow = Slow {
        stall: Duration::from_millis(400)..Duration::from_millis(900),
        ..Slow::new()
    };
    // One at a time, so that a bench that waits for its broker before it
    // sends the next would see the stall once.
    let spec = Spec {
        outstanding: 1,
        ..spec()
    };
    let outcome = outcome_of(slow, &spec).await;
    // Of the 500 events of the second, 250 were due in the stall, the first
    // of which waits 500 ms; the 150 that were due in its first 300 ms wait
    // for 200 ms at least.
    let long = outcome.deliveries.len() - outcome.deliveries.count_between(1, 199_000);
    assert!(long >= 145, "only {long} events have waited");
    let all = outcome.deliveries.len();
    assert!((495..=501).contains(&all), "{all} events were due");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_come_out_as_went_in() {
    let spec = Spec {
        batch: 7,
        members: 3,
        producers: 2,
        ..spec()
    };
    let open = outcome_of(Slow::new(), &spec).await;
    assert!(open.published > 0 && open.consumed > 0);
    let spec = Spec {
        groups: 3,
        patience_seconds: 10.0,
        ..drain()
    };
    assert_eq!(outcome_of(Slow::new(), &spec).await.consumed, 3 * 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_loses_or_doubles_an_event_has_no_figures() {
    let short = Spec {
        patience_seconds: 0.5,
        ..spec()
    };
    for spec in [drain(), short] {
        let losing = Slow {
            loses: Some(100),
            ..Slow::new()
        };
        let why = refusal(losing, &spec).await;
        assert!(why.contains("have not arrived"), "{why}");
    }
    let doubling = Slow {
        doubles: Some(500),
        ..Slow::new()
    };
    let why = refusal(doubling, &drain()).await;
    assert!(why.contains("twice"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_takes_the_time_of_all_its_stages() {
    let slow = Slow {
        delay: Duration::from_millis(20),
        ..Slow::new()
    };
    let outcome = outcome_of(slow, &chain()).await;
    let least = outcome.deliveries.min();
    assert!(least >= 60_000, "{least} µs for three stages of 20 ms");
    assert!(outcome.acks.min() >= 20_000);
    let last = outcome.samples.last().unwrap();
    assert!(last.sent > 0);
    assert_eq!(last.done, [last.sent; 3], "every stage has done all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_loses_an_event_between_stages_has_no_figures() {
    let losing = Slow {
        loses: Some(100),
        // What the first stage has published.
        numbered: "bench-1",
        ..Slow::new()
    };
    let why = refusal(losing, &chain()).await;
    assert!(why.contains("have not arrived"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_counts_from_the_start_and_expects_all_that_was_acked() {
    let spec = Spec {
        kind: Kind::Recovery,
        ..drain()
    };
    let slow = Slow {
        opening: Duration::from_millis(300),
        ..Slow::new()
    };
    let outcome = outcome_of(slow, &spec).await;
    assert!(outcome.ready.unwrap() >= Duration::from_millis(300));
    // What was there, and the one that shows that it is ready.
    assert_eq!(outcome.consumed, 1001);
    let refusing = Slow {
        refuses: 3,
        ..Slow::new()
    };
    let outcome = outcome_of(refusing, &spec).await;
    assert!(outcome.ready.unwrap() >= 3 * UNREADY);
    assert_eq!(outcome.consumed, 1001);
    let forgetful = Slow {
        forgets: 1,
        ..Slow::new()
    };
    let why = refusal(forgetful, &spec).await;
    assert!(why.contains("have not arrived"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_has_to_pass_what_it_should_and_nothing_else() {
    // What was left out counts as well.
    let right = outcome_of(Slow::new(), &filtered()).await;
    assert_eq!(right.consumed, 1000);
    let losing = Slow {
        // Number 500 from zero, so that its label is "0".
        loses: Some(501),
        ..Slow::new()
    };
    let why = refusal(losing, &filtered()).await;
    assert!(why.contains("have not arrived"), "{why}");
    let lax = Slow {
        filters: false,
        ..Slow::new()
    };
    let why = refusal(lax, &filtered()).await;
    assert!(why.contains("the filter passed event 1"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_leave_out_what_a_broker_without_filters_does_not() {
    let lax = Slow {
        filters: false,
        ..Slow::new()
    };
    let spec = Spec {
        filter_in_client: true,
        ..filtered()
    };
    assert_eq!(outcome_of(lax, &spec).await.consumed, 1000);
    // Number 500 from zero.
    let losing = Slow {
        loses: Some(501),
        filters: false,
        ..Slow::new()
    };
    let why = refusal(losing, &spec).await;
    assert!(why.contains("have not arrived"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_of_few_batches_is_measured_for_longer_or_refused() {
    let spec = Spec {
        kind: Kind::Publish,
        rate: 0.0,
        outstanding: 1,
        seconds: 0.1,
        warmup_seconds: 0.0,
        groups: 0,
        members: 0,
        ..spec()
    };
    // Too slow at first, and quick with a server that is started for the longer
    // time.
    let mut delays = [300, 0].into_iter().map(Duration::from_millis);
    let start = || {
        let delay = delays.next().unwrap();
        anyhow::Ok(
            Slow {
                delay,
                ..Slow::new()
            }
            .target(),
        )
    };
    let enough = measure(start, &spec).await.unwrap();
    assert!(enough.batches >= FEWEST_BATCHES, "{}", enough.batches);
    assert_eq!(enough.time, spec.longer(LONGEST).time());
    // Even ten times the time is not enough for this one.
    let delay = Duration::from_millis(300);
    let start = || {
        anyhow::Ok(
            Slow {
                delay,
                ..Slow::new()
            }
            .target(),
        )
    };
    let error = measure(start, &spec).await.unwrap_err().to_string();
    assert!(error.contains("too few to tell a rate"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_somebody_else_has_started_keeps_no_topics_and_is_not_looked_at() {
    for loses in [None, Some(3)] {
        let slow = Arc::new(Slow {
            loses,
            is_ours: false,
            ..Slow::new()
        });
        let spec = Spec {
            patience_seconds: 1.0,
            ..spec()
        };
        let outcome = run(slow.clone(), &spec).await;
        assert_eq!(outcome.is_err(), loses.is_some());
        assert!(outcome.is_ok_and(|outcome| outcome.server.is_none()) || loses.is_some());
        assert_eq!(slow.topics(), 0);
    }
}
