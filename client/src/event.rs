//! An event, to be made and to be read.

use bytes::Bytes;
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use sluice_proto::pb::{self, attribute_value::Value};
use uuid::Uuid;

/// A CloudEvents event.
///
/// ```
/// use sluice_client::Event;
/// let event = Event::new("/scanner/1", "image.ready")
///     .with_key("doc123")
///     .attribute("correlationid", "doc123")
///     .json(&serde_json::json!({"confidence": 0.7}))
///     .expect("it is JSON");
/// assert_eq!(event.key(), Some("doc123"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Event(pb::Event);

impl Event {
    /// An event with a random id (UUID version 7) and the time of now.
    #[must_use]
    pub fn new(source: &str, event_type: &str) -> Self {
        Self(pb::Event {
            id: Uuid::now_v7().to_string(),
            source: source.into(),
            r#type: event_type.into(),
            time: Some(std::time::SystemTime::now().into()),
            ..pb::Event::default()
        })
    }

    /// Sets the id. Ids that derive from the input (see [`derive_id`]) make work
    /// that is done twice recognisable.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.0.id = id.into();
        self
    }

    /// Sets the key (the attribute `partitionkey`).
    #[must_use]
    pub fn with_key(self, key: impl Into<String>) -> Self {
        self.attribute("partitionkey", key)
    }

    /// Sets what it happened to.
    #[must_use]
    pub fn with_subject(mut self, subject: impl Into<String>) -> Self {
        self.0.subject = subject.into();
        self
    }

    /// Sets an extension attribute.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.typed_attributes.remove(name);
        self.0.attributes.insert(name.into(), value.into());
        self
    }

    /// Sets an extension attribute that is no string.
    #[must_use]
    pub fn typed_attribute(mut self, name: &str, value: Value) -> Self {
        self.0.attributes.remove(name);
        let value = pb::AttributeValue { value: Some(value) };
        self.0.typed_attributes.insert(name.into(), value);
        self
    }

    /// Sets the payload to a value as JSON.
    ///
    /// # Errors
    /// When the value is none in JSON.
    pub fn json(self, value: &impl Serialize) -> Result<Self, serde_json::Error> {
        let json = serde_json::to_vec(value)?;
        Ok(self.bytes("application/json", json))
    }

    /// Sets the payload to text.
    #[must_use]
    pub fn text(self, text: impl Into<String>) -> Self {
        self.bytes("text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// Sets the payload and its media type.
    #[must_use]
    pub fn bytes(mut self, content_type: &str, data: impl Into<Bytes>) -> Self {
        self.0.data_content_type = content_type.into();
        self.0.data = data.into();
        self
    }

    /// Identifies the event, together with its source.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// What happened.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.0.r#type
    }

    /// What it happened to; empty for nothing in particular.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// A string attribute.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.attributes.get(name).map(String::as_str)
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.get("partitionkey").filter(|key| !key.is_empty())
    }

    /// The media type of the payload; empty for none.
    #[must_use]
    pub fn content_type(&self) -> &str {
        &self.0.data_content_type
    }

    /// The payload.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.0.data
    }

    /// The payload, read as JSON.
    ///
    /// # Errors
    /// When it is not such a value.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.0.data)
    }

    /// Bytes that it takes encoded.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.0.encoded_len()
    }

    /// The message of the API.
    #[must_use]
    pub fn into_message(self) -> pb::Event {
        self.0
    }

    /// The message of the API.
    #[must_use]
    pub fn as_message(&self) -> &pb::Event {
        &self.0
    }
}

impl From<pb::Event> for Event {
    fn from(event: pb::Event) -> Self {
        Self(event)
    }
}

/// An id that is the same whenever the same output comes of the same input: a
/// UUID (version 5) of the input's source and id, and a name for the output.
///
/// ```
/// use sluice_client::{Event, derive_id};
/// let input = Event::new("/web", "upload").with_id("doc123");
/// assert_eq!(derive_id(&input, "page/1"), derive_id(&input, "page/1"));
/// assert_ne!(derive_id(&input, "page/1"), derive_id(&input, "page/2"));
/// ```
#[must_use]
pub fn derive_id(input: &Event, name: &str) -> String {
    let of_input = Uuid::new_v5(&Uuid::NAMESPACE_URL, input.source().as_bytes());
    let of_event = Uuid::new_v5(&of_input, input.id().as_bytes());
    Uuid::new_v5(&of_event, name.as_bytes()).to_string()
}
