//! What filters read of JSON payloads.
//!
//! A payload is read in one pass that checks all of it and remembers where the
//! filter's paths are, without building the document. What it accepts, and what
//! values it finds, is what `serde_json` accepts and finds: the last of a doubled
//! key counts, numbers beyond 64 bits are doubles, and at most 127 arrays and
//! objects lie within each other. A test compares the two on random documents.

mod paths;
mod scan;

use std::borrow::Cow;

pub(super) use self::paths::{Found, Paths};
use super::operand::Value;

/// Largest payload that is read as JSON, in bytes.
pub(super) const JSON_BYTES_MAX: usize = 1 << 20;

/// What a content type says of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    Text,
    Other,
}

/// What a content type says: JSON is `…/json` and `…/…+json`, text `text/…`.
pub(super) fn kind(content_type: Option<&str>) -> Kind {
    let full = content_type.unwrap_or_default();
    let media_type = full.split(';').next().unwrap_or_default().trim();
    let Some((main, subtype)) = media_type.split_once('/') else {
        return Kind::Other;
    };
    let suffix = subtype.len().checked_sub("+json".len());
    if subtype.eq_ignore_ascii_case("json")
        || suffix
            .and_then(|at| subtype.get(at..))
            .is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
    {
        Kind::Json
    } else if main.eq_ignore_ascii_case("text") {
        Kind::Text
    } else {
        Kind::Other
    }
}

/// Finds the paths in a payload.
pub(super) fn find<'a>(json: &'a [u8], paths: &Paths) -> Result<Vec<Found<'a>>, String> {
    check_size(json)?;
    if let Some(found) = scan::find(json, paths) {
        return Ok(found);
    }
    // Broken, or so unusual that the scan leaves it: serde_json says which.
    let document: serde_json::Value = read(json)?;
    Ok(paths.find_in(&document))
}

pub(super) fn check_size(json: &[u8]) -> Result<(), String> {
    if json.len() > JSON_BYTES_MAX {
        return Err(format!(
            "it is {} bytes of JSON, the limit for filters is {JSON_BYTES_MAX}",
            json.len()
        ));
    }
    Ok(())
}

pub(super) fn read<'a, T: serde::Deserialize<'a>>(json: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

/// The value that is written there.
pub(super) fn value(raw: &[u8]) -> Result<Value<'_>, String> {
    Ok(match raw.first() {
        Some(b'{') => Value::Map(raw),
        Some(b'[') => Value::List(raw),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') => Value::Null,
        Some(b'"') => Value::String(string(raw)?),
        _ => match small_int(raw) {
            Some(int) => Value::Int(int),
            None => number(&read(raw)?),
        },
    })
}

/// A number that is plainly an integer of 64 bits.
fn small_int(raw: &[u8]) -> Option<i64> {
    let plain = raw.len() <= 18 && raw.iter().all(u8::is_ascii_digit);
    plain.then(|| {
        raw.iter()
            .fold(0, |int, digit| int * 10 + i64::from(digit - b'0'))
    })
}

/// A JSON number as CEL has it.
pub(super) fn number(number: &serde_json::Number) -> Value<'static> {
    match number.as_i64() {
        Some(int) => Value::Int(int),
        // Without arbitrary precision, every number is one of the two.
        None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
    }
}

fn string(raw: &[u8]) -> Result<Cow<'_, str>, String> {
    let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    if !inner.contains(&b'\\')
        && let Ok(text) = std::str::from_utf8(inner)
    {
        return Ok(Cow::Borrowed(text));
    }
    read::<String>(raw).map(Cow::Owned)
}
