//! Reads an encoded `sluice.v1.Event` where it lies, without decoding it.
//!
//! [`EventRef::check`] is the broker's gate: what passes has exactly one reading,
//! so that a filter and a consumer never see different values. The rules are in
//! `event.proto`.

mod error;
mod plain;
mod stored_key;
mod value;

use std::{collections::HashSet, ops::Range};

pub use self::error::EventError;
use self::value::text;
use crate::fields::{Field, Fields, Value};

/// Limits of events. Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct EventLimits {
    /// The whole encoded event.
    pub event_bytes_max: usize,
}

/// Longest id, source, type, subject, content type and schema.
pub const CONTEXT_BYTES_MAX: usize = 1024;
/// Longest name of an extension attribute.
pub const ATTRIBUTE_NAME_BYTES_MAX: usize = 64;
/// Most extension attributes of one event.
pub const ATTRIBUTES_MAX: usize = 64;

/// The attribute that is the event's key.
pub const KEY_ATTRIBUTE: &str = "partitionkey";

/// Seconds since 1970 of 0001-01-01T00:00:00Z and of the first second after
/// 9999-12-31, the range of google.protobuf.Timestamp.
const TIMESTAMP_SECONDS: Range<i64> = -62_135_596_800..253_402_300_800;

const RESERVED_NAMES: [&str; 9] = [
    "id",
    "source",
    "type",
    "subject",
    "time",
    "specversion",
    "datacontenttype",
    "dataschema",
    "data",
];

/// An encoded event, read in place.
#[derive(Clone, Debug, Default)]
pub struct EventRef<'a> {
    id: &'a str,
    source: &'a str,
    event_type: &'a str,
    subject: &'a str,
    time: Option<Timestamp>,
    data_content_type: &'a str,
    data_schema: &'a str,
    attributes: Vec<(&'a str, AttributeRef<'a>)>,
    data: &'a [u8],
}

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// 0 to 999,999,999, forward from `seconds`.
    pub nanos: i32,
}

/// The value of an extension attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The types of CloudEvents.
pub enum AttributeRef<'a> {
    String(&'a str),
    Boolean(bool),
    Integer(i32),
    Binary(&'a [u8]),
    Uri(&'a str),
    UriReference(&'a str),
    Timestamp(Timestamp),
}

impl<'a> EventRef<'a> {
    /// Reads an event and checks it against every rule.
    ///
    /// # Errors
    /// When it breaks one; the error names the field and the limit.
    pub fn check(bytes: &'a [u8], limits: EventLimits) -> Result<Self, EventError> {
        if bytes.len() > limits.event_bytes_max {
            return Err(EventError::TooLarge {
                bytes: bytes.len(),
                limit: limits.event_bytes_max,
            });
        }
        let event = Self::read(bytes)?;
        event.check_context()?;
        event.check_attributes()?;
        Ok(event)
    }

    /// As [`EventRef::check`], and says only what the event's key is.
    ///
    /// # Errors
    /// As [`EventRef::check`].
    pub fn check_for_key(
        bytes: &'a [u8],
        limits: EventLimits,
    ) -> Result<Option<&'a str>, EventError> {
        if bytes.len() <= limits.event_bytes_max
            && let Some(key) = plain::key(bytes)
        {
            return Ok(key);
        }
        Ok(Self::check(bytes, limits)?.key())
    }

    /// Where the key lies in an event that has passed [`EventRef::check`] before, if it
    /// has one.
    ///
    /// # Errors
    /// When it is no well-formed event after all; not everything is looked at.
    pub fn place_of_key(bytes: &[u8]) -> Result<Option<Range<usize>>, EventError> {
        stored_key::place(bytes).map_err(|_| EventError::Malformed("event"))
    }

    /// Reads an event that has passed [`EventRef::check`] before.
    ///
    /// # Errors
    /// When it is no well-formed event after all.
    pub fn read(bytes: &'a [u8]) -> Result<Self, EventError> {
        let mut event = Self::default();
        let mut seen = 0_u32;
        for field in Fields::new(bytes) {
            let Field { number, value } = field.map_err(|_| EventError::Malformed("event"))?;
            // 8 and 9 are maps, which repeat.
            if let 1..=7 | 10 = number {
                let bit = 1 << number;
                if seen & bit != 0 {
                    return Err(EventError::Repeated(name_of(number).into()));
                }
                seen |= bit;
            }
            match number {
                1 => event.id = text(value, "id")?,
                2 => event.source = text(value, "source")?,
                3 => event.event_type = text(value, "type")?,
                4 => event.subject = text(value, "subject")?,
                5 => event.time = Some(timestamp(value, "time")?),
                6 => event.data_content_type = text(value, "data_content_type")?,
                7 => event.data_schema = text(value, "data_schema")?,
                8 => event.attributes.push(string_attribute(value)?),
                9 => event.attributes.push(typed_attribute(value)?),
                10 => event.data = value::bytes(value, "data")?,
                _ => {}
            }
        }
        Ok(event)
    }

    fn check_context(&self) -> Result<(), EventError> {
        for (field, value) in [
            ("id", self.id),
            ("source", self.source),
            ("type", self.event_type),
        ] {
            if value.is_empty() {
                return Err(EventError::Missing(field));
            }
        }
        for (field, value) in [
            ("id", self.id),
            ("source", self.source),
            ("type", self.event_type),
            ("subject", self.subject),
            ("data_content_type", self.data_content_type),
            ("data_schema", self.data_schema),
        ] {
            if value.len() > CONTEXT_BYTES_MAX {
                return Err(EventError::TooLong {
                    field: field.into(),
                    bytes: value.len(),
                    limit: CONTEXT_BYTES_MAX,
                });
            }
        }
        self.time.map_or(Ok(()), |time| check_time(time, "time"))
    }

    fn check_attributes(&self) -> Result<(), EventError> {
        if self.attributes.len() > ATTRIBUTES_MAX {
            return Err(EventError::TooManyAttributes(self.attributes.len()));
        }
        if self.attributes.is_empty() {
            return Ok(());
        }
        let mut names = HashSet::with_capacity(self.attributes.len());
        for (name, value) in &self.attributes {
            let field = || format!("attributes[{name:?}]");
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            if name.is_empty()
                || name.len() > ATTRIBUTE_NAME_BYTES_MAX
                || !name.bytes().all(allowed)
            {
                return Err(EventError::BadAttributeName(field()));
            }
            if RESERVED_NAMES.contains(name) {
                return Err(EventError::ReservedAttributeName(field()));
            }
            if !names.insert(*name) {
                return Err(EventError::Repeated(field()));
            }
            if let AttributeRef::Timestamp(time) = value {
                check_time(*time, &field())?;
            }
        }
        Ok(())
    }

    /// Identifies the event, together with [`EventRef::source`].
    #[must_use]
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &'a str {
        self.source
    }

    /// What happened.
    #[must_use]
    pub fn event_type(&self) -> &'a str {
        self.event_type
    }

    /// What it happened to.
    #[must_use]
    pub fn subject(&self) -> Option<&'a str> {
        present(self.subject)
    }

    /// When it happened, by the producer's clock.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        self.time
    }

    /// The media type of the data.
    #[must_use]
    pub fn data_content_type(&self) -> Option<&'a str> {
        present(self.data_content_type)
    }

    /// The schema of the data.
    #[must_use]
    pub fn data_schema(&self) -> Option<&'a str> {
        present(self.data_schema)
    }

    /// An extension attribute by name.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<AttributeRef<'a>> {
        let found = self.attributes.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| *value)
    }

    /// Every extension attribute, in the order of the wire.
    pub fn attributes(&self) -> impl Iterator<Item = (&'a str, AttributeRef<'a>)> {
        self.attributes.iter().copied()
    }

    /// The event's key: the string attribute `partitionkey`, if it is not empty.
    #[must_use]
    pub fn key(&self) -> Option<&'a str> {
        match self.attribute(KEY_ATTRIBUTE) {
            Some(AttributeRef::String(key)) => present(key),
            _ => None,
        }
    }

    /// The payload.
    #[must_use]
    pub fn data(&self) -> &'a [u8] {
        self.data
    }
}

fn present(value: &str) -> Option<&str> {
    (!value.is_empty()).then_some(value)
}

fn name_of(number: u32) -> &'static str {
    match number {
        1 => "id",
        2 => "source",
        3 => "type",
        4 => "subject",
        5 => "time",
        6 => "data_content_type",
        7 => "data_schema",
        _ => "data",
    }
}

fn check_time(time: Timestamp, field: &str) -> Result<(), EventError> {
    if TIMESTAMP_SECONDS.contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos) {
        Ok(())
    } else {
        Err(EventError::TimeOutOfRange(field.into()))
    }
}

fn timestamp(value: Value<'_>, field: &'static str) -> Result<Timestamp, EventError> {
    let mut time = Timestamp::default();
    let mut seen = [false; 2];
    for inner in Fields::new(value::bytes(value, field)?) {
        let Field { number, value } = inner.map_err(|_| EventError::Malformed(field))?;
        let (1 | 2) = number else { continue };
        if std::mem::replace(&mut seen[number as usize - 1], true) {
            return Err(EventError::Repeated(field.into()));
        }
        let varint = value::varint(value, field)?;
        if number == 1 {
            time.seconds = varint as i64;
        } else {
            // As protobuf does: an int32 is the low half of the varint.
            time.nanos = varint as i32;
        }
    }
    Ok(time)
}

/// The key and the value of a map's entry; each may be left out, once.
fn map_entry<'a>(
    value: Value<'a>,
    field: &'static str,
) -> Result<(&'a str, Option<Value<'a>>), EventError> {
    let (mut key, mut entry_value) = (None, None);
    for inner in Fields::new(value::bytes(value, field)?) {
        let Field { number, value } = inner.map_err(|_| EventError::Malformed(field))?;
        let slot = match number {
            1 => &mut key,
            2 => &mut entry_value,
            _ => continue,
        };
        if slot.replace(value).is_some() {
            return Err(EventError::Repeated(field.into()));
        }
    }
    let key = key.map_or(Ok(""), |key| text(key, field))?;
    Ok((key, entry_value))
}

fn string_attribute(value: Value<'_>) -> Result<(&str, AttributeRef<'_>), EventError> {
    let (name, value) = map_entry(value, "attributes")?;
    let value = value.map_or(Ok(""), |value| text(value, "attributes"))?;
    Ok((name, AttributeRef::String(value)))
}

fn typed_attribute(value: Value<'_>) -> Result<(&str, AttributeRef<'_>), EventError> {
    const FIELD: &str = "typed_attributes";
    let (name, value) = map_entry(value, FIELD)?;
    let encoded = value.map_or(Ok(&[][..]), |value| value::bytes(value, FIELD))?;
    let mut found = None;
    for inner in Fields::new(encoded) {
        let Field { number, value } = inner.map_err(|_| EventError::Malformed(FIELD))?;
        let attribute = match number {
            1 => AttributeRef::Boolean(value::varint(value, FIELD)? != 0),
            2 => AttributeRef::Integer(value::varint(value, FIELD)? as i32),
            3 => AttributeRef::Binary(value::bytes(value, FIELD)?),
            4 => AttributeRef::Uri(text(value, FIELD)?),
            5 => AttributeRef::UriReference(text(value, FIELD)?),
            6 => AttributeRef::Timestamp(timestamp(value, FIELD)?),
            _ => continue,
        };
        if found.replace(attribute).is_some() {
            return Err(EventError::Repeated(format!("{FIELD}[{name:?}]")));
        }
    }
    let value = found.ok_or_else(|| EventError::NoAttributeValue(format!("{FIELD}[{name:?}]")))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests;
