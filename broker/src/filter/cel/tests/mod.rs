//! Runs the CEL specification's own tests through the path that filters take.
//! `cel-core.json` is from cel-expr/cel-spec, Apache License 2.0.

#![allow(clippy::unwrap_used)]

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::Arc,
    thread,
};

use cel::{
    Context, Value,
    common::value::Val,
    objects::{Key, Map},
};
use chrono::{DateTime, TimeDelta};
use prost::Message;
use serde::Deserialize;
use sluice_proto::{event::EventRef, pb};

use super::{compile_over, leaf, meter, parse, value::Variables};
use crate::filter::{COMPILE_STACK_BYTES, EvaluationError, Filter, FilterError, one_line};

const CASES: &str = include_str!("cel-core.json");
const DOCUMENT: &str = include_str!("../CONFORMANCE.md");

#[derive(Deserialize)]
struct Case {
    file: String,
    section: String,
    name: String,
    expr: String,
    bind: BTreeMap<String, serde_json::Value>,
    want: serde_json::Value,
}

thread_local! {
    static BOUND: RefCell<HashMap<String, Value>> = RefCell::default();
}

/// A variable of the case that runs on this thread.
pub(super) fn bound(name: &str) -> Option<Box<dyn Val>> {
    let value = BOUND.with_borrow(|bound| bound.get(name).cloned())?;
    value.try_into().ok()
}

/// A value of the data.
fn value(json: &serde_json::Value) -> Value {
    let (kind, of) = json.as_object().unwrap().iter().next().unwrap();
    let text = || of.as_str().unwrap();
    let pair = || {
        let part = |at: usize| {
            let part = of[at].as_i64();
            part.unwrap_or_else(|| of[at].as_str().unwrap().parse().unwrap())
        };
        (part(0), part(1))
    };
    match kind.as_str() {
        "null" => Value::Null,
        "bool" => Value::Bool(of.as_bool().unwrap()),
        "int" => Value::Int(text().parse().unwrap()),
        "uint" => Value::UInt(text().parse().unwrap()),
        "double" => Value::Float(text().parse().unwrap()),
        "string" => Value::String(Arc::new(text().to_owned())),
        "bytes" => {
            let bytes = of.as_array().unwrap().iter();
            Value::Bytes(Arc::new(bytes.map(|b| b.as_u64().unwrap() as u8).collect()))
        }
        "list" => Value::List(Arc::new(of.as_array().unwrap().iter().map(value).collect())),
        "map" => {
            let entries = of.as_array().unwrap().iter();
            let map = entries.map(|entry| (key(&value(&entry[0])), value(&entry[1])));
            Value::Map(Map {
                map: Arc::new(map.collect()),
            })
        }
        "dur" => {
            let (seconds, nanos) = pair();
            Value::Duration(TimeDelta::seconds(seconds) + TimeDelta::nanoseconds(nanos))
        }
        "ts" => {
            let (seconds, nanos) = pair();
            let time = DateTime::from_timestamp(seconds, nanos as u32).unwrap();
            Value::Timestamp(time.fixed_offset())
        }
        other => panic!("a value of kind {other}"),
    }
}

fn key(value: &Value) -> Key {
    match value {
        Value::Int(i) => Key::Int(*i),
        Value::UInt(u) => Key::Uint(*u),
        Value::Bool(b) => Key::Bool(*b),
        Value::String(s) => Key::String(s.clone()),
        other => panic!("a key {other:?}"),
    }
}

#[derive(Debug)]
enum Outcome {
    Passed,
    Refused(String),
    Failed(String),
}

fn is_nan(value: &Value) -> bool {
    matches!(value, Value::Float(f) if f.is_nan())
}

/// Types of the same kind, and equal.
fn same(got: &Value, want: &Value) -> bool {
    (is_nan(got) && is_nan(want))
        || (got.type_of().to_string() == want.type_of().to_string() && got == want)
}

/// Compiles as filters are compiled: with a large stack. What is compiled is then
/// evaluated with the stack that tests have, which is that of tokio's threads.
pub(super) fn with_large_stack<T: Send>(compile: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        thread::Builder::new()
            .stack_size(COMPILE_STACK_BYTES)
            .spawn_scoped(scope, compile)
            .unwrap()
            .join()
            .unwrap()
    })
}

fn run(case: &Case) -> Outcome {
    // A variable may be called "a.b".
    let names: Vec<&str> = (case.bind.keys())
        .flat_map(|name| name.split('.').next())
        .collect();
    let terms = match with_large_stack(|| compile_over(&case.expr, &names)) {
        Ok(terms) => terms,
        Err(FilterError::Pattern { .. }) if case.want.get("error").is_some() => {
            return Outcome::Passed;
        }
        Err(FilterError::Parse(error)) => return Outcome::Failed(error),
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    BOUND.set(
        case.bind
            .iter()
            .map(|(name, json)| (name.clone(), value(json)))
            .collect(),
    );
    let encoded = pb::Event::default().encode_to_vec();
    let event = EventRef::read(&encoded).unwrap();
    let judged = Filter::of(terms).matches(&event);

    // The value itself, which a filter does not give.
    let parsed = |source: &str| with_large_stack(|| parse(source).unwrap());
    let mut expression = parsed(&case.expr);
    meter::build_in(&mut expression);
    let variables = Variables {
        event: Box::new(cel::common::types::CelNull),
    };
    let mut context = Context::with_env(leaf::ENV.clone());
    context.set_variable_resolver(&variables);
    let evaluated = leaf::run_with(&expression, &context);

    let failed = |got: String| Outcome::Failed(got);
    if case.want.get("error").is_some() {
        return match (judged, evaluated) {
            (Err(_), Err(_)) => Outcome::Passed,
            (judged, evaluated) => failed(format!("no error, but {judged:?}, {evaluated:?}")),
        };
    }
    if let Some(name) = case.want.get("type") {
        let name = name.as_str().unwrap();
        let (shown, want) = (parsed(&case.expr), parsed(name));
        let type_of = |expression| leaf::run_with(expression, &context);
        return match (type_of(&shown), type_of(&want)) {
            (Ok(got), Ok(want)) if got == want => Outcome::Passed,
            (got, want) => failed(format!("{got:?}, not {want:?}")),
        };
    }
    let want = value(&case.want);
    match (&want, judged, evaluated) {
        (Value::Bool(want), Ok(judged), Ok(Value::Bool(evaluated)))
            if *want == judged && *want == evaluated =>
        {
            Outcome::Passed
        }
        (Value::Bool(_), judged, evaluated) => failed(format!("{judged:?}, {evaluated:?}")),
        (want, Err(EvaluationError::NotBool(_)), Ok(got)) if same(&got, want) => Outcome::Passed,
        (_, judged, evaluated) => failed(format!("{judged:?}, {evaluated:?}")),
    }
}

/// The part of the document that is made by the test.
fn report(cases: &[Case], outcomes: &[Outcome]) -> String {
    let mut lines = [String::new(), String::new()];
    let mut counts = [0_usize; 3];
    for (case, outcome) in cases.iter().zip(outcomes) {
        let (at, why) = match outcome {
            Outcome::Passed => {
                counts[0] += 1;
                continue;
            }
            Outcome::Refused(why) => (0, why),
            Outcome::Failed(why) => (1, why),
        };
        counts[at + 1] += 1;
        let Case {
            file,
            section,
            name,
            ..
        } = case;
        let why: String = why.chars().take(100).collect();
        writeln!(
            lines[at],
            "- {file}/{section}/{name}: `{}`: {why}",
            one_line(&case.expr)
        )
        .unwrap();
    }
    let [passed, refused, failed] = counts;
    format!(
        "Of {} cases {passed} pass, {refused} are refused by a bound, and {failed} fail.\n\n\
         ## Refused\n\n{}\n## Failing\n\n{}",
        cases.len(),
        lines[0],
        lines[1]
    )
}

#[test]
fn the_tests_of_the_specification_pass_but_for_those_that_are_named() {
    let cases: Vec<Case> = serde_json::from_str(CASES).unwrap();
    assert_eq!(cases.len(), 759);
    let outcomes: Vec<Outcome> = cases.iter().map(run).collect();
    let passed = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Outcome::Passed))
        .count();
    let report = report(&cases, &outcomes);
    let documented = DOCUMENT
        .split_once("\n\nOf ")
        .map(|(_, rest)| rest.trim_end());
    let happened = report.strip_prefix("Of ").map(str::trim_end);
    assert!(
        documented == happened,
        "broker/src/filter/cel/CONFORMANCE.md does not say what happens:\n\n{report}"
    );
    assert!(passed * 100 >= cases.len() * 97, "only {passed} pass");
}
