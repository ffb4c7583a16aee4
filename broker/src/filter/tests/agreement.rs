//! Lowered predicates, and CEL as the crate evaluates it alone, say the same of
//! random events; so do the scan of a payload and `serde_json`.

use proptest::prelude::*;

use super::{Event, Filter, event};
use crate::filter::{
    cel,
    json::{self, Found, Paths},
    operand::DataPath,
};

/// Something that has a value.
fn operand() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "event.type",
        "event[\"source\"]",
        "event.subject",
        "event.key",
        "event.attempt",
        "event.retries",
        "event.flag",
        "event.blob",
        "event.time",
        "event.data",
        "event.data.a",
        "event.data.b",
        "event.data.a.b",
        "event.data.a[\"b\"].c",
        "event.data.`x y`",
        "event.data.list",
    ])
    .prop_map(str::to_owned)
}

fn literal() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "1u",
        "1.0",
        "-0.0",
        "0.5",
        "1e400",
        "'a'",
        "'image.ready'",
        "''",
        "b'a'",
        "9223372036854775807",
        "9223372036854775808u",
        "9223372036854775808.0",
        "'\\u00e9'",
    ])
    .prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![3 => operand(), 2 => literal()]
}

fn condition() -> impl Strategy<Value = String> {
    let comparison = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let function = prop::sample::select(vec!["startsWith", "endsWith", "contains", "matches"]);
    let field = prop::sample::select(vec![
        "event.subject",
        "event.flag",
        "event.data",
        "event.data.a",
        "event.data.a.b",
        "event.type.x",
        "event.data.list.x",
    ]);
    let leaf = prop_oneof![
        4 => (value(), comparison, value()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        1 => (value(), proptest::collection::vec(literal(), 0..4))
            .prop_map(|(a, list)| format!("{a} in [{}]", list.join(", "))),
        1 => (value(), function).prop_map(|(a, f)| format!("{a}.{f}('a')")),
        1 => field.prop_map(|field| format!("has({field})")),
        1 => value(),
        // What stays CEL.
        1 => (value(), value()).prop_map(|(a, b)| format!("[{a}, {b}].exists(x, x == 'a')")),
        1 => operand().prop_map(|a| format!("size({a}) > 1")),
        1 => operand().prop_map(|a| format!("{a}.all(event, event == 1)")),
        1 => (value(), value()).prop_map(|(a, b)| format!("{a} + {b} == 2")),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) && ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} && {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} || {b}")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("({a}) ? {b} : {c}")),
            inner.prop_map(|a| format!("!({a})")),
        ]
    })
}

fn number() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "0",
        "-0",
        "1",
        "-1",
        "1.0",
        "0.5",
        "1e400",
        "-1e400",
        "1e99",
        "1E+2",
        "01",
        "1.",
        ".5",
        "+1",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775809",
        "18446744073709551616",
        "123456789012345678",
        "NaN",
        "Infinity",
        "0.1234567890123456789",
    ])
    .prop_map(str::to_owned)
}

fn text() -> impl Strategy<Value = String> {
    let plain = prop::sample::select(vec![
        "a",
        "",
        "b",
        "image.ready",
        "é",
        "\\n",
        "\\u0061",
        "\\ud83d\\ude00",
        "\\ud800",
        "\\udc00x",
        "\\x",
        "\\",
        "\u{1}",
        "0123456789abcdef\\\"",
        "\u{7f}",
    ]);
    plain.prop_map(|text| format!("\"{text}\""))
}

/// JSON, mostly.
fn document() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => number(),
        4 => text(),
        2 => prop::sample::select(vec!["true", "false", "null", "nul", "{", "]", ""])
            .prop_map(str::to_owned),
    ];
    let key = prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "c", "list", "x y"])
            .prop_map(|name| format!("\"{name}\"")),
        1 => text(),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let field = (key.clone(), inner.clone()).prop_map(|(key, value)| format!("{key}: {value}"));
        prop_oneof![
            5 => proptest::collection::vec(field, 0..4)
                .prop_map(|fields| format!("{{{}}}", fields.join(" ,"))),
            1 => proptest::collection::vec(inner, 0..4)
                .prop_map(|items| format!("[{}]", items.join(",\n"))),
        ]
    })
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => document().prop_map(String::into_bytes),
        1 => (document(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(text, at, byte)| {
            let mut bytes = text.into_bytes();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        }),
        // Around the depth at which serde_json stops.
        1 => (60..130_usize, document()).prop_map(|(depth, inner)| {
            format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth)).into_bytes()
        }),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    let content_type = prop::sample::select(vec![
        "application/json",
        "application/json",
        "application/json",
        "text/plain",
        "Application/Vnd.x+JSON; charset=utf-8",
        "application/octet-stream",
        "",
        "json",
    ]);
    (content_type, payload(), any::<bool>())
        .prop_map(|(content_type, data, full)| event(content_type, data, full))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn lowered_and_plain_cel_agree(source in condition(), event in events()) {
        let Ok(filter) = Filter::compile(&source) else { return Ok(()) };
        let plain = cel::compile_plain(&source);
        let event = event.read();
        let subject = filter.subject(&event, 1);
        let expected = plain.matches(&event).ok();
        prop_assert_eq!(filter.matches(&event).ok(), expected, "{}", source);
        let terms: Vec<_> = filter.terms().iter().map(|term| term.evaluate(&subject)).collect();
        let by_terms = if terms.contains(&Ok(false)) {
            Some(false)
        } else {
            terms.iter().all(Result::is_ok).then_some(true)
        };
        prop_assert_eq!(by_terms, expected, "by terms, {}", source);
    }

    #[test]
    fn the_scan_finds_what_serde_json_finds(json in payload()) {
        let mut paths = Paths::default();
        let fields: [&[&str]; 7] = [
            &[], &["a"], &["b"], &["a", "b"], &["a", "b", "c"], &["list"], &["x y"],
        ];
        for path in fields {
            paths.add(&mut DataPath::new(path.iter().copied()));
        }
        let found = json::find(&json, &paths);
        let document: Result<serde_json::Value, _> = serde_json::from_slice(&json);
        prop_assert_eq!(found.is_ok(), document.is_ok(), "{:?} {:?}", found, document);
        let (Ok(found), Ok(document)) = (found, document) else { return Ok(()) };
        for (found, path) in found.iter().zip(fields) {
            let mut parent = Some(&document);
            let mut at = Some(&document);
            for field in path {
                parent = at;
                at = at.and_then(|value| value.as_object()).and_then(|object| object.get(*field));
            }
            match found {
                Found::At(raw) => {
                    let value: serde_json::Value = serde_json::from_slice(raw).unwrap();
                    prop_assert_eq!(Some(&value), at);
                }
                Found::Missing => {
                    prop_assert!(at.is_none() && parent.is_some_and(serde_json::Value::is_object));
                }
                Found::NoParent => {
                    prop_assert!(at.is_none() && !parent.is_some_and(serde_json::Value::is_object));
                }
            }
        }
    }
}
