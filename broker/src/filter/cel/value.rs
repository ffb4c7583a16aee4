//! An event, and JSON, as values of the `cel` crate.

use std::{collections::HashMap, sync::OnceLock};

use cel::{
    ExecutionError,
    common::{
        traits::Indexer,
        types::{
            CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString,
            CelTimestamp, CelUInt, MAP_TYPE, Type,
        },
        value::{CowVal, Val},
    },
    context::VariableResolver,
};
use chrono::{DateTime, Utc};
use sluice_proto::event::Timestamp;

use crate::filter::{
    EvaluationError, Subject,
    json::{self, Kind},
    operand::{Attribute, DataPath, Value},
};

/// Begins the name of a field of `event` that stands for one of the leaf's
/// payload paths. What follows is the path's place.
pub(super) const PATH_MARK: char = '\0';

const ATTRIBUTES: [&str; 10] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "key",
    "attempt",
];

/// The variable `event`, whose fields are made when they are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventVal<'s, 'e> {
    subject: &'s Subject<'e>,
    paths: &'s [DataPath],
    made: &'s Made,
}

/// Values that are made once in an evaluation.
#[derive(Debug)]
pub(super) struct Made {
    document: OnceLock<Result<Box<dyn Val>, String>>,
    at_paths: Vec<OnceLock<Result<Box<dyn Val>, ExecutionError>>>,
}

impl Made {
    pub(super) fn new(paths: &[DataPath]) -> Self {
        Self {
            document: OnceLock::new(),
            at_paths: paths.iter().map(|_| OnceLock::new()).collect(),
        }
    }
}

impl<'s, 'e> EventVal<'s, 'e> {
    pub(super) fn new(subject: &'s Subject<'e>, paths: &'s [DataPath], made: &'s Made) -> Self {
        Self {
            subject,
            paths,
            made,
        }
    }

    /// The whole event as a map, for expressions that do more with it than
    /// look at its fields.
    pub(super) fn to_map(self) -> Result<CelMap<'static>, EvaluationError> {
        let names = ATTRIBUTES.into_iter();
        let names = names.chain(self.subject.event().attributes().map(|(name, _)| name));
        let mut map: HashMap<CelMapKey<'static>, Box<dyn Val>> = HashMap::new();
        for name in names {
            let attribute = Attribute::named(name);
            if let Some(value) = attribute.and_then(|of| of.value(self.subject)) {
                let value = from_value(&value).map_err(EvaluationError::data)?;
                map.insert(CelMapKey::from(name.to_owned()), value);
            }
        }
        let data = self.document().map_err(EvaluationError::data)?;
        map.insert(CelMapKey::from("data".to_owned()), copy(data));
        Ok(CelMap::from(map))
    }

    fn document(self) -> Result<&'s (dyn Val + 'static), &'s str> {
        let made = self.made.document.get_or_init(|| self.read_document());
        made.as_ref().map(AsRef::as_ref).map_err(String::as_str)
    }

    fn read_document(self) -> Result<Box<dyn Val>, String> {
        let event = self.subject.event();
        let bytes = event.data();
        Ok(match json::kind(event.data_content_type()) {
            Kind::Json => {
                json::check_size(bytes)?;
                from_json(json::read(bytes)?)
            }
            Kind::Text if std::str::from_utf8(bytes).is_ok() => {
                Box::new(CelString::from(String::from_utf8_lossy(bytes).into_owned()))
            }
            Kind::Text | Kind::Other => Box::new(CelBytes::from(bytes.to_vec())),
        })
    }

    fn at_path(self, place: usize) -> Option<Result<&'s dyn Val, ExecutionError>> {
        let path = self.paths.get(place)?;
        let made = self.made.at_paths.get(place)?.get_or_init(|| {
            let value = self.subject.data(path);
            value
                .map_err(|error| ExecutionError::function_error("data", error))
                .and_then(|value| {
                    from_value(&value).map_err(|e| ExecutionError::function_error("data", e))
                })
        });
        Some(made.as_ref().map(AsRef::as_ref).map_err(Clone::clone))
    }
}

impl Indexer for EventVal<'_, '_> {
    fn get<'b, 'v>(&'b self, key: &(dyn Val + '_)) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = key.downcast_ref::<CelString>().map(CelString::inner);
        let name = name.ok_or_else(|| ExecutionError::no_such_key("of that type"))?;
        if name == "data" {
            let document = self.document();
            return match document {
                Ok(value) => Ok(CowVal::Borrowed(value)),
                Err(error) => Err(ExecutionError::function_error("data", error)),
            };
        }
        let place = name.strip_prefix(PATH_MARK).and_then(|n| n.parse().ok());
        if let Some(value) = place.and_then(|place| self.at_path(place)) {
            return value.map(CowVal::Borrowed);
        }
        let attribute = Attribute::named(name);
        match attribute.as_ref().and_then(|of| of.value(self.subject)) {
            Some(value) => from_value(&value).map_or_else(
                |error| Err(ExecutionError::function_error("event", error)),
                |value| Ok(CowVal::Owned(value)),
            ),
            None => Err(ExecutionError::no_such_key(name)),
        }
    }

    fn steal<'v>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

impl Val for EventVal<'_, '_> {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(*self)
    }
}

/// The variables of an evaluation.
pub(super) struct Variables<'s> {
    pub(super) event: Box<dyn Val + 's>,
}

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        #[cfg(test)]
        if let Some(value) = super::tests::bound(variable) {
            return Some(CowVal::Owned(value));
        }
        (variable == "event").then(|| CowVal::Borrowed(&*self.event))
    }
}

fn copy(value: &(dyn Val + 'static)) -> Box<dyn Val> {
    value.clone_as_boxed()
}

/// An owned value of the crate.
fn from_value(value: &Value<'_>) -> Result<Box<dyn Val>, String> {
    Ok(match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(b) => Box::new(CelBool::from(*b)),
        Value::Int(i) => Box::new(CelInt::from(*i)),
        Value::Uint(u) => Box::new(CelUInt::from(*u)),
        Value::Double(d) => Box::new(CelDouble::from(*d)),
        Value::String(s) => Box::new(CelString::from(s.clone().into_owned())),
        Value::Bytes(b) => Box::new(CelBytes::from(b.to_vec())),
        Value::Time(time) => Box::new(timestamp(*time)?),
        Value::List(raw) | Value::Map(raw) => from_json(json::read(raw)?),
    })
}

fn from_json(json: serde_json::Value) -> Box<dyn Val> {
    match json {
        serde_json::Value::Null => Box::new(CelNull),
        serde_json::Value::Bool(b) => Box::new(CelBool::from(b)),
        serde_json::Value::Number(number) => match json::number(&number) {
            Value::Int(int) => Box::new(CelInt::from(int)),
            Value::Double(double) => Box::new(CelDouble::from(double)),
            _ => Box::new(CelNull),
        },
        serde_json::Value::String(s) => Box::new(CelString::from(s)),
        serde_json::Value::Array(items) => {
            let items: Vec<Box<dyn Val>> = items.into_iter().map(from_json).collect();
            Box::new(CelList::from(items))
        }
        serde_json::Value::Object(fields) => {
            let map: HashMap<CelMapKey<'static>, Box<dyn Val>> = fields
                .into_iter()
                .map(|(name, value)| (CelMapKey::from(name), from_json(value)))
                .collect();
            Box::new(CelMap::from(map))
        }
    }
}

fn timestamp(time: Timestamp) -> Result<CelTimestamp, String> {
    DateTime::<Utc>::from_timestamp(time.seconds, time.nanos.unsigned_abs())
        .map(|time| CelTimestamp::from(time.fixed_offset()))
        .ok_or_else(|| "a time is out of range".into())
}
