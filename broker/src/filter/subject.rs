//! An event as a filter looks at it: attributes where they lie, and the payload
//! read when the first condition asks for it.

use std::{borrow::Cow, sync::Arc, sync::OnceLock};

use sluice_proto::event::EventRef;

use super::{
    EvaluationError,
    budget::Budget,
    json::{self, Found, Paths},
    operand::{DataPath, Value},
};

/// An event under judgement.
#[derive(Debug)]
pub struct Subject<'a> {
    event: &'a EventRef<'a>,
    attempt: u32,
    paths: &'a Paths,
    payload: OnceLock<Payload<'a>>,
    budget: Budget,
}

/// The payload, by what its content type says.
#[derive(Debug)]
enum Payload<'a> {
    /// What was found at each of the filter's paths.
    Json(Vec<Found<'a>>),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// It says JSON, and is none.
    Broken(Arc<str>),
}

impl<'a> Subject<'a> {
    pub(super) fn new(event: &'a EventRef<'a>, attempt: u32, paths: &'a Paths) -> Self {
        Self {
            event,
            attempt,
            paths,
            payload: OnceLock::new(),
            budget: Budget::default(),
        }
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &'a EventRef<'a> {
        self.event
    }

    /// Which delivery it is judged for, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What is left of the work that this evaluation may be.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The value at a path of the payload.
    ///
    /// # Errors
    /// When there is none, or the payload cannot be read.
    pub fn data(&self, path: &DataPath) -> Result<Value<'_>, EvaluationError> {
        match self.payload() {
            Payload::Json(found) => match found.get(path.slot) {
                Some(Found::At(raw)) => {
                    json::value(raw).map_err(|error| EvaluationError::Data(error.into()))
                }
                Some(Found::Missing) => Err(missing(path)),
                Some(Found::NoParent) | None => Err(EvaluationError::Missing(
                    path.to_string().trim_start_matches("event.").into(),
                )),
            },
            Payload::Text(text) if path.fields().is_empty() => {
                Ok(Value::String(Cow::Borrowed(text)))
            }
            Payload::Bytes(bytes) if path.fields().is_empty() => Ok(Value::Bytes(bytes)),
            Payload::Text(_) | Payload::Bytes(_) => Err(EvaluationError::Data(
                "its content type does not say JSON".into(),
            )),
            Payload::Broken(error) => Err(EvaluationError::Data(error.clone())),
        }
    }

    /// Whether there is a value at a path of the payload.
    ///
    /// # Errors
    /// When the payload cannot be read, or has no object in which it could be.
    pub fn has_data(&self, path: &DataPath) -> Result<bool, EvaluationError> {
        if let Payload::Json(found) = self.payload()
            && let Some(Found::Missing) = found.get(path.slot)
        {
            return Ok(false);
        }
        match self.payload() {
            Payload::Json(found) if matches!(found.get(path.slot), Some(Found::At(_))) => Ok(true),
            _ => self.data(path).map(|_| true),
        }
    }

    fn payload(&self) -> &Payload<'a> {
        self.payload.get_or_init(|| {
            let bytes = self.event.data();
            match json::kind(self.event.data_content_type()) {
                json::Kind::Json => match json::find(bytes, self.paths) {
                    Ok(found) => Payload::Json(found),
                    Err(error) => Payload::Broken(error.into()),
                },
                json::Kind::Text => match std::str::from_utf8(bytes) {
                    Ok(text) => Payload::Text(text),
                    Err(_) => Payload::Bytes(bytes),
                },
                json::Kind::Other => Payload::Bytes(bytes),
            }
        })
    }
}

fn missing(path: &DataPath) -> EvaluationError {
    let last = path.fields().last();
    EvaluationError::Missing(last.map_or_else(|| "data".into(), Clone::clone))
}
