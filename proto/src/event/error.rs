//! Why bytes are no event.

use super::{ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTES_MAX};

/// Why bytes are refused as an event. The message names the limit,
/// [`EventError::field`] the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// A required field is missing or empty.
    #[error("{0} is required")]
    Missing(&'static str),
    /// The whole event is too large.
    #[error("the event is {bytes} bytes long, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A field is too long.
    #[error("{field} is {bytes} bytes long, the limit is {limit}")]
    TooLong {
        /// The field.
        field: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A field that is not repeated, or a key of a map, occurs twice.
    #[error("{0} occurs twice; readers could see different values")]
    Repeated(String),
    /// A string is not UTF-8.
    #[error("{0} is not valid UTF-8")]
    NotUtf8(&'static str),
    /// The bytes are no protobuf message, or a field has another type.
    #[error("{0} is not well-formed protobuf of its type")]
    Malformed(&'static str),
    /// There are too many attributes.
    #[error("the event has {0} attributes, the limit is {ATTRIBUTES_MAX}")]
    TooManyAttributes(usize),
    /// An attribute's name is not allowed.
    #[error("{0} is no attribute name: 1 to {ATTRIBUTE_NAME_BYTES_MAX} characters of [a-z0-9]")]
    BadAttributeName(String),
    /// An attribute's name is that of a field.
    #[error("{0} has a name that CloudEvents reserves; use the field of the event")]
    ReservedAttributeName(String),
    /// A typed attribute has no value.
    #[error("{0} has no value")]
    NoAttributeValue(String),
    /// A time is outside what a timestamp can be.
    #[error("{0} is outside the years 1 to 9999, or its nanoseconds outside 0 to 999,999,999")]
    TimeOutOfRange(String),
}

impl EventError {
    /// The path of the field at fault within the event; empty for the event
    /// itself.
    #[must_use]
    pub fn field(&self) -> &str {
        match self {
            Self::Missing(field) | Self::NotUtf8(field) => field,
            Self::Malformed("event") | Self::TooLarge { .. } => "",
            Self::Malformed(field) => field,
            Self::TooLong { field, .. }
            | Self::Repeated(field)
            | Self::BadAttributeName(field)
            | Self::ReservedAttributeName(field)
            | Self::NoAttributeValue(field)
            | Self::TimeOutOfRange(field) => field,
            Self::TooManyAttributes(_) => "attributes",
        }
    }

    /// Whether a limit is exceeded, rather than a rule broken.
    #[must_use]
    pub fn is_limit(&self) -> bool {
        matches!(
            self,
            Self::TooLarge { .. } | Self::TooLong { .. } | Self::TooManyAttributes(_)
        )
    }
}
