//! Events in the JSON format of CloudEvents
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).
//!
//! Attributes of the types Binary, URI, URI-reference and Timestamp are strings
//! in JSON, and come back from it as strings.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Map, Number, Value};
use sluice_proto::pb::{self, attribute_value::Value as Typed};

use super::{is_json, media_type};

/// Why a JSON value is no CloudEvent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloudEventError {
    /// It is no object.
    #[error("a CloudEvent is a JSON object")]
    NotAnObject,
    /// A required attribute is missing or empty.
    #[error("{0} is required, and must be a string that is not empty")]
    Required(&'static str),
    /// The version is none that is known.
    #[error("specversion is {0:?}; only \"1.0\" is known")]
    Version(String),
    /// An attribute has a value of another type.
    #[error("{0} must be {1}")]
    Type(String, &'static str),
    /// Data is there twice.
    #[error("data and data_base64 cannot both be there")]
    DataTwice,
}

/// The event that a JSON value says.
///
/// # Errors
/// When it is no CloudEvent of version 1.0.
pub fn from_json(json: &Value) -> Result<pb::Event, CloudEventError> {
    let object = json.as_object().ok_or(CloudEventError::NotAnObject)?;
    let mut event = pb::Event::default();
    match object.get("specversion").and_then(Value::as_str) {
        Some("1.0") => {}
        Some(other) => return Err(CloudEventError::Version(other.to_owned())),
        None => return Err(CloudEventError::Required("specversion")),
    }
    let required = |name: &'static str| {
        let value = object.get(name).and_then(Value::as_str);
        let value = value.filter(|text| !text.is_empty());
        value
            .map(str::to_owned)
            .ok_or(CloudEventError::Required(name))
    };
    event.id = required("id")?;
    event.source = required("source")?;
    event.r#type = required("type")?;
    for (name, value) in object {
        let text = || {
            let text = value.as_str().map(str::to_owned);
            text.ok_or_else(|| CloudEventError::Type(name.clone(), "a string"))
        };
        match (name.as_str(), value) {
            ("specversion" | "id" | "source" | "type" | "data" | "data_base64", _)
            | (_, Value::Null) => {}
            ("subject", _) => event.subject = text()?,
            ("datacontenttype", _) => event.data_content_type = text()?,
            ("dataschema", _) => event.data_schema = text()?,
            ("time", _) => event.time = Some(time(name, &text()?)?),
            (_, Value::String(text)) => {
                event.attributes.insert(name.clone(), text.clone());
            }
            (_, other) => {
                let value = Some(typed(name, other)?);
                let value = pb::AttributeValue { value };
                event.typed_attributes.insert(name.clone(), value);
            }
        }
    }
    read_data(object, &mut event)?;
    Ok(event)
}

fn time(name: &str, text: &str) -> Result<prost_types::Timestamp, CloudEventError> {
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|_| CloudEventError::Type(name.to_owned(), "a time as in RFC 3339"))?;
    // The fraction of a time before 1970 counts back; a protobuf's does not.
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    Ok(prost_types::Timestamp { seconds, nanos })
}

fn typed(name: &str, value: &Value) -> Result<Typed, CloudEventError> {
    match value {
        Value::Bool(b) => Some(Typed::Boolean(*b)),
        Value::Number(n) => n
            .as_i64()
            .and_then(|n| i32::try_from(n).ok())
            .map(Typed::Integer),
        _ => None,
    }
    .ok_or_else(|| {
        let wanted = "a string, a boolean, or a whole number of 32 bits";
        CloudEventError::Type(name.to_owned(), wanted)
    })
}

fn read_data(object: &Map<String, Value>, event: &mut pb::Event) -> Result<(), CloudEventError> {
    let present = |name: &str| object.get(name).filter(|value| !value.is_null());
    match (object.get("data"), present("data_base64")) {
        (Some(_), Some(_)) => return Err(CloudEventError::DataTwice),
        (None, None) => {}
        (None, Some(base64)) => {
            let bytes = base64.as_str().and_then(|text| BASE64.decode(text).ok());
            let wrong = || CloudEventError::Type("data_base64".into(), "a string in base64");
            event.data = bytes.ok_or_else(wrong)?.into();
        }
        (Some(data), None) => {
            if event.data_content_type.is_empty() {
                // What the format says that an absent type means.
                event.data_content_type = "application/json".into();
            }
            event.data = match data {
                _ if is_json(&event.data_content_type) => data.to_string().into(),
                Value::String(text) => text.clone().into(),
                _ => {
                    let wanted = "a string, as datacontenttype is not JSON";
                    return Err(CloudEventError::Type("data".into(), wanted));
                }
            };
        }
    }
    Ok(())
}

/// The event as a JSON value.
#[must_use]
pub fn to_json(event: &pb::Event) -> Value {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| {
        object.insert(name.to_owned(), value);
    };
    put("specversion", "1.0".into());
    put("id", event.id.clone().into());
    put("source", event.source.clone().into());
    put("type", event.r#type.clone().into());
    for (name, value) in [
        ("subject", &event.subject),
        ("datacontenttype", &event.data_content_type),
        ("dataschema", &event.data_schema),
    ] {
        if !value.is_empty() {
            put(name, value.clone().into());
        }
    }
    if let Some(time) = event.time.and_then(timestamp) {
        put("time", time.into());
    }
    for (name, value) in &event.attributes {
        put(name, value.clone().into());
    }
    for (name, value) in &event.typed_attributes {
        let value = match &value.value {
            Some(Typed::Boolean(b)) => (*b).into(),
            Some(Typed::Integer(i)) => Number::from(*i).into(),
            Some(Typed::Binary(bytes)) => BASE64.encode(bytes).into(),
            Some(Typed::Uri(text) | Typed::UriReference(text)) => text.clone().into(),
            Some(Typed::Timestamp(time)) => timestamp(*time).unwrap_or_default().into(),
            None => continue,
        };
        put(name, value);
    }
    if let Some((name, value)) = data_of(event) {
        put(name, value);
    }
    Value::Object(object)
}

fn data_of(event: &pb::Event) -> Option<(&'static str, Value)> {
    if event.data.is_empty() {
        return None;
    }
    let content_type = &event.data_content_type;
    if is_json(content_type) {
        if let Ok(value) = serde_json::from_slice(&event.data) {
            return Some(("data", value));
        }
    } else if media_type(content_type).starts_with("text/")
        && let Ok(text) = std::str::from_utf8(&event.data)
    {
        return Some(("data", text.into()));
    }
    Some(("data_base64", BASE64.encode(&event.data).into()))
}

fn timestamp(time: prost_types::Timestamp) -> Option<String> {
    let time = jiff::Timestamp::new(time.seconds, time.nanos).ok()?;
    Some(time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::hash_map, option, prelude::*};
    use serde_json::json;

    #[test]
    fn the_examples_of_the_specification_are_read() {
        let event = from_json(&json!({
            "specversion": "1.0",
            "type": "com.example.someevent",
            "source": "/mycontext",
            "subject": null,
            "id": "C234-1234-1234",
            "time": "2018-04-05T17:31:00Z",
            "comexampleextension1": "value",
            "comexampleothervalue": 5,
            "datacontenttype": "application/vnd.apache.thrift.binary",
            "data_base64": "AQID"
        }))
        .expect("it is one");
        assert_eq!(event.data[..], [1, 2, 3]);
        assert_eq!(event.attributes["comexampleextension1"], "value");
        let other = &event.typed_attributes["comexampleothervalue"];
        assert_eq!(other.value, Some(Typed::Integer(5)));
        assert_eq!(event.time.expect("it has one").seconds, 1_522_949_460);

        let with_json = from_json(&json!({
            "specversion": "1.0", "type": "t", "source": "/s", "id": "1",
            "data": {"appinfoA": "abc", "appinfoC": true}
        }))
        .expect("it is one");
        assert_eq!(with_json.data_content_type, "application/json");
        assert_eq!(
            with_json.data[..],
            br#"{"appinfoA":"abc","appinfoC":true}"#[..]
        );

        let xml = from_json(&json!({
            "specversion": "1.0", "type": "t", "source": "/s", "id": "1",
            "datacontenttype": "application/xml", "data": "<much wow=\"xml\"/>"
        }))
        .expect("it is one");
        assert_eq!(xml.data[..], b"<much wow=\"xml\"/>"[..]);
    }

    #[test]
    fn what_is_no_cloudevent_is_refused_with_the_attribute() {
        let good = json!({"specversion": "1.0", "type": "t", "source": "/s", "id": "1"});
        for (name, value, message) in [
            ("specversion", json!("0.3"), "specversion"),
            ("specversion", json!(null), "specversion"),
            ("id", json!(""), "id"),
            ("source", json!(5), "source"),
            ("type", json!(null), "type"),
            ("time", json!("yesterday"), "time"),
            ("subject", json!(5), "subject"),
            ("ext", json!(1.5), "ext"),
            ("ext", json!(2_147_483_648_i64), "ext"),
            ("ext", json!([1]), "ext"),
            ("data_base64", json!("!"), "data_base64"),
        ] {
            let mut bad = good.clone();
            bad[name] = value;
            let error = from_json(&bad).expect_err(name).to_string();
            assert!(error.contains(message), "{error}");
        }
        assert_eq!(from_json(&json!([])), Err(CloudEventError::NotAnObject));
        let mut twice = good;
        twice["data"] = json!(1);
        twice["data_base64"] = json!("AQID");
        assert_eq!(from_json(&twice), Err(CloudEventError::DataTwice));
    }

    proptest! {
        /// But for the types that JSON does not have.
        #[test]
        fn an_event_survives_json(
            names in (".{1,8}", ".{1,8}", ".{1,8}", ".{0,8}"),
            time in option::of((-62_135_596_800_i64..253_402_207_200, 0..1_000_000_000)),
            content_type in prop::sample::select(vec!["", "text/plain", "application/json", "a/b+json", "image/png"]),
            text in ".{0,20}",
            attributes in hash_map("x[a-z0-9]{0,8}", ".{0,8}", 0..4),
            numbers in hash_map("y[a-z0-9]{0,8}", any::<i32>(), 0..4),
        ) {
            let data = match content_type {
                "application/json" | "a/b+json" => json!({"t": text}).to_string(),
                _ => text,
            };
            let number = |n| pb::AttributeValue { value: Some(Typed::Integer(n)) };
            let event = pb::Event {
                id: names.0,
                source: names.1,
                r#type: names.2,
                subject: names.3,
                time: time.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos }),
                data_content_type: content_type.into(),
                attributes,
                typed_attributes: numbers.into_iter().map(|(k, n)| (k, number(n))).collect(),
                data: data.into(),
                ..pb::Event::default()
            };
            prop_assert_eq!(from_json(&to_json(&event)), Ok(event));
        }
    }
}
