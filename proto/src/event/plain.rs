//! The check of an event as nearly all are, in one pass that keeps nothing: its fields
//! in order and in ASCII, none longer than a length of one byte tells but the data.

use super::{KEY_ATTRIBUTE, RESERVED_NAMES, check_time, timestamp};
use crate::fields::{Field, Fields, Value};

/// Of an event with more extension attributes it says nothing.
const ATTRIBUTES_MAX: usize = 8;

/// The key of an event that passes `EventRef::check`, if it has one; `None` when that
/// has to look at it.
pub(super) fn key(event: &[u8]) -> Option<Option<&str>> {
    let mut rest = event;
    for required in [ID, SOURCE, TYPE] {
        if short(&mut rest, required)?.is_empty() {
            return None;
        }
    }
    if is_next(rest, SUBJECT) {
        short(&mut rest, SUBJECT)?;
    }
    let before_time = &event[..event.len() - rest.len()];
    if is_next(rest, TIME) {
        let time = short(&mut rest, TIME)?;
        check_time(timestamp(Value::Bytes(time), "").ok()?, "").ok()?;
    }
    let after_time = rest;
    for optional in [DATA_CONTENT_TYPE, DATA_SCHEMA] {
        if is_next(rest, optional) {
            short(&mut rest, optional)?;
        }
    }
    let mut names = [&[][..]; ATTRIBUTES_MAX];
    let (mut count, mut key) = (0, None);
    while is_next(rest, ATTRIBUTE) {
        let mut entry = short(&mut rest, ATTRIBUTE)?;
        let name = short(&mut entry, ENTRY_NAME)?;
        let value = short(&mut entry, ENTRY_VALUE)?;
        let (of, more) = names.split_at_mut_checked(count)?;
        if !entry.is_empty() || !is_name(name) || of.contains(&name) {
            return None;
        }
        *more.first_mut()? = name;
        count += 1;
        if name == KEY_ATTRIBUTE.as_bytes() {
            key = Some(value).filter(|key| !key.is_empty());
        }
    }
    // Tags, and lengths of one byte, are ASCII as well.
    let context = &after_time[..after_time.len() - rest.len()];
    if !before_time.is_ascii() || !context.is_ascii() || !(rest.is_empty() || is_data(rest)) {
        return None;
    }
    let key = key.map(std::str::from_utf8).transpose().ok()?;
    Some(key)
}

// Tags of fields whose value has a length.
const ID: u8 = tag(1);
const SOURCE: u8 = tag(2);
const TYPE: u8 = tag(3);
const SUBJECT: u8 = tag(4);
const TIME: u8 = tag(5);
const DATA_CONTENT_TYPE: u8 = tag(6);
const DATA_SCHEMA: u8 = tag(7);
const ATTRIBUTE: u8 = tag(8);
const ENTRY_NAME: u8 = tag(1);
const ENTRY_VALUE: u8 = tag(2);

/// The field of the data, which may be longer than the others.
const DATA: u32 = 10;

const fn tag(field: u8) -> u8 {
    field << 3 | 2
}

fn is_next(rest: &[u8], tag: u8) -> bool {
    rest.first() == Some(&tag)
}

/// The value of the field that comes next, which is to have this tag.
fn short<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let [found, length @ ..0x80, behind @ ..] = *rest else {
        return None;
    };
    let (value, behind) = behind.split_at_checked(usize::from(*length))?;
    *rest = behind;
    (*found == tag).then_some(value)
}

fn is_name(name: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let reserved = || RESERVED_NAMES.iter().any(|of| of.as_bytes() == name);
    // The longest is shorter than a length of one byte can tell.
    (1..=super::ATTRIBUTE_NAME_BYTES_MAX).contains(&name.len())
        && name.iter().all(allowed)
        && !reserved()
}

/// Whether it is the data, to the end.
fn is_data(rest: &[u8]) -> bool {
    let mut fields = Fields::new(rest);
    let is_data = |field: Field<'_>| field.number == DATA && matches!(field.value, Value::Bytes(_));
    fields.next().is_some_and(|field| field.is_ok_and(is_data)) && fields.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::{collection, option, prelude::*};
    use prost::Message;

    use super::*;
    use crate::{
        event::{EventLimits, EventRef},
        pb,
    };

    const LIMITS: EventLimits = EventLimits {
        event_bytes_max: 1 << 20,
    };

    fn any_event() -> impl Strategy<Value = pb::Event> {
        let text = || "[a-z]{0,3}|[aé]{0,3}|[a-z]{60,140}";
        let name = "partitionkey|traceparent|[a-z0-9]{1,3}|data|[A-Za-z]{0,2}|[a-z]{60,70}";
        let attributes = collection::hash_map(name, text(), 0..10);
        let time = (
            prop_oneof![-5..2_000_000_000_i64, any::<i64>()],
            -2..2_000_000_000_i32,
        );
        let time = time.prop_map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos });
        let data = prop_oneof![0..300_usize, 16_000..17_000_usize];
        (
            (text(), text(), text(), text(), text(), text()),
            option::of(time),
            attributes,
            data,
        )
            .prop_map(|(texts, time, attributes, data)| {
                let (id, source, event_type, subject, data_content_type, data_schema) = texts;
                pb::Event {
                    id,
                    source,
                    r#type: event_type,
                    subject,
                    time,
                    data_content_type,
                    data_schema,
                    attributes,
                    data: vec![0xff; data].into(),
                    ..pb::Event::default()
                }
            })
    }

    /// It says nothing, or what the check says.
    fn agrees(event: &[u8]) -> Result<(), TestCaseError> {
        if let Some(key) = key(event) {
            let checked = EventRef::check(event, LIMITS);
            let checked = checked.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(checked.key(), key);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn it_passes_nothing_that_the_check_refuses(event in any_event()) {
            agrees(&event.encode_to_vec())?;
        }

        #[test]
        fn nor_when_bytes_are_others(
            event in any_event(),
            changes in collection::vec((0..80_usize, any::<u8>()), 1..4),
            cut in option::of(0..80_usize),
        ) {
            let mut bytes = event.encode_to_vec();
            for (at, to) in changes {
                let at = at % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = to;
                }
            }
            bytes.truncate(cut.unwrap_or(bytes.len()));
            agrees(&bytes)?;
        }
    }

    #[test]
    fn it_knows_the_events_that_nearly_everybody_sends() {
        let mut event = pb::Event {
            id: "1".into(),
            source: "/a".into(),
            r#type: "b".into(),
            ..pb::Event::default()
        };
        assert_eq!(key(&event.encode_to_vec()), Some(None));
        event.data = vec![0; 100_000].into();
        event.subject = "page-3".into();
        event.time = Some(prost_types::Timestamp {
            seconds: 1_764_000_000,
            nanos: 999_999_999,
        });
        event.data_content_type = "application/json".into();
        event.data_schema = "https://example.org/schema".into();
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (name, value) in [("traceparent", parent), ("partitionkey", "k")] {
            event.attributes.insert(name.into(), value.into());
        }
        assert_eq!(key(&event.encode_to_vec()), Some(Some("k")));
    }
}
