#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use prost::Message;
use sluice_proto::pb;

use super::*;

mod agreement;
mod fuzz;
mod hostile;

/// An encoded event.
#[derive(Clone, Debug)]
struct Event(Vec<u8>);

impl Event {
    fn read(&self) -> EventRef<'_> {
        EventRef::read(&self.0).unwrap()
    }
}

/// An event with this payload, and with every kind of attribute if it is full.
fn event(content_type: &str, data: impl Into<Vec<u8>>, full: bool) -> Event {
    use pb::attribute_value::Value;
    let mut event = pb::Event {
        id: "1".into(),
        source: "scanner/berlin".into(),
        r#type: "image.ready".into(),
        data_content_type: content_type.into(),
        data: data.into().into(),
        ..Default::default()
    };
    if full {
        event.subject = "a".into();
        event.time = Some(prost_types::Timestamp {
            seconds: 1_764_000_000,
            nanos: 5,
        });
        event.attributes.insert("partitionkey".into(), "a".into());
        for (name, value) in [
            ("retries", Value::Integer(1)),
            ("flag", Value::Boolean(true)),
            ("blob", Value::Binary(b"a".as_slice().into())),
        ] {
            let value = pb::AttributeValue { value: Some(value) };
            event.typed_attributes.insert(name.into(), value);
        }
    }
    Event(event.encode_to_vec())
}

fn page(confidence: &str) -> Vec<u8> {
    let mut event = pb::Event {
        id: "1".into(),
        source: "scanner/berlin".into(),
        r#type: "image.ready".into(),
        data_content_type: "application/json; charset=utf-8".into(),
        data: format!(r#"{{"confidence": {confidence}, "tags": ["a", "b"], "n": 9223372036854775808, "n": 5}}"#)
            .into_bytes()
            .into(),
        time: Some(prost_types::Timestamp {
            seconds: 1_764_000_000,
            nanos: 5,
        }),
        ..Default::default()
    };
    event
        .attributes
        .insert("partitionkey".into(), "doc1".into());
    event.typed_attributes.insert(
        "retries".into(),
        pb::AttributeValue {
            value: Some(pb::attribute_value::Value::Integer(3)),
        },
    );
    event.encode_to_vec()
}

fn judge(source: &str, event: &[u8]) -> Result<bool, EvaluationError> {
    let event = EventRef::read(event).unwrap();
    Filter::compile(source).unwrap().matches(&event)
}

#[test]
fn filters_look_at_attributes_and_payload() {
    let event = page("0.7");
    for (source, expected) in [
        (
            r#"event.type == "image.ready" && event.data.confidence < 0.8 && event.source.startsWith("scanner/")"#,
            true,
        ),
        (r#"event.data.confidence > 0.8"#, false),
        (
            r#"event.key == "doc1" && event.partitionkey == "doc1""#,
            true,
        ),
        (r#"event.retries > 2"#, true),
        (r#"has(event.subject)"#, false),
        (r#"has(event.data.tags) && "b" in event.data.tags"#, true),
        (r#"event.data.tags.exists(t, t == "a")"#, true),
        (r#"event.type.matches("^image\\.[a-z]+$")"#, true),
        (r#"event.time < timestamp("2026-01-01T00:00:00Z")"#, true),
        (r#"event.specversion == "1.0""#, true),
        // The last of a doubled key counts, as for most JSON readers.
        (r#"event.data.n == 5"#, true),
        (r#"true"#, true),
    ] {
        assert_eq!(judge(source, &event), Ok(expected), "{source}");
    }
}

#[test]
fn what_cannot_be_judged_is_an_error() {
    let event = page("0.7");
    for source in [
        "event.subject == 'x'",
        "event.data.missing.deeper == 1",
        "event.data.confidence",
        "event.type > 5",
        "1 / 0 == 1",
        "9223372036854775807 + 1 > 0",
        "-(-9223372036854775808) > 0",
        "event.data.tags[7] == 'x'",
    ] {
        assert!(judge(source, &event).is_err(), "{source}");
    }
    let deep = "[".repeat(100_000);
    for payload in ["NaN", "{", "\"\\ud800\"", deep.as_str()] {
        assert!(judge("event.data.confidence < 1", &page(payload)).is_err());
    }
}

#[test]
fn filters_that_exceed_a_bound_are_refused_with_the_bound() {
    let nested = "[1].all(a, [1].all(b, a == b))";
    let many = vec!["event.id == 'x'"; 210].join("||");
    let cases = [
        ("x".repeat(4097), "the limit is 4096"),
        ("(".repeat(4096), "96 deep"),
        (
            format!("{}1{} == 1", "(".repeat(2000), ")".repeat(2000)),
            "",
        ),
        (format!("{}true", "!".repeat(4000)), ""),
        (format!("{}1 == 1", "-".repeat(4000)), ""),
        (
            format!("{}1{} == 1", "[".repeat(2000), "]".repeat(2000)),
            "96 deep",
        ),
        (format!("event{} == 1", ".a".repeat(2000)), "64 levels"),
        (format!("1{} > 0", "+1".repeat(2000)), "64 levels"),
        (many, "1000 nodes"),
        (nested.into(), "1 deep"),
        ("events.type == 'x'".into(), "only variable"),
        ("event.type ==".into(), "line 1, column"),
        ("event.type == 'x".into(), "does not parse"),
    ];
    for (source, message) in cases {
        match Filter::compile(&source) {
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(message), "{:.40}: {text}", source);
                assert!(!text.contains('\n'), "{text}");
            }
            // Brackets and signs may fold away; then they are harmless.
            Ok(filter) => {
                assert!(message.is_empty(), "{source:.40} passed");
                let _ = filter.matches(&EventRef::read(&page("1")).unwrap());
            }
        }
    }
}

fn soup() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "event",
        ".",
        "data",
        "id",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "==",
        "<",
        "&&",
        "||",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "?",
        ":",
        ",",
        "1",
        "0",
        "9223372036854775807",
        "-9223372036854775808",
        "1.5",
        "1e308",
        "'a'",
        "\"\\u00e9\"",
        "b'\\xff'",
        "true",
        "null",
        "in",
        "has(",
        "size(",
        "all(x,",
        "exists(",
        "map(",
        "matches(",
        "startsWith(",
        "substring(",
        "timestamp(",
        "duration(",
        "'1h'",
        "int(",
        "uint(",
        "double(",
        "string(",
        "type(",
        "event.data.tags",
        "event.time",
        "getFullYear()",
        "x",
        "`a`",
        "é",
    ]);
    proptest::collection::vec(token, 0..24).prop_map(|tokens| tokens.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_source_and_no_payload_makes_it_panic(source in soup(), payload in ".{0,20}") {
        if let Ok(filter) = Filter::compile(&source) {
            let event = page(&payload);
            let event = EventRef::read(&event).unwrap();
            let _ = filter.matches(&event);
        }
    }
}
