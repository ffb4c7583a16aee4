//! The specification's own tests, as they are in its repository
//! (`tests/data/cesql_tck`, with its licence), through the parser and evaluator
//! and through the filter that the dialect `sql` makes of them.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path};

use chrono::DateTime;
use prost::Message;
use serde::Deserialize;
use serde_json::Value as Yaml;
use sluice_proto::{event::EventRef, pb};

use super::{ErrorKind, Evaluated, Expression, Value};
use crate::filter::{Dialect, EvaluationError, Filter, budget::Budget};

/// Cases in the kit.
const CASES: usize = 275;

#[derive(Deserialize)]
struct Suite {
    name: String,
    tests: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    name: String,
    expression: Yaml,
    result: Option<Yaml>,
    error: Option<String>,
    #[serde(default)]
    event: BTreeMap<String, Yaml>,
    #[serde(default)]
    event_overrides: BTreeMap<String, Yaml>,
}

#[test]
fn the_test_kit_of_the_specification_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/cesql_tck");
    let (mut cases, mut misses) = (0, Vec::new());
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let suite: Suite = serde_saphyr::from_str(&text).unwrap();
        for case in suite.tests {
            cases += 1;
            if let Err(miss) = case.check() {
                misses.push(format!("{} / {}: {miss}", suite.name, case.name));
            }
        }
    }
    assert_eq!(cases, CASES);
    assert!(misses.is_empty(), "{}", misses.join("\n"));
}

impl Case {
    fn check(&self) -> Result<(), String> {
        let expression = match &self.expression {
            Yaml::String(source) => source.clone(),
            // `expression: TRUE` is a boolean to YAML, `expression: 0` a number.
            other => other.to_string(),
        };
        let event = self.event();
        let event = EventRef::read(&event).unwrap();
        let filter = Filter::of_dialects(&[Dialect::Sql(expression.clone())]);
        let parsed = match Expression::parse(&expression) {
            Ok(parsed) => parsed,
            Err(_) if self.error.as_deref() == Some("parse") && filter.is_err() => return Ok(()),
            Err(error) => return Err(format!("{error}, filter: {filter:?}")),
        };
        let evaluated = parsed.evaluate(&event, &Budget::default());
        self.check_evaluated(&evaluated)?;

        let Evaluated { value, errors } = evaluated;
        let verdict = filter.map(|filter| filter.matches(&event));
        let as_filter = match (&value, errors.is_empty()) {
            // The filter says at once that there is no such function.
            _ if errors.iter().any(|e| e.kind == ErrorKind::MissingFunction) => verdict.is_err(),
            (Value::Boolean(holds), true) => verdict == Ok(Ok(*holds)),
            (_, true) => matches!(verdict, Ok(Err(EvaluationError::NotBool(_)))),
            (_, false) => matches!(verdict, Ok(Err(EvaluationError::Cesql(_)))),
        };
        if as_filter {
            Ok(())
        } else {
            Err(format!(
                "{value:?}, {errors:?}, but the filter: {verdict:?}"
            ))
        }
    }

    fn check_evaluated(&self, evaluated: &Evaluated) -> Result<(), String> {
        let kinds: Vec<_> = evaluated
            .errors
            .iter()
            .map(|error| kind(error.kind))
            .collect();
        let right_error = match &self.error {
            Some(wanted) => kinds.contains(&wanted.as_str()),
            None => kinds.is_empty(),
        };
        let right_value = match &self.result {
            None => true,
            Some(Yaml::Bool(wanted)) => evaluated.value == Value::Boolean(*wanted),
            Some(Yaml::Number(wanted)) => {
                matches!(evaluated.value, Value::Integer(is) if wanted.as_i64() == Some(is.into()))
            }
            Some(Yaml::String(wanted)) => match &evaluated.value {
                Value::String(is) => is == wanted || same_instant(is, wanted),
                _ => false,
            },
            Some(_) => false,
        };
        if right_error && right_value {
            Ok(())
        } else {
            Err(format!("{evaluated:?}"))
        }
    }

    /// The event, encoded. What the case does not say is anything valid.
    fn event(&self) -> Vec<u8> {
        let mut event = pb::Event {
            id: "any".into(),
            source: "/any".into(),
            r#type: "any".into(),
            ..Default::default()
        };
        for (name, value) in self.event.iter().chain(&self.event_overrides) {
            let typed = match value {
                Yaml::Bool(boolean) => pb::attribute_value::Value::Boolean(*boolean),
                Yaml::Number(integer) => {
                    let integer = integer.as_i64().unwrap().try_into().unwrap();
                    pb::attribute_value::Value::Integer(integer)
                }
                Yaml::String(text) => {
                    let text = text.clone();
                    match name.as_str() {
                        "specversion" => assert_eq!(text, "1.0"),
                        "id" => event.id = text,
                        "source" => event.source = text,
                        "type" => event.r#type = text,
                        "subject" => event.subject = text,
                        "time" => {
                            let time = DateTime::parse_from_rfc3339(&text).unwrap();
                            event.time = Some(prost_types::Timestamp {
                                seconds: time.timestamp(),
                                nanos: 0,
                            });
                        }
                        _ => drop(event.attributes.insert(name.clone(), text)),
                    }
                    continue;
                }
                other => panic!("{name} is {other}"),
            };
            let value = pb::AttributeValue { value: Some(typed) };
            event.typed_attributes.insert(name.clone(), value);
        }
        event.encode_to_vec()
    }
}

fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Math => "math",
        ErrorKind::Cast => "cast",
        ErrorKind::MissingAttribute => "missingAttribute",
        ErrorKind::MissingFunction => "missingFunction",
        ErrorKind::Function => "functionEvaluation",
        ErrorKind::OverBudget => "generic",
    }
}

/// The one time in the kit is a YAML timestamp with an offset, which stands for
/// an instant; so does the time of an event, which is written in UTC.
fn same_instant(is: &str, wanted: &str) -> bool {
    let parse = |text| DateTime::parse_from_rfc3339(text).ok();
    parse(wanted).is_some_and(|wanted| parse(is) == Some(wanted))
}
