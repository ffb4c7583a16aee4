//! Why a filter says what it says of an event: every term by itself, with the
//! values that it saw.

use super::{
    EvaluationError, Filter, Predicate,
    operand::{Operand, Value},
    subject::Subject,
};

/// Longest value that is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 200;

/// What one term says of an event.
#[derive(Clone, Debug, PartialEq)]
pub struct TermExplanation {
    /// The term as it was written.
    pub term: String,
    /// Whether it holds, or why that cannot be said.
    pub holds: Result<bool, EvaluationError>,
    /// What the event has where the term looks.
    pub values: Vec<SeenValue>,
}

/// What an event has at some place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenValue {
    /// The place, as a filter names it.
    pub name: String,
    /// As in JSON; `None` when there is nothing.
    pub value: Option<String>,
}

impl Filter {
    /// Judges an event term by term, also those after one that is false.
    #[must_use]
    pub fn explain(&self, subject: &Subject<'_>) -> Vec<TermExplanation> {
        let explain = |term: &super::Term| {
            let mut values: Vec<SeenValue> = Vec::new();
            visit(term.predicate(), &mut |operand| {
                let name = operand.to_string();
                if matches!(operand, Operand::Literal(_)) || values.iter().any(|v| v.name == name) {
                    return;
                }
                let value = operand.value(subject).ok().map(|value| shown(&value));
                values.push(SeenValue { name, value });
            });
            TermExplanation {
                term: term.text().to_owned(),
                holds: term.evaluate(subject),
                values,
            }
        };
        self.terms().iter().map(explain).collect()
    }
}

/// Every operand of a predicate, in order.
fn visit(predicate: &Predicate, on: &mut dyn FnMut(&Operand)) {
    match predicate {
        Predicate::Constant(_) => {}
        Predicate::And(parts) | Predicate::Or(parts) => {
            for part in parts {
                visit(part, on);
            }
        }
        Predicate::Not(part) => visit(part, on),
        Predicate::Compare(left, _, right) => {
            on(left);
            on(right);
        }
        Predicate::In(of, _)
        | Predicate::StartsWith(of, _)
        | Predicate::EndsWith(of, _)
        | Predicate::Contains(of, _)
        | Predicate::Matches(of, _)
        | Predicate::Has(of)
        | Predicate::Truth(of) => on(of),
        Predicate::Leaf(leaf) => leaf.operands().iter().for_each(on),
    }
}

fn shown(value: &Value<'_>) -> String {
    let mut text = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::String(value) => serde_json::Value::from(value.as_ref()).to_string(),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Value::Time(time) => {
            let nanos = time.nanos.unsigned_abs();
            chrono::DateTime::from_timestamp(time.seconds, nanos)
                .map_or_else(String::new, |time| format!("{:?}", time.to_rfc3339()))
        }
        Value::List(json) | Value::Map(json) => String::from_utf8_lossy(json).into_owned(),
    };
    if text.len() > SHOWN_BYTES_MAX {
        text.truncate(text.floor_char_boundary(SHOWN_BYTES_MAX));
        text.push('…');
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prost::Message;
    use sluice_proto::{event::EventRef, pb};

    use super::*;

    #[test]
    fn every_term_is_judged_and_shows_what_it_saw() {
        let long = "x".repeat(300);
        let event = pb::Event {
            id: "1".into(),
            source: "/a".into(),
            r#type: "image.ready".into(),
            subject: long.clone(),
            ..Default::default()
        }
        .encode_to_vec();
        let event = EventRef::read(&event).unwrap();
        let filter = Filter::of_dialects_json(
            r#"[{"exact": {"type": "x"}}, {"suffix": {"subject": "x"}},
                {"sql": "id = 1 AND missing = 2"}, {"prefix": {"missing": "y"}}]"#,
        )
        .unwrap();
        let shown: Vec<_> = filter
            .explain(&filter.subject(&event, 1))
            .into_iter()
            .map(|of| {
                let values: Vec<_> = of.values.into_iter().map(|v| (v.name, v.value)).collect();
                (of.holds.map_err(|error| error.to_string()), values)
            })
            .collect();
        let seen = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        let cut = format!("\"{}…", "x".repeat(199));
        assert_eq!(
            shown,
            [
                (Ok(false), vec![seen("event.type", Some("\"image.ready\""))]),
                (Ok(true), vec![seen("event.subject", Some(&cut))]),
                (
                    Err("missing attribute: missing".into()),
                    vec![seen("event.id", Some("\"1\"")), seen("event.missing", None)],
                ),
                (Ok(false), vec![seen("event.missing", None)]),
            ]
        );
    }
}
