//! A group's filter: CEL over an event (<https://cel.dev>), by way of the `cel`
//! crate.
//!
//! Filters and payloads come from users and must not hurt the broker. So a
//! filter's size and shape are bounded before it is ever evaluated, it is parsed
//! on a thread with a stack that no source within the bound can exhaust, and
//! what it reads of a payload is bounded.

mod shape;
mod value;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use cel::{Context, Program, Value};
use sluice_proto::event::EventRef;

use self::shape::Shape;
pub use self::shape::ShapeError;

/// Longest source of a filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 4096;

/// The parser stops at 96 nested brackets, but a chain of operators makes an
/// expression as deep as it is long, which is walked, refused and dropped here.
/// Pages that are not touched cost nothing.
const COMPILE_STACK_BYTES: usize = 64 << 20;

/// A filter that can be evaluated. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Filter {
    program: Arc<Program>,
    /// The expression looks at the payload.
    reads_data: bool,
}

/// Why a filter is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The source is too long.
    #[error("the filter is {0} bytes long, the limit is {FILTER_BYTES_MAX}")]
    TooLong(usize),
    /// It is no CEL.
    #[error("the filter does not parse: {0}")]
    Parse(String),
    /// It is deeper, larger or more nested than allowed.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// It looks at something else than `event`.
    #[error("the filter refers to {0:?}; the only variable is \"event\"")]
    UnknownVariable(String),
    /// The machine has no thread left to compile it.
    #[error("the filter could not be compiled now: {0}")]
    NoThread(String),
}

/// Why an event could not be judged, which counts as no match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// CEL says so, for example that an attribute is missing.
    #[error("{0}")]
    Cel(String),
    /// The result is neither true nor false.
    #[error("the filter gives a {0}, not a bool")]
    NotBool(String),
    /// The payload is no JSON, or too large or too deep a one.
    #[error("the payload cannot be read: {0}")]
    Data(String),
    /// The evaluator failed; a fault of the broker's.
    #[error("the evaluator failed")]
    Panicked,
}

impl Filter {
    /// Compiles a filter.
    ///
    /// # Errors
    /// When it does not parse, or exceeds a bound.
    pub fn compile(source: &str) -> Result<Self, FilterError> {
        if source.len() > FILTER_BYTES_MAX {
            return Err(FilterError::TooLong(source.len()));
        }
        // Whatever is too deep is also dropped on that thread.
        let source = source.to_owned();
        let compiled = thread::Builder::new()
            .name("filter-compile".into())
            .stack_size(COMPILE_STACK_BYTES)
            .spawn(move || Self::compile_here(&source))
            .map_err(|error| FilterError::NoThread(error.to_string()))?
            .join();
        compiled.unwrap_or_else(|_| Err(FilterError::Parse("the parser failed".into())))
    }

    fn compile_here(source: &str) -> Result<Self, FilterError> {
        let program = Program::compile(source).map_err(|errors| {
            let first = errors.errors.first();
            FilterError::Parse(first.map_or_else(
                || one_line(&errors.to_string()),
                |error| {
                    let (line, column) = error.pos;
                    let message = if error.msg.contains("Recursion limit") {
                        "it nests brackets more than 96 deep, the limit".to_owned()
                    } else {
                        one_line(&error.msg)
                    };
                    format!("line {line}, column {column}: {message}")
                },
            ))
        })?;
        let shape = Shape::of(program.expression())?;
        if let Some(other) = shape.unknown_variable {
            return Err(FilterError::UnknownVariable(other));
        }
        Ok(Self {
            program: Arc::new(program),
            reads_data: shape.reads_data,
        })
    }

    /// Whether the filter is true of the event.
    ///
    /// # Errors
    /// When it cannot be evaluated.
    pub fn matches(&self, event: &EventRef<'_>) -> Result<bool, EvaluationError> {
        let event = value::event(event, self.reads_data).map_err(EvaluationError::Data)?;
        // The crate is not written against hostile input; a panic in it must
        // cost this evaluation and nothing else.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::default();
            context.add_variable_from_value("event", event);
            self.program.execute(&context)
        }));
        match result {
            Ok(Ok(Value::Bool(matches))) => Ok(matches),
            Ok(Ok(other)) => Err(EvaluationError::NotBool(other.type_of().to_string())),
            Ok(Err(error)) => Err(EvaluationError::Cel(error.to_string())),
            Err(_) => Err(EvaluationError::Panicked),
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
