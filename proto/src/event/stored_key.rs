//! Where the key lies in an event that passed the check before. So it looks at no
//! more than it must: names are not repeated, and what is text is UTF-8.

use std::ops::Range;

use super::KEY_ATTRIBUTE;
use crate::fields::{Field, Fields, Malformed, Value};

/// The string attributes, entries of a map.
const ATTRIBUTES: u32 = 8;
const ENTRY_NAME: u32 = 1;
const ENTRY_VALUE: u32 = 2;

/// How the entry of the key begins, as it is written by nearly all: tag and length of
/// the name, the name, and the tag of the value.
const KEY_ENTRY: [u8; 15] = *b"\x0a\x0cpartitionkey\x12";
/// The tag of the entry.
const ENTRY: u8 = 8 << 3 | 2;

pub(super) fn place(event: &[u8]) -> Result<Option<Range<usize>>, Malformed> {
    match plain_place(event) {
        Some(place) => Ok(Some(place)),
        None => any_place(event),
    }
}

/// The place of a key that is not empty, where all before it and it have lengths of one
/// byte, and its entry is as nearly all write it; `None` says nothing.
fn plain_place(event: &[u8]) -> Option<Range<usize>> {
    let mut at = 0;
    loop {
        let [tag @ ..0x80, length @ ..0x80, value @ ..] = event.get(at..)? else {
            return None;
        };
        if tag & 7 != 2 {
            return None;
        }
        if *tag == ENTRY
            && let Some((begin, [key_length, ..])) = value.split_first_chunk()
            && *begin == KEY_ENTRY
        {
            let begin = at + 2 + KEY_ENTRY.len() + 1;
            let end = at + 2 + usize::from(*length);
            let is_whole = begin + usize::from(*key_length) == end && begin < end;
            return (is_whole && end <= event.len()).then_some(begin..end);
        }
        at += 2 + usize::from(*length);
    }
}

fn any_place(event: &[u8]) -> Result<Option<Range<usize>>, Malformed> {
    let mut fields = Fields::new(event);
    while let Some(field) = fields.next() {
        if let Field {
            number: ATTRIBUTES,
            value: Value::Bytes(entry),
        } = field?
        {
            let end = event.len() - fields.left();
            if let Some(value) = key_value(entry)? {
                let begin = end - entry.len();
                let place = begin + value.start..begin + value.end;
                return Ok(Some(place).filter(|place| !place.is_empty()));
            }
        }
    }
    Ok(None)
}

/// Where the value lies in an entry, if its name is that of the key.
fn key_value(entry: &[u8]) -> Result<Option<Range<usize>>, Malformed> {
    let (mut is_key, mut place) = (false, 0..0);
    let mut fields = Fields::new(entry);
    while let Some(field) = fields.next() {
        let Field { number, value } = field?;
        match (number, value) {
            (ENTRY_NAME, Value::Bytes(name)) => is_key = name == KEY_ATTRIBUTE.as_bytes(),
            (ENTRY_VALUE, Value::Bytes(value)) => {
                let end = entry.len() - fields.left();
                place = end - value.len()..end;
            }
            _ => {}
        }
    }
    Ok(is_key.then_some(place))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use prost::Message;

    use super::*;
    use crate::pb;

    #[test]
    fn the_quick_look_finds_the_key_of_most_events_and_says_no_other_thing() {
        let event = |attributes: &[(&str, &str)], id: &str| pb::Event {
            id: id.into(),
            source: "/a".into(),
            r#type: "b".into(),
            attributes: attributes
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            data: vec![1; 1000].into(),
            ..pb::Event::default()
        };
        let long = "k".repeat(200);
        let cases = [
            (event(&[("partitionkey", "k")], "1"), true),
            (
                event(&[("partitionkey", "k"), ("traceparent", "t")], "1"),
                true,
            ),
            (event(&[("partitionkey", "")], "1"), false),
            (event(&[("partitionkeys", "k")], "1"), false),
            (event(&[("partitionkey", &long)], "1"), false),
            (event(&[("partitionkey", "k")], &long), false),
            (event(&[], "1"), false),
        ];
        for (event, is_plain) in cases {
            let bytes = event.encode_to_vec();
            let expected = event
                .attributes
                .get(KEY_ATTRIBUTE)
                .filter(|key| !key.is_empty());
            let found = place(&bytes).unwrap().map(|place| &bytes[place]);
            assert_eq!(found, expected.map(String::as_bytes));
            assert_eq!(plain_place(&bytes).is_some(), is_plain, "{event:?}");
        }
        assert_eq!(KEY_ENTRY[2..14], *KEY_ATTRIBUTE.as_bytes());
        let mut cut = event(&[("partitionkey", "kkkk")], "1");
        cut.data = Default::default();
        let bytes = cut.encode_to_vec();
        for length in 0..bytes.len() {
            assert_eq!(plain_place(&bytes[..length]), None);
        }
    }
}
