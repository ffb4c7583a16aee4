#![allow(clippy::unwrap_used)]

use prost::Message;
use sluice_proto::{event::EventRef, pb};

use super::*;

fn judge(filters: &str) -> Result<bool, EvaluationError> {
    let mut event = pb::Event {
        id: "1".into(),
        source: "https://github.com/cloudevents".into(),
        r#type: "com.github.push".into(),
        ..Default::default()
    };
    event.typed_attributes.insert(
        "retries".into(),
        pb::AttributeValue {
            value: Some(pb::attribute_value::Value::Integer(3)),
        },
    );
    let event = event.encode_to_vec();
    let filter = Filter::of_dialects_json(filters).unwrap();
    filter.matches(&EventRef::read(&event).unwrap())
}

#[test]
fn each_dialect_is_as_the_specification_says() {
    for (filters, passes) in [
        ("[]", true),
        (r#"[{"exact": {"type": "com.github.push"}}]"#, true),
        (r#"[{"exact": {"type": "com.github.Push"}}]"#, false),
        (
            r#"[{"exact": {"type": "com.github.push", "id": "2"}}]"#,
            false,
        ),
        (r#"[{"exact": {"retries": "3"}}]"#, true),
        (
            r#"[{"prefix": {"source": "https://", "type": "com."}}]"#,
            true,
        ),
        (
            r#"[{"suffix": {"type": ".push"}}, {"suffix": {"type": ".pull"}}]"#,
            false,
        ),
        (
            r#"[{"all": [{"prefix": {"type": "com"}}, {"suffix": {"type": "push"}}]}]"#,
            true,
        ),
        (
            r#"[{"any": [{"exact": {"id": "2"}}, {"exact": {"id": "1"}}]}]"#,
            true,
        ),
        (r#"[{"not": {"exact": {"id": "1"}}}]"#, false),
        // What is not there is not equal to anything, and begins with nothing.
        (r#"[{"exact": {"subject": "x"}}]"#, false),
        (r#"[{"not": {"prefix": {"subject": "x"}}}]"#, true),
        (r#"[{"not": {"exact": {"nothere": "x"}}}]"#, true),
        (r#"[{"sql": "type LIKE 'com.%' AND retries = 3"}]"#, true),
        (r#"[{"not": {"sql": "nothere = 1"}}]"#, true),
        (
            r#"[{"any": [{"sql": "nothere = 1"}, {"exact": {"id": "1"}}]}]"#,
            true,
        ),
    ] {
        assert_eq!(judge(filters), Ok(passes), "{filters}");
    }
    assert!(matches!(
        judge(r#"[{"sql": "nothere = 1"}]"#),
        Err(EvaluationError::Cesql(_))
    ));
    assert_eq!(
        judge(r#"[{"sql": "retries + 1"}]"#),
        Err(EvaluationError::NotBool("integer"))
    );
}

#[test]
fn each_attribute_and_each_part_of_an_all_is_a_term() {
    let filters = r#"[
        {"all": [{"exact": {"id": "1", "type": "x"}}, {"sql": "id = '1'"}]},
        {"any": [{"exact": {"id": "1"}}]}
    ]"#;
    let filter = Filter::of_dialects_json(filters).unwrap();
    let terms: Vec<_> = filter.terms().iter().map(Term::text).collect();
    assert_eq!(
        terms,
        [
            r#"exact id "1""#,
            r#"exact type "x""#,
            r#"{"sql":"id = '1'"}"#,
            r#"{"any":[{"exact":{"id":"1"}}]}"#,
        ]
    );
}

#[test]
fn a_refusal_names_the_filter() {
    let mut deep = Dialect::Sql("TRUE".into());
    for _ in 0..DIALECT_DEPTH_MAX {
        deep = Dialect::Not(Box::new(deep));
    }
    let exact =
        |name: &str, value: &str| Dialect::Exact([(name.to_owned(), value.to_owned())].into());
    for (filter, message) in [
        (
            Dialect::All(vec![]),
            "[0].all: it must have at least one filter",
        ),
        (
            Dialect::Exact(BTreeMap::new()),
            "[0].exact: it must name an attribute",
        ),
        (
            Dialect::Any(vec![exact("id", "1"), exact("id", "")]),
            r#"[0].any[1].exact["id"]: the value must not be empty"#,
        ),
        (
            Dialect::Not(Box::new(exact("Id", "1"))),
            r#"[0].not.exact["Id"]: the name of an attribute is of lower-case letters and digits"#,
        ),
        (
            Dialect::Sql("id =".into()),
            "[0].sql: at byte 4: a value is missing here",
        ),
        (
            Dialect::Sql("NOPE(id, 1) = 2".into()),
            "[0].sql: there is no function NOPE with 2 arguments",
        ),
        (
            Dialect::All(vec![exact("id", "1"); DIALECT_FILTERS_MAX + 1]),
            r#"[0].all[256].exact["id"]: there are more than 256 filters, the limit"#,
        ),
        (
            exact("id", &"x".repeat(FILTER_BYTES_MAX)),
            r#"[0].exact["id"]: the filters have more than 4096 bytes, the limit"#,
        ),
    ] {
        let error = Filter::of_dialects(&[filter]).unwrap_err();
        assert_eq!(format!("{}: {}", error.path, error.problem), message);
    }
    let error = Filter::of_dialects(&[deep]).unwrap_err().to_string();
    assert!(
        error.ends_with("nests more than 16 deep, the limit"),
        "{error}"
    );
    for broken in [
        "{}",
        r#"[{"like": {"id": "1"}}]"#,
        r#"[{"exact": {}, "any": []}]"#,
    ] {
        assert!(Filter::of_dialects_json(broken).is_err(), "{broken}");
    }
}
