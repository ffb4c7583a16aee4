//! Events in the protobuf format of CloudEvents
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/protobuf-format.md>).
//!
//! | `io.cloudevents.v1.CloudEvent` | `sluice.v1.Event` |
//! |---|---|
//! | `id`, `source`, `type` | the same |
//! | `spec_version` | `"1.0"` |
//! | `subject` (string), `time` (timestamp), `datacontenttype` (string), `dataschema` (URI) among the `attributes` | `subject`, `time`, `data_content_type`, `data_schema` |
//! | other string attributes | `attributes` |
//! | attributes of other types | `typed_attributes` |
//! | `binary_data`, `text_data` | `data`; goes back as `text_data` when the content type is text or JSON and the bytes are UTF-8 |
//! | `proto_data` | `data`, with the type URL as `data_schema` and the content type `application/protobuf`; goes back as `proto_data` |
//!
//! Every event of Sluice comes back from the format as it was. An event of the
//! format comes back with all that it says, but perhaps in another of the three
//! fields for data.

use sluice_proto::pb::{self, AttributeValue, attribute_value::Value as Typed};

use super::{is_json, media_type};
use format::{CloudEvent, CloudEventAttributeValue, Data, attribute};

/// What `proto_data` is in an event.
const PROTOBUF: &str = "application/protobuf";

/// The messages of the format, as in
/// <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/cloudevents.proto>.
pub mod format {
    use std::collections::HashMap;

    use prost::{Message, Oneof};

    /// `io.cloudevents.v1.CloudEvent`.
    #[derive(Clone, PartialEq, Message)]
    #[allow(missing_docs)] // As in the format.
    pub struct CloudEvent {
        #[prost(string, tag = "1")]
        pub id: String,
        #[prost(string, tag = "2")]
        pub source: String,
        #[prost(string, tag = "3")]
        pub spec_version: String,
        #[prost(string, tag = "4")]
        pub r#type: String,
        #[prost(map = "string, message", tag = "5")]
        pub attributes: HashMap<String, CloudEventAttributeValue>,
        #[prost(oneof = "Data", tags = "6, 7, 8")]
        pub data: Option<Data>,
    }

    /// The payload of a [`CloudEvent`].
    #[derive(Clone, PartialEq, Oneof)]
    #[allow(missing_docs)] // As in the format.
    pub enum Data {
        #[prost(bytes = "bytes", tag = "6")]
        BinaryData(bytes::Bytes),
        #[prost(string, tag = "7")]
        TextData(String),
        #[prost(message, tag = "8")]
        ProtoData(prost_types::Any),
    }

    /// `io.cloudevents.v1.CloudEvent.CloudEventAttributeValue`.
    #[derive(Clone, PartialEq, Message)]
    #[allow(missing_docs)] // As in the format.
    pub struct CloudEventAttributeValue {
        #[prost(oneof = "attribute::Attr", tags = "1, 2, 3, 4, 5, 6, 7")]
        pub attr: Option<attribute::Attr>,
    }

    /// The types of attributes.
    pub mod attribute {
        /// A value of one of the types.
        #[derive(Clone, PartialEq, prost::Oneof)]
        #[allow(missing_docs)] // As in the format.
        pub enum Attr {
            #[prost(bool, tag = "1")]
            CeBoolean(bool),
            #[prost(int32, tag = "2")]
            CeInteger(i32),
            #[prost(string, tag = "3")]
            CeString(String),
            #[prost(bytes = "bytes", tag = "4")]
            CeBytes(bytes::Bytes),
            #[prost(string, tag = "5")]
            CeUri(String),
            #[prost(string, tag = "6")]
            CeUriRef(String),
            #[prost(message, tag = "7")]
            CeTimestamp(prost_types::Timestamp),
        }
    }
}

/// Why a message is no CloudEvent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// A required attribute is empty.
    #[error("{0} is required")]
    Required(&'static str),
    /// The version is none that is known.
    #[error("spec_version is {0:?}; only \"1.0\" is known")]
    Version(String),
    /// An attribute has no value, or one of another type.
    #[error("attribute {0:?} must be {1}")]
    Type(String, &'static str),
}

/// The event that a message of the format says.
///
/// # Errors
/// When it is no CloudEvent of version 1.0.
pub fn from_protobuf(event: CloudEvent) -> Result<pb::Event, ProtobufError> {
    if event.spec_version != "1.0" {
        return Err(ProtobufError::Version(event.spec_version));
    }
    let required = |name, value: String| {
        if value.is_empty() {
            Err(ProtobufError::Required(name))
        } else {
            Ok(value)
        }
    };
    let mut out = pb::Event {
        id: required("id", event.id)?,
        source: required("source", event.source)?,
        r#type: required("type", event.r#type)?,
        ..pb::Event::default()
    };
    for (name, value) in event.attributes {
        put_attribute(&mut out, name, value)?;
    }
    match event.data {
        None => {}
        Some(Data::BinaryData(data)) => out.data = data,
        Some(Data::TextData(text)) => out.data = text.into(),
        Some(Data::ProtoData(any)) => {
            out.data = any.value.into();
            out.data_schema = any.type_url;
            out.data_content_type = PROTOBUF.into();
        }
    }
    Ok(out)
}

fn put_attribute(
    out: &mut pb::Event,
    name: String,
    value: CloudEventAttributeValue,
) -> Result<(), ProtobufError> {
    use attribute::Attr;
    let Some(value) = value.attr else {
        return Err(ProtobufError::Type(name, "one of the types"));
    };
    let typed = match (name.as_str(), value) {
        ("subject", Attr::CeString(text)) => {
            out.subject = text;
            return Ok(());
        }
        ("datacontenttype", Attr::CeString(text)) => {
            out.data_content_type = text;
            return Ok(());
        }
        // Some writers have it as a string.
        ("dataschema", Attr::CeUri(text) | Attr::CeString(text)) => {
            out.data_schema = text;
            return Ok(());
        }
        ("time", Attr::CeTimestamp(time)) => {
            out.time = Some(time);
            return Ok(());
        }
        ("subject" | "datacontenttype", _) => return Err(ProtobufError::Type(name, "a string")),
        ("dataschema", _) => return Err(ProtobufError::Type(name, "a URI")),
        ("time", _) => return Err(ProtobufError::Type(name, "a timestamp")),
        (_, Attr::CeString(text)) => {
            out.attributes.insert(name, text);
            return Ok(());
        }
        (_, Attr::CeBoolean(value)) => Typed::Boolean(value),
        (_, Attr::CeInteger(value)) => Typed::Integer(value),
        (_, Attr::CeBytes(value)) => Typed::Binary(value),
        (_, Attr::CeUri(value)) => Typed::Uri(value),
        (_, Attr::CeUriRef(value)) => Typed::UriReference(value),
        (_, Attr::CeTimestamp(value)) => Typed::Timestamp(value),
    };
    let value = AttributeValue { value: Some(typed) };
    out.typed_attributes.insert(name, value);
    Ok(())
}

/// The event as a message of the format.
#[must_use]
pub fn to_protobuf(event: &pb::Event) -> CloudEvent {
    use attribute::Attr;
    let data = data_of(event);
    let is_proto = matches!(data, Some(Data::ProtoData(_)));
    let mut attributes = std::collections::HashMap::new();
    let mut put = |name: &str, value: Attr| {
        let value = CloudEventAttributeValue { attr: Some(value) };
        attributes.insert(name.to_owned(), value);
    };
    for (name, value) in &event.attributes {
        put(name, Attr::CeString(value.clone()));
    }
    for (name, value) in &event.typed_attributes {
        let value = match &value.value {
            Some(Typed::Boolean(value)) => Attr::CeBoolean(*value),
            Some(Typed::Integer(value)) => Attr::CeInteger(*value),
            Some(Typed::Binary(value)) => Attr::CeBytes(value.clone()),
            Some(Typed::Uri(value)) => Attr::CeUri(value.clone()),
            Some(Typed::UriReference(value)) => Attr::CeUriRef(value.clone()),
            Some(Typed::Timestamp(value)) => Attr::CeTimestamp(*value),
            // A broker refuses such an event.
            None => continue,
        };
        put(name, value);
    }
    if !event.subject.is_empty() {
        put("subject", Attr::CeString(event.subject.clone()));
    }
    if !event.data_content_type.is_empty() {
        put(
            "datacontenttype",
            Attr::CeString(event.data_content_type.clone()),
        );
    }
    // The type URL of the data says it.
    if !event.data_schema.is_empty() && !is_proto {
        put("dataschema", Attr::CeUri(event.data_schema.clone()));
    }
    if let Some(time) = event.time {
        put("time", Attr::CeTimestamp(time));
    }
    CloudEvent {
        id: event.id.clone(),
        source: event.source.clone(),
        spec_version: "1.0".into(),
        r#type: event.r#type.clone(),
        attributes,
        data,
    }
}

fn data_of(event: &pb::Event) -> Option<Data> {
    if event.data_content_type == PROTOBUF && !event.data_schema.is_empty() {
        return Some(Data::ProtoData(prost_types::Any {
            type_url: event.data_schema.clone(),
            value: event.data.to_vec(),
        }));
    }
    if event.data.is_empty() {
        return None;
    }
    let content_type = &event.data_content_type;
    let is_text = is_json(content_type) || media_type(content_type).starts_with("text/");
    match std::str::from_utf8(&event.data) {
        Ok(text) if is_text => Some(Data::TextData(text.to_owned())),
        _ => Some(Data::BinaryData(event.data.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::{collection, option, prelude::*};
    use prost::Message;

    fn timestamp() -> impl Strategy<Value = prost_types::Timestamp> {
        (-62_135_596_800_i64..253_402_207_200, 0..1_000_000_000)
            .prop_map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos })
    }

    fn typed() -> impl Strategy<Value = Typed> {
        prop_oneof![
            any::<bool>().prop_map(Typed::Boolean),
            any::<i32>().prop_map(Typed::Integer),
            any::<Vec<u8>>().prop_map(|bytes| Typed::Binary(bytes.into())),
            ".{0,8}".prop_map(Typed::Uri),
            ".{0,8}".prop_map(Typed::UriReference),
            timestamp().prop_map(Typed::Timestamp),
        ]
    }

    fn event() -> impl Strategy<Value = pb::Event> {
        let content_types = [
            "",
            "text/plain",
            "application/json",
            "image/png",
            "application/protobuf",
        ];
        (
            (".{1,8}", ".{1,8}", ".{1,8}", ".{0,8}", ".{0,8}"),
            option::of(timestamp()),
            prop::sample::select(content_types.to_vec()),
            prop_oneof![any::<Vec<u8>>(), ".{0,20}".prop_map(String::into_bytes)],
            collection::hash_map("x[a-z0-9]{0,8}", ".{0,8}", 0..4),
            collection::hash_map("y[a-z0-9]{0,8}", typed(), 0..4),
        )
            .prop_map(|(names, time, content_type, data, attributes, typed)| {
                let value = |value| AttributeValue { value: Some(value) };
                pb::Event {
                    id: names.0,
                    source: names.1,
                    r#type: names.2,
                    subject: names.3,
                    time,
                    data_content_type: content_type.into(),
                    data_schema: names.4,
                    attributes,
                    typed_attributes: typed.into_iter().map(|(k, v)| (k, value(v))).collect(),
                    data: data.into(),
                }
            })
    }

    proptest! {
        #[test]
        fn every_event_comes_back_from_the_format_as_it_was(event in event()) {
            let bytes = to_protobuf(&event).encode_to_vec();
            let read = CloudEvent::decode(&bytes[..]).expect("it was just encoded");
            prop_assert_eq!(from_protobuf(read), Ok(event));
        }
    }

    /// Field by field, as the table says.
    #[test]
    fn a_message_of_the_format_comes_back_with_all_that_it_says() {
        use attribute::Attr;
        let attribute = |attr| CloudEventAttributeValue { attr: Some(attr) };
        let mut message = CloudEvent {
            id: "1".into(),
            source: "/s".into(),
            spec_version: "1.0".into(),
            r#type: "t".into(),
            attributes: [
                ("subject", Attr::CeString("doc1".into())),
                ("time", Attr::CeTimestamp(prost_types::Timestamp::default())),
                ("datacontenttype", Attr::CeString("application/json".into())),
                ("dataschema", Attr::CeUri("https://example.com/s".into())),
                ("partitionkey", Attr::CeString("k".into())),
                ("flag", Attr::CeBoolean(true)),
                ("count", Attr::CeInteger(-5)),
                ("hash", Attr::CeBytes(Bytes::from_static(b"\xff"))),
                ("link", Attr::CeUri("https://example.com".into())),
                ("ref", Attr::CeUriRef("/x".into())),
            ]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), attribute(value)))
            .collect(),
            data: Some(Data::TextData("{}".into())),
        };
        let event = from_protobuf(message.clone()).expect("it is one");
        assert_eq!(event.subject, "doc1");
        assert_eq!(event.data_content_type, "application/json");
        assert_eq!(event.data_schema, "https://example.com/s");
        assert_eq!(event.attributes["partitionkey"], "k");
        assert_eq!(event.typed_attributes.len(), 5);
        assert_eq!(event.data[..], b"{}"[..]);
        assert_eq!(to_protobuf(&event), message);

        // Another field for the data, the same data.
        message.data = Some(Data::BinaryData(Bytes::from_static(b"{}")));
        assert_eq!(from_protobuf(message), Ok(event));

        let any = prost_types::Any {
            type_url: "type.googleapis.com/sluice.v1.Ack".into(),
            value: vec![8, 1],
        };
        let proto = CloudEvent {
            id: "1".into(),
            source: "/s".into(),
            spec_version: "1.0".into(),
            r#type: "t".into(),
            attributes: [(
                "datacontenttype".to_owned(),
                attribute(Attr::CeString(PROTOBUF.into())),
            )]
            .into(),
            data: Some(Data::ProtoData(any.clone())),
        };
        let event = from_protobuf(proto.clone()).expect("it is one");
        assert_eq!(event.data_schema, any.type_url);
        assert_eq!(to_protobuf(&event), proto);
    }

    #[test]
    fn what_is_no_cloudevent_is_refused_with_the_attribute() {
        let good = CloudEvent {
            id: "1".into(),
            source: "/s".into(),
            spec_version: "1.0".into(),
            r#type: "t".into(),
            ..CloudEvent::default()
        };
        let error = |change: fn(&mut CloudEvent)| {
            let mut bad = good.clone();
            change(&mut bad);
            from_protobuf(bad).expect_err("it is none").to_string()
        };
        assert!(error(|e| e.spec_version = "0.3".into()).contains("spec_version"));
        assert!(error(|e| e.id.clear()).contains("id is required"));
        assert!(error(|e| e.source.clear()).contains("source is required"));
        assert!(error(|e| e.r#type.clear()).contains("type is required"));
        let untyped = error(|e| {
            e.attributes
                .insert("x".into(), CloudEventAttributeValue { attr: None });
        });
        assert!(untyped.contains("\"x\""), "{untyped}");
        let number = error(|e| {
            let attr = Some(attribute::Attr::CeInteger(1));
            e.attributes
                .insert("time".into(), CloudEventAttributeValue { attr });
        });
        assert!(number.contains("\"time\" must be a timestamp"), "{number}");
    }
}
