//! An event's attributes as values of an expression (§3.2 of the
//! specification).

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, SecondsFormat, Utc};
use sluice_proto::event::{AttributeRef, EventRef, Timestamp};

use super::cast::Value;

/// An attribute or extension by its name, in lower case.
pub(super) fn attribute(event: &EventRef<'_>, name: &str) -> Option<Value> {
    let text = |text: &str| Value::String(text.to_owned());
    match name {
        "specversion" => Some(text("1.0")),
        "id" => Some(text(event.id())),
        "source" => Some(text(event.source())),
        "type" => Some(text(event.event_type())),
        "subject" => event.subject().map(text),
        "datacontenttype" => event.data_content_type().map(text),
        "dataschema" => event.data_schema().map(text),
        "time" => event.time().and_then(timestamp),
        _ => match event.attribute(name)? {
            AttributeRef::String(s) | AttributeRef::Uri(s) | AttributeRef::UriReference(s) => {
                Some(text(s))
            }
            AttributeRef::Boolean(boolean) => Some(Value::Boolean(boolean)),
            AttributeRef::Integer(integer) => Some(Value::Integer(integer)),
            // As CloudEvents write bytes where only a string will do.
            AttributeRef::Binary(bytes) => Some(Value::String(BASE64_STANDARD.encode(bytes))),
            AttributeRef::Timestamp(time) => timestamp(time),
        },
    }
}

/// RFC 3339, in UTC.
fn timestamp(time: Timestamp) -> Option<Value> {
    let time = DateTime::<Utc>::from_timestamp(time.seconds, time.nanos.try_into().ok()?)?;
    Some(Value::String(
        time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
    ))
}
