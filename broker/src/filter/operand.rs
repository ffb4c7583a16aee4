//! What a predicate compares: attributes, paths into the payload, and literals,
//! and the values that they have.

use std::{borrow::Cow, cmp::Ordering, fmt, sync::Arc};

use sluice_proto::event::{AttributeRef, Timestamp};

use super::{EvaluationError, subject::Subject};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// An attribute of the event.
    Attribute(Attribute),
    /// A value in the payload.
    Data(DataPath),
    /// A value that the filter says.
    Literal(Literal),
}

/// An attribute of an event, as filters name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// `specversion`, always `1.0`.
    SpecVersion,
    /// `id`
    Id,
    /// `source`
    Source,
    /// `type`
    Type,
    /// `subject`
    Subject,
    /// `time`
    Time,
    /// `datacontenttype`
    DataContentType,
    /// `dataschema`
    DataSchema,
    /// `key`: the event's key, an empty string if it has none.
    Key,
    /// `attempt`: which delivery it is judged for, from 1.
    Attempt,
    /// An extension attribute.
    Extension(Arc<str>),
}

/// A path of fields from the root of a JSON payload. Without fields it is the
/// payload as a whole, whatever its content type.
#[derive(Clone, Debug)]
pub struct DataPath {
    fields: Arc<[Arc<str>]>,
    /// Where a subject keeps the value; given when the filter is put together.
    pub(super) slot: usize,
}

/// A value written in a filter.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The types of CEL.
pub enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

/// A value as a comparison sees it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The types of CEL.
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Cow<'a, str>),
    Bytes(&'a [u8]),
    Time(Timestamp),
    /// A JSON array, as it is written in the payload.
    List(&'a [u8]),
    /// A JSON object, as it is written in the payload.
    Map(&'a [u8]),
}

impl Operand {
    /// The operand's value in an event.
    ///
    /// # Errors
    /// When the event has no such attribute or field, or the payload cannot be
    /// read.
    pub fn value<'a>(&'a self, subject: &'a Subject<'_>) -> Result<Value<'a>, EvaluationError> {
        match self {
            Self::Attribute(attribute) => attribute
                .value(subject)
                .ok_or_else(|| EvaluationError::Missing(attribute.path())),
            Self::Data(path) => subject.data(path),
            Self::Literal(literal) => Ok(literal.value()),
        }
    }

    /// Whether the event has it, as CEL's `has` says: an error if what it should
    /// be in is not there.
    ///
    /// # Errors
    /// When the payload cannot be read, or has nothing in which it could be.
    pub fn exists(&self, subject: &Subject<'_>) -> Result<bool, EvaluationError> {
        match self {
            Self::Attribute(attribute) => Ok(attribute.value(subject).is_some()),
            Self::Data(path) => subject.has_data(path),
            Self::Literal(_) => Ok(true),
        }
    }
}

impl Attribute {
    /// The attribute of that name, which is an extension if it is nothing else.
    /// `data` is none.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "data" => return None,
            "specversion" => Self::SpecVersion,
            "id" => Self::Id,
            "source" => Self::Source,
            "type" => Self::Type,
            "subject" => Self::Subject,
            "time" => Self::Time,
            "datacontenttype" => Self::DataContentType,
            "dataschema" => Self::DataSchema,
            "key" => Self::Key,
            "attempt" => Self::Attempt,
            other => Self::Extension(other.into()),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::SpecVersion => "specversion",
            Self::Id => "id",
            Self::Source => "source",
            Self::Type => "type",
            Self::Subject => "subject",
            Self::Time => "time",
            Self::DataContentType => "datacontenttype",
            Self::DataSchema => "dataschema",
            Self::Key => "key",
            Self::Attempt => "attempt",
            Self::Extension(name) => name,
        }
    }

    /// Its value, if the event has it.
    #[must_use]
    pub fn value<'a>(&self, subject: &Subject<'a>) -> Option<Value<'a>> {
        let event = subject.event();
        let text = |value: &'a str| Value::String(Cow::Borrowed(value));
        match self {
            Self::SpecVersion => Some(text("1.0")),
            Self::Id => Some(text(event.id())),
            Self::Source => Some(text(event.source())),
            Self::Type => Some(text(event.event_type())),
            Self::Subject => event.subject().map(text),
            Self::Time => event.time().map(Value::Time),
            Self::DataContentType => event.data_content_type().map(text),
            Self::DataSchema => event.data_schema().map(text),
            Self::Key => Some(text(event.key().unwrap_or_default())),
            Self::Attempt => Some(Value::Int(subject.attempt().into())),
            Self::Extension(name) => event.attribute(name).map(|value| match value {
                AttributeRef::String(s) | AttributeRef::Uri(s) | AttributeRef::UriReference(s) => {
                    text(s)
                }
                AttributeRef::Boolean(b) => Value::Bool(b),
                AttributeRef::Integer(i) => Value::Int(i.into()),
                AttributeRef::Binary(b) => Value::Bytes(b),
                AttributeRef::Timestamp(t) => Value::Time(t),
            }),
        }
    }

    fn path(&self) -> Arc<str> {
        match self {
            Self::Extension(name) => name.clone(),
            known => known.name().into(),
        }
    }
}

impl DataPath {
    /// A path of these fields.
    pub fn new<'a>(fields: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            fields: fields.into_iter().map(Arc::from).collect(),
            slot: usize::MAX,
        }
    }

    /// Its fields, from the root.
    #[must_use]
    pub fn fields(&self) -> &[Arc<str>] {
        &self.fields
    }
}

impl PartialEq for DataPath {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Literal {
    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(i) => Value::Int(*i),
            Self::Uint(u) => Value::Uint(*u),
            Self::Double(d) => Value::Double(*d),
            Self::String(s) => Value::String(Cow::Borrowed(s)),
            Self::Bytes(b) => Value::Bytes(b),
        }
    }
}

impl Value<'_> {
    /// The name of its type in CEL.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Time(_) => "timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
        }
    }

    /// Equality of CEL: numbers by value, whatever their types; else values of
    /// different types differ. Lists and maps differ from everything: a
    /// predicate that compares two of them is not built.
    #[must_use]
    pub fn equals(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Self::Null, Value::Null) => true,
            (Self::String(a), Value::String(b)) => a == b,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// The order of two values; `None` if CEL has none between them: different
    /// types (but for numbers), nulls, lists, maps, NaN.
    #[must_use]
    pub fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
            (Self::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Value::Uint(b)) => Some(int_to_uint(*a, *b)),
            (Self::Uint(a), Value::Int(b)) => Some(int_to_uint(*b, *a).reverse()),
            (Self::Int(a), Value::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Double(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Self::Uint(a), Value::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Double(a), Value::Uint(b)) => a.partial_cmp(&(*b as f64)),
            (Self::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Self::Time(a), Value::Time(b)) => {
                Some((a.seconds, a.nanos).cmp(&(b.seconds, b.nanos)))
            }
            _ => None,
        }
    }
}

fn int_to_uint(int: i64, uint: u64) -> Ordering {
    u64::try_from(int).map_or(Ordering::Less, |int| int.cmp(&uint))
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute(attribute) => write!(f, "event.{}", attribute.name()),
            Self::Data(path) => path.fmt(f),
            Self::Literal(literal) => literal.fmt(f),
        }
    }
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("event.data")?;
        for field in &*self.fields {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if field.chars().all(plain) && !field.is_empty() {
                write!(f, ".{field}")?;
            } else {
                write!(f, "[{field:?}]")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(b) => b.fmt(f),
            Self::Int(i) => i.fmt(f),
            Self::Uint(u) => write!(f, "{u}u"),
            // With a point, so that it reads as a double.
            Self::Double(d) => write!(f, "{d:?}"),
            Self::String(s) => write!(f, "{s:?}"),
            Self::Bytes(bytes) => write!(f, "b\"{}\"", bytes.escape_ascii()),
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(b) => b.fmt(f),
            Self::Int(i) => i.fmt(f),
            Self::Uint(u) => write!(f, "{u}u"),
            Self::Double(d) => write!(f, "{d:?}"),
            Self::String(s) => write!(f, "{s:?}"),
            Self::Bytes(bytes) => write!(f, "b\"{}\"", bytes.escape_ascii()),
            Self::Time(time) => {
                match chrono::DateTime::from_timestamp(time.seconds, time.nanos.unsigned_abs()) {
                    Some(time) => write!(
                        f,
                        "{}",
                        time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
                    ),
                    None => f.write_str("a time out of range"),
                }
            }
            Self::List(raw) | Self::Map(raw) => f.write_str(&String::from_utf8_lossy(raw)),
        }
    }
}
