//! A field's value as the type that it must be.

use super::EventError;
use crate::fields::Value;

pub(super) fn bytes<'a>(value: Value<'a>, field: &'static str) -> Result<&'a [u8], EventError> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(EventError::Malformed(field)),
    }
}

pub(super) fn text<'a>(value: Value<'a>, field: &'static str) -> Result<&'a str, EventError> {
    std::str::from_utf8(bytes(value, field)?).map_err(|_| EventError::NotUtf8(field))
}

pub(super) fn varint(value: Value<'_>, field: &'static str) -> Result<u64, EventError> {
    match value {
        Value::Varint(varint) => Ok(varint),
        _ => Err(EventError::Malformed(field)),
    }
}
