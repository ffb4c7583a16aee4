#![allow(clippy::unwrap_used)]

use proptest::{collection, option, prelude::*};
use prost::Message;

use super::*;
use crate::pb::{self, attribute_value::Value as Typed};

const LIMITS: EventLimits = EventLimits {
    event_bytes_max: 1 << 20,
};

fn minimal() -> pb::Event {
    pb::Event {
        id: "1".into(),
        source: "/a".into(),
        r#type: "b".into(),
        ..Default::default()
    }
}

fn check(bytes: &[u8]) -> Result<EventRef<'_>, EventError> {
    EventRef::check(bytes, LIMITS)
}

/// The bytes of the minimal event and then `more`.
fn with(more: &[u8]) -> Vec<u8> {
    let mut bytes = minimal().encode_to_vec();
    bytes.extend_from_slice(more);
    bytes
}

#[test]
fn what_breaks_a_rule_is_refused_with_its_field() {
    let mut large = minimal();
    large.data = vec![0; 1 << 20].into();
    let mut long = minimal();
    long.subject = "x".repeat(1025);
    let mut crowded = minimal();
    crowded.attributes = (0..65).map(|i| (format!("a{i}"), String::new())).collect();
    let mut late = minimal();
    late.time = Some(prost_types::Timestamp {
        seconds: 253_402_300_800,
        nanos: 0,
    });
    let mut reserved = minimal();
    reserved.attributes.insert("data".into(), "x".into());
    let mut upper = minimal();
    upper.attributes.insert("traceParent".into(), "x".into());

    let no_id = pb::Event {
        id: String::new(),
        ..minimal()
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no id", no_id.encode_to_vec(), "id"),
        ("nothing at all", vec![], "id"),
        ("too large", large.encode_to_vec(), ""),
        ("long subject", long.encode_to_vec(), "subject"),
        ("65 attributes", crowded.encode_to_vec(), "attributes"),
        ("year 10000", late.encode_to_vec(), "time"),
        (
            "reserved name",
            reserved.encode_to_vec(),
            r#"attributes["data"]"#,
        ),
        (
            "upper case",
            upper.encode_to_vec(),
            r#"attributes["traceParent"]"#,
        ),
        ("id twice", with(b"\x0a\x01x"), "id"),
        ("data twice", with(b"\x52\x01a\x52\x01b"), "data"),
        ("subject not UTF-8", with(b"\x22\x02\xff\xfe"), "subject"),
        (
            "time's seconds twice",
            with(b"\x2a\x04\x08\x01\x08\x02"),
            "time",
        ),
        (
            "key of map twice",
            with(b"\x42\x06\x0a\x01a\x12\x01x\x42\x06\x0a\x01a\x12\x01y"),
            r#"attributes["a"]"#,
        ),
        (
            "entry's value twice",
            with(b"\x42\x09\x0a\x01a\x12\x01x\x12\x01y"),
            "attributes",
        ),
        (
            "one name in both maps",
            with(b"\x42\x06\x0a\x01a\x12\x01x\x4a\x07\x0a\x01a\x12\x02\x08\x01"),
            r#"attributes["a"]"#,
        ),
        (
            "oneof twice",
            with(b"\x4a\x09\x0a\x01a\x12\x04\x08\x01\x10\x05"),
            r#"typed_attributes["a"]"#,
        ),
        (
            "typed without value",
            with(b"\x4a\x03\x0a\x01a"),
            r#"typed_attributes["a"]"#,
        ),
        ("id as a number", b"\x08\x01".to_vec(), "id"),
        ("cut in a field", with(b"\x52\x05ab"), ""),
        ("a group", with(b"\x5b\x5c"), ""),
        ("field number 0", with(b"\x02\x00"), ""),
        (
            "endless varint",
            with(&[0x58, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]),
            "",
        ),
    ];
    for (what, bytes, field) in cases {
        let error = check(&bytes).expect_err(what);
        assert_eq!(error.field(), field, "{what}: {error}");
    }
}

#[test]
fn unknown_fields_and_any_order_are_kept() {
    let mut backwards = b"\x7a\x01?\x1a\x01b\x12\x02/a\x0a\x011".to_vec();
    assert_eq!(check(&backwards).unwrap().event_type(), "b");
    backwards.extend_from_slice(b"\x5a\x01!\x5a\x01!");
    assert!(check(&backwards).is_ok(), "an unknown field may repeat");
}

fn event() -> impl Strategy<Value = pb::Event> {
    let time = || {
        (TIMESTAMP_SECONDS, 0..1_000_000_000)
            .prop_map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos })
    };
    let typed = prop_oneof![
        any::<bool>().prop_map(Typed::Boolean),
        any::<i32>().prop_map(Typed::Integer),
        collection::vec(any::<u8>(), 0..8).prop_map(|b| Typed::Binary(b.into())),
        ".{0,8}".prop_map(Typed::Uri),
        ".{0,8}".prop_map(Typed::UriReference),
        time().prop_map(Typed::Timestamp),
    ];
    (
        (".{1,8}", ".{1,8}", ".{1,8}", ".{0,8}"),
        option::of(time()),
        (".{0,8}", ".{0,8}"),
        collection::hash_map("x[a-z0-9]{0,8}|partitionkey", ".{0,8}", 0..5),
        collection::hash_map("y[a-z0-9]{0,8}", typed, 0..5),
        collection::vec(any::<u8>(), 0..64),
    )
        .prop_map(
            |(names, time, (content_type, schema), strings, typed, data)| {
                let typed = typed
                    .into_iter()
                    .map(|(name, value)| (name, pb::AttributeValue { value: Some(value) }));
                pb::Event {
                    id: names.0,
                    source: names.1,
                    r#type: names.2,
                    subject: names.3,
                    time,
                    data_content_type: content_type,
                    data_schema: schema,
                    attributes: strings,
                    typed_attributes: typed.collect(),
                    data: data.into(),
                }
            },
        )
}

/// The event as its reader sees it.
fn decoded(event: &EventRef<'_>) -> pb::Event {
    let time = |t: Timestamp| prost_types::Timestamp {
        seconds: t.seconds,
        nanos: t.nanos,
    };
    let mut out = pb::Event {
        id: event.id().into(),
        source: event.source().into(),
        r#type: event.event_type().into(),
        subject: event.subject().unwrap_or_default().into(),
        time: event.time().map(time),
        data_content_type: event.data_content_type().unwrap_or_default().into(),
        data_schema: event.data_schema().unwrap_or_default().into(),
        data: event.data().to_vec().into(),
        ..Default::default()
    };
    for (name, value) in event.attributes() {
        let typed = match value {
            AttributeRef::String(text) => {
                out.attributes.insert(name.into(), text.into());
                continue;
            }
            AttributeRef::Boolean(b) => Typed::Boolean(b),
            AttributeRef::Integer(i) => Typed::Integer(i),
            AttributeRef::Binary(b) => Typed::Binary(b.to_vec().into()),
            AttributeRef::Uri(u) => Typed::Uri(u.into()),
            AttributeRef::UriReference(u) => Typed::UriReference(u.into()),
            AttributeRef::Timestamp(t) => Typed::Timestamp(time(t)),
        };
        let value = pb::AttributeValue { value: Some(typed) };
        out.typed_attributes.insert(name.into(), value);
    }
    out
}

proptest! {
    #[test]
    fn what_prost_writes_is_read_the_same(event in event()) {
        let bytes = event.encode_to_vec();
        let read = check(&bytes).expect("within the rules");
        let key = event.attributes.get("partitionkey").filter(|key| !key.is_empty());
        prop_assert_eq!(read.key(), key.map(String::as_str));
        prop_assert_eq!(decoded(&read), event);
    }

    /// Whatever passes has one reading: prost's is the accessors'.
    #[test]
    fn what_passes_means_the_same_to_every_reader(
        event in event(),
        changes in collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        doubled in any::<bool>(),
    ) {
        let mut bytes = event.encode_to_vec();
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if doubled {
            let part = bytes[cut.index(bytes.len())..].to_vec();
            bytes.extend_from_slice(&part);
        }
        if let Ok(read) = check(&bytes) {
            let place = EventRef::place_of_key(&bytes).expect("it passed");
            prop_assert_eq!(place.map(|place| &bytes[place]), read.key().map(str::as_bytes));
            let prost = pb::Event::decode(&bytes[..]);
            prop_assert_eq!(prost, Ok(decoded(&read)));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in collection::vec(any::<u8>(), 0..100)) {
        let _ = check(&bytes);
        let _ = EventRef::place_of_key(&bytes);
    }
}
