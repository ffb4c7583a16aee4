//! What is evaluated by the `cel` crate.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use cel::{Context, Program, Value};

use super::value;
use crate::filter::{EvaluationError, Leaf, Subject};

/// An expression that the crate evaluates.
#[derive(Clone, Debug)]
pub(super) struct CelLeaf {
    program: Arc<Program>,
    reads_data: bool,
    text: Arc<str>,
}

impl CelLeaf {
    pub(super) fn new(program: Program, reads_data: bool, text: &str) -> Self {
        Self {
            program: Arc::new(program),
            reads_data,
            text: text.into(),
        }
    }
}

impl Leaf for CelLeaf {
    fn evaluate(&self, subject: &Subject<'_>) -> Result<bool, EvaluationError> {
        let event = value::event(subject.event(), self.reads_data)
            .map_err(|error| EvaluationError::Data(error.into()))?;
        // The crate is not written against hostile input; a panic in it must
        // cost this evaluation and nothing else.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::default();
            context.add_variable_from_value("event", event);
            self.program.execute(&context)
        }));
        match result {
            Ok(Ok(Value::Bool(matches))) => Ok(matches),
            Ok(Ok(_)) => Err(EvaluationError::NotBool("value")),
            Ok(Err(error)) => Err(EvaluationError::Cel(error.to_string())),
            Err(_) => Err(EvaluationError::Panicked),
        }
    }

    fn boxed(&self) -> Box<dyn Leaf> {
        Box::new(self.clone())
    }
}

impl fmt::Display for CelLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
