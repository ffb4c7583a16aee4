//! Random filters over random payloads: no panic, none over its budget.
//!
//! `SLUICE_FUZZ_FILTERS` says how many filters, `SLUICE_FUZZ_EVENTS` how many
//! events for each, `SLUICE_FUZZ_SEED` which ones. A long run and what came of
//! it is in `tests/results/filter-fuzz.md`.

mod sources;

use std::{
    env, thread,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{Event, Filter, event};
use crate::filter::{EVALUATION_STACK_BYTES, EvaluationError, budget::STEPS_MAX};

fn payload(random: &mut StdRng) -> Event {
    let kinds = ["application/json", "application/json", "text/plain", ""];
    let kind = kinds[random.random_range(0..kinds.len())];
    let many = random.random_range(0..40);
    let list = vec!["[1, \"a\", 2.5, null]"; many].join(",");
    let text = "ab%sé ".repeat(random.random_range(0..60));
    let mut bytes = format!(
        "{{\"a\": {{\"b\": 1e30}}, \"list\": [{list}], \"text\": \"{text}\", \"a\": 9223372036854775808}}"
    )
    .into_bytes();
    match random.random_range(0..6) {
        0 => {
            for _ in 0..random.random_range(1..8) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
        }
        1 => bytes.truncate(random.random_range(0..bytes.len())),
        2 => bytes = "[".repeat(random.random_range(1..2000)).into_bytes(),
        _ => {}
    }
    event(kind, bytes, random.random_bool(0.5))
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[derive(Default)]
struct Seen {
    filters: u64,
    refused: u64,
    events: u64,
    matched: u64,
    dropped: u64,
    errors: u64,
    over_budget: u64,
    most_steps: u64,
    longest: Duration,
    longest_source: String,
}

fn run(filters: u64, events: u64, seed: u64) -> Seen {
    let mut seen = Seen::default();
    for at in 0..filters {
        // Each by itself, so that one can be tried again.
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(at));
        let source = sources::any(&mut random);
        seen.filters += 1;
        let Ok(filter) = Filter::compile(&source) else {
            seen.refused += 1;
            continue;
        };
        for _ in 0..events {
            let event = payload(&mut random);
            let event = event.read();
            let subject = filter.subject(&event, 1);
            let start = Instant::now();
            let verdicts: Vec<_> = filter
                .terms()
                .iter()
                .map(|t| t.evaluate(&subject))
                .collect();
            let took = start.elapsed();
            if took > seen.longest {
                seen.longest = took;
                seen.longest_source.clone_from(&source);
            }
            seen.events += 1;
            seen.most_steps = seen.most_steps.max(STEPS_MAX - subject.budget().left());
            for verdict in &verdicts {
                let panicked = *verdict == Err(EvaluationError::Panicked);
                assert!(!panicked, "seed {}: {source}", seed.wrapping_add(at));
            }
            if verdicts.contains(&Err(EvaluationError::OverBudget)) {
                seen.over_budget += 1;
            } else if verdicts.contains(&Ok(false)) {
                seen.dropped += 1;
            } else if verdicts.iter().any(Result::is_err) {
                seen.errors += 1;
            } else {
                seen.matched += 1;
            }
        }
    }
    seen
}

#[test]
fn random_filters_neither_panic_nor_exceed_their_budget() {
    let filters = number("SLUICE_FUZZ_FILTERS", 500);
    let events = number("SLUICE_FUZZ_EVENTS", 20);
    let seed = number("SLUICE_FUZZ_SEED", 1);
    let thread = thread::Builder::new().stack_size(EVALUATION_STACK_BYTES);
    let seen = thread
        .spawn(move || run(filters, events, seed))
        .unwrap()
        .join()
        .unwrap();
    let longest: String = seen.longest_source.chars().take(300).collect();
    println!(
        "seed {seed}: {} filters, {} refused; {} evaluations: {} matched, {} dropped, {} errors, \
         {} stopped at the budget; most steps {} of {STEPS_MAX}; longest {:?}: {longest}",
        seen.filters,
        seen.refused,
        seen.events,
        seen.matched,
        seen.dropped,
        seen.errors,
        seen.over_budget,
        seen.most_steps,
        seen.longest,
    );
    assert!(seen.matched > 0 && seen.dropped > 0 && seen.errors > 0);
    assert!(seen.most_steps <= STEPS_MAX);
}
