//! An event as the value of the filter's variable `event`.

use std::{collections::HashMap, sync::Arc};

use cel::{
    Value,
    objects::{Key, Map},
};
use chrono::{DateTime, Utc};
use sluice_proto::event::{AttributeRef, EventRef, Timestamp};

use crate::filter::json::JSON_BYTES_MAX;

/// The event as a map; the payload is only read if the filter looks at it.
pub(super) fn event(event: &EventRef<'_>, with_data: bool) -> Result<Value, String> {
    let mut map = HashMap::with_capacity(16);
    let mut put = |name: &str, value: Value| {
        map.insert(Key::String(Arc::new(name.to_owned())), value);
    };
    put("specversion", text("1.0"));
    put("id", text(event.id()));
    put("source", text(event.source()));
    put("type", text(event.event_type()));
    put("key", text(event.key().unwrap_or_default()));
    for (name, value) in [
        ("subject", event.subject()),
        ("datacontenttype", event.data_content_type()),
        ("dataschema", event.data_schema()),
    ] {
        if let Some(value) = value {
            put(name, text(value));
        }
    }
    if let Some(time) = event.time() {
        put("time", timestamp(time)?);
    }
    for (name, value) in event.attributes() {
        let value = match value {
            AttributeRef::String(s) | AttributeRef::Uri(s) | AttributeRef::UriReference(s) => {
                text(s)
            }
            AttributeRef::Boolean(b) => Value::Bool(b),
            AttributeRef::Integer(i) => Value::Int(i.into()),
            AttributeRef::Binary(b) => Value::Bytes(Arc::new(b.to_vec())),
            AttributeRef::Timestamp(t) => timestamp(t)?,
        };
        put(name, value);
    }
    if with_data {
        put("data", data(event)?);
    }
    Ok(Value::Map(Map { map: Arc::new(map) }))
}

fn data(event: &EventRef<'_>) -> Result<Value, String> {
    let media_type = event
        .data_content_type()
        .and_then(|full| full.split(';').next())
        .map(|media_type| media_type.trim().to_ascii_lowercase())
        .unwrap_or_default();
    let subtype = media_type
        .split_once('/')
        .map_or("", |(_, subtype)| subtype);
    let bytes = event.data();
    if subtype == "json" || subtype.ends_with("+json") {
        if bytes.len() > JSON_BYTES_MAX {
            let length = bytes.len();
            return Err(format!(
                "it is {length} bytes of JSON, the limit for filters is {JSON_BYTES_MAX}"
            ));
        }
        // serde_json refuses what is nested deeper than 128.
        let json: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        return Ok(from_json(json));
    }
    if media_type.starts_with("text/")
        && let Ok(as_text) = std::str::from_utf8(bytes)
    {
        return Ok(text(as_text));
    }
    Ok(Value::Bytes(Arc::new(bytes.to_vec())))
}

fn from_json(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(b) => Value::Bool(b),
        serde_json::Value::Number(n) => match n.as_i64() {
            Some(i) => Value::Int(i),
            // Without arbitrary precision, every number is one of the two.
            None => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(s) => Value::String(Arc::new(s)),
        serde_json::Value::Array(items) => {
            Value::List(Arc::new(items.into_iter().map(from_json).collect()))
        }
        serde_json::Value::Object(fields) => {
            let map = fields
                .into_iter()
                .map(|(name, value)| (Key::String(Arc::new(name)), from_json(value)))
                .collect();
            Value::Map(Map { map: Arc::new(map) })
        }
    }
}

fn text(value: &str) -> Value {
    Value::String(Arc::new(value.to_owned()))
}

fn timestamp(time: Timestamp) -> Result<Value, String> {
    DateTime::<Utc>::from_timestamp(time.seconds, time.nanos.unsigned_abs())
        .map(|time| Value::Timestamp(time.fixed_offset()))
        .ok_or_else(|| "a time is out of range".into())
}
