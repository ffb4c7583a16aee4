//! An event that kills each worker that takes it.

use std::collections::BTreeMap;

use sluice_proto::pb::{AttemptEnd, ConnectionLoss, GroupConfig, RetryPolicy};
use sluice_tests::task::{End, Task};

use super::{broker, config, crew::Crew, crew::Word, dead_letters, lag, ms};

const EVENTS: usize = 1000;
const POISON: &str = "e500";
const MAX_ATTEMPTS: i32 = 3;

/// One poisonous event kills worker after worker, and nobody counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killing_event_among_a_thousand_is_a_dead_letter_and_hurts_no_other() {
    let at_once = GroupConfig {
        on_connection_loss: ConnectionLoss::AtOnce.into(),
        retry: Some(RetryPolicy {
            max_attempts: MAX_ATTEMPTS,
            ..config().retry.unwrap()
        }),
        lease_duration: ms(60_000),
        ..config()
    };
    let (broker, api) = broker(1, at_once).await;
    let task = |end| Task {
        ms: 1,
        end,
        nacks: 0,
    };
    let events = (0..EVENTS).map(|number| match format!("e{number}") {
        id if id == POISON => task(End::Die).event(&id),
        id => task(End::Ack).event(&id),
    });
    api.publish("in", events.collect()).await.unwrap();

    let crew = Crew::of(broker.url());
    let mut workers: Vec<_> = (0..4).map(|n| crew.start(&format!("w{n}"), 10)).collect();
    let mut deaths = 0;
    while lag(&api).await > 0 {
        for worker in &mut workers {
            if worker.has_ended() {
                deaths += 1;
                *worker = crew.start(&format!("again-{deaths}"), 10);
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let said = tokio::task::block_in_place(|| crew.end(workers));

    let mut taken: BTreeMap<String, (u32, i32)> = BTreeMap::new();
    for said in said {
        if let Word::Took { id, attempt, .. } = said.word {
            let (times, last) = taken.entry(id).or_default();
            *times += 1;
            *last = attempt.max(*last);
        }
    }
    println!("{deaths} workers died of {POISON}");
    let letters = dead_letters(&api).await;
    assert_eq!(letters.len(), 1, "one dead letter");
    assert_eq!(letters[0].event.as_ref().unwrap().id, POISON);
    let history = letters[0].history.as_ref().unwrap();
    assert_eq!(history.attempt_count, MAX_ATTEMPTS);
    let counted = history.attempts.iter().filter(|attempt| !attempt.uncounted);
    assert_eq!(counted.count() as i32, MAX_ATTEMPTS);
    let lost = |end| end == AttemptEnd::ConnectionLost;
    assert!(history.attempts.iter().all(|attempt| lost(attempt.end())));

    // Once among its neighbours, unless it was alone, and then as often as the
    // group's attempts.
    let (times, _) = taken.remove(POISON).unwrap();
    assert_eq!(times as usize, history.attempts.len(), "{history:?}");
    assert!((3..=4).contains(&times), "{times} workers died");
    assert_eq!(taken.len(), EVENTS - 1);
    let worst = taken.iter().max_by_key(|(_, (times, _))| *times).unwrap();
    assert!(worst.1.0 <= 2, "{worst:?} was hurt");
    let blamed = taken.values().filter(|(_, attempt)| *attempt > 1).count();
    assert_eq!(blamed, 0, "others were counted an attempt");
}
