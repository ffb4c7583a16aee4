//! Filters and payloads that want to hurt.

use std::thread;

use super::{Event, Filter, event};
use crate::filter::{EVALUATION_STACK_BYTES, EvaluationError, budget::STEPS_MAX};

/// Expressions that would take hours, or all memory, if nothing stopped them.
const ENDLESS: &[&str] = &[
    "event.data.all(x, event.data.all(y, x == y || event.data == []))",
    "event.data.map(x, event.data) == []",
    "event.data.map(x, event.data + event.data) == []",
    "event.data.exists(x, event.data.filter(y, event.data.size() == 0) == [])",
    "event.data.all(x, x in event.data) || true",
    "event.data.exists_one(x, [event.data, event.data, event.data].size() == 0)",
    "event.data.map(x, event.data == event.data) == []",
    "event.data.map(x, {'a': event.data}).size() > 0",
    "event.data.all(x, string(event.data[0]).size() + size(event.data.map(y, y)) >= 0)",
];

/// How an expression ends that would make much of little.
#[derive(Clone, Copy, Debug)]
enum End {
    /// A bound on one of its values.
    Refused,
    /// The budget of its steps.
    Stopped,
    /// It has a result, and the text that it went through was counted.
    Counted,
}

const LARGE: &[(End, &str)] = &[
    (End::Refused, "event.data.replace('', event.data) == ''"),
    (
        End::Refused,
        "event.data.split('').map(x, event.data).join(event.data) == ''",
    ),
    (End::Refused, "event.data.indexOf(event.data + 'b') == 0"),
    (
        End::Counted,
        "'%s%s%s'.format([event.data, event.data, event.data]) == ''",
    ),
    (End::Stopped, "event.data.matches('(a?){500}(a){500}$')"),
    (End::Refused, "event.data.matches(event.data)"),
    (
        End::Counted,
        "(event.data + event.data + event.data + event.data).size() == 0",
    ),
    (
        End::Refused,
        "event.data.split('').all(x, event.data.contains(event.data))",
    ),
    (
        End::Refused,
        "event.data.split('').exists(x, event.data.matches(x + '(a|b|c|d){40}'))",
    ),
    (
        End::Refused,
        "event.data.split('').map(x, strings.quote(event.data)) == []",
    ),
    (
        End::Counted,
        "event.data.reverse().lowerAscii().upperAscii().trim() == event.data",
    ),
];

fn judge(source: &str, event: &Event) -> (Result<bool, EvaluationError>, u64) {
    let filter = Filter::compile(source).unwrap();
    let event = event.read();
    let subject = filter.subject(&event, 1);
    let verdict = filter.terms()[0].evaluate(&subject);
    (verdict, STEPS_MAX - subject.budget().left())
}

fn nested(source: &str) -> String {
    source.replace("event.data.", "event.data.filter(z, true).")
}

#[test]
fn what_would_not_end_is_stopped() {
    let numbers = format!("[{}1]", "1,".repeat(20_000));
    let event = event("application/json", numbers, false);
    for source in ENDLESS {
        for source in [
            (*source).to_owned(),
            format!("{source} || true"),
            nested(source),
        ] {
            let Ok(filter) = Filter::compile(&source) else {
                continue;
            };
            // Over its budget, or decided early; never more than its budget.
            let read = event.read();
            let judged = filter.matches(&read);
            let stopped = judged == Err(EvaluationError::OverBudget);
            assert!(
                stopped || source.ends_with("|| true"),
                "{source}: {judged:?}"
            );
        }
    }
}

#[test]
fn what_makes_much_of_little_is_stopped_or_refused() {
    const BYTES: u64 = 1 << 20;
    /// A step is at least one for so many bytes.
    const BYTES_PER_STEP: u64 = 64;
    let text = "a".repeat(BYTES as usize);
    let event = event("text/plain", text, false);
    for (end, source) in LARGE {
        let (judged, steps) = judge(source, &event);
        let is_so = match (end, &judged) {
            (End::Refused, Err(EvaluationError::Cel(why))) => why.contains("limit"),
            (End::Stopped, Err(EvaluationError::OverBudget)) => true,
            (End::Counted, Ok(false)) => steps >= BYTES / BYTES_PER_STEP,
            _ => false,
        };
        assert!(
            is_so,
            "{source}: {judged:?} after {steps} steps, not {end:?}"
        );
    }
}

#[test]
fn an_overrun_is_not_hidden_by_what_is_around_it() {
    let numbers = format!("[{}1]", "1,".repeat(300_000));
    let event = event("application/json", numbers, false);
    for source in [
        "true || event.data.all(x, x == 1)",
        "event.data.all(x, x == 1) || true",
        "event.data.all(x, x == 1) || event.type == 'image.ready'",
        "event.data.exists(x, x == 2) ? true : true",
    ] {
        let (judged, _) = judge(source, &event);
        // What is decided before the loop may be decided.
        if !source.starts_with("true") {
            assert_eq!(judged, Err(EvaluationError::OverBudget), "{source}");
        }
    }
}

#[test]
fn the_deepest_filters_fit_on_the_stack_that_the_broker_gives_its_threads() {
    let on_such_a_stack = thread::Builder::new()
        .stack_size(EVALUATION_STACK_BYTES)
        .spawn(evaluate_the_deepest_filters);
    on_such_a_stack.unwrap().join().unwrap();
}

fn evaluate_the_deepest_filters() {
    // Compilation fails where a bound is, so the deepest that pass are tried.
    let shapes: [fn(usize) -> String; 7] = [
        |n| format!("{}event.data.x{} == 1", "(1 + ".repeat(n), ")".repeat(n)),
        |n| format!("{}event.data.x == 1", "!(".repeat(n)) + &")".repeat(n),
        |n| format!("{}event.data.x{} == 1", "[".repeat(n), "]".repeat(n)),
        |n| {
            format!(
                "{}true{}",
                "(event.type == 'x' || ".repeat(n),
                ")".repeat(n)
            )
        },
        |n| format!("{}event.type{} == 'x'", "string(".repeat(n), ")".repeat(n)),
        |n| format!("{}true{}", "true ? (".repeat(n), ") : false".repeat(n)),
        |n| format!("event.data{} == 1", "[0]".repeat(n)),
    ];
    let deep = format!("{}1{}", "[".repeat(126), "]".repeat(126));
    let deep = event("application/json", deep, true);
    for shape in shapes {
        let deepest = (1..70).rev().find_map(|n| Filter::compile(&shape(n)).ok());
        let filter = deepest.unwrap();
        let _ = filter.matches(&deep.read());
    }
    for source in [
        "event.data == event.data",
        "event.data.map(x, [x, event.data]) == [event.data]",
        "event == event",
    ] {
        let _ = judge(source, &deep);
    }
}

#[test]
fn payloads_that_are_huge_deep_or_broken_are_errors_of_the_terms_that_read_them() {
    let payloads: [(&str, Vec<u8>); 8] = [
        ("large", format!("[{}1]", "1,".repeat(1 << 20)).into_bytes()),
        ("deep", "[".repeat(100_000).into_bytes()),
        ("cut", b"{\"a\": ".to_vec()),
        ("no UTF-8", b"{\"a\": \"\xff\"}".to_vec()),
        ("NaN", b"{\"a\": NaN}".to_vec()),
        ("too great", b"{\"a\": 1e400}".to_vec()),
        ("surrogate", b"{\"a\": \"\\ud800\"}".to_vec()),
        ("nothing", Vec::new()),
    ];
    for (name, payload) in payloads {
        let event = event("application/json", payload, false);
        let (judged, _) = judge("event.data.a == 1", &event);
        assert!(
            matches!(judged, Err(EvaluationError::Data(_))),
            "{name}: {judged:?}"
        );
        let (judged, _) = judge("size(event.data.a) == 1", &event);
        assert!(
            matches!(judged, Err(EvaluationError::Data(_))),
            "{name}: {judged:?}"
        );
        // A term that does not read it is not concerned.
        let filter = Filter::compile("event.data.a == 1 && event.type == 'other'").unwrap();
        assert_eq!(filter.matches(&event.read()), Ok(false), "{name}");
    }
    for (json, source) in [
        (r#"{"a": 1, "a": 2}"#, "event.data.a == 2"),
        (r#"{"a": {"b": 1}, "a": 2}"#, "event.data.a == 2"),
        (
            r#"{"a": 9223372036854775808}"#,
            "event.data.a == 9223372036854775808.0",
        ),
        (
            r#"{"a": 9223372036854775807}"#,
            "event.data.a == 9223372036854775807",
        ),
    ] {
        let event = event("application/json", json, false);
        assert_eq!(judge(source, &event).0, Ok(true), "{json}");
    }
}
