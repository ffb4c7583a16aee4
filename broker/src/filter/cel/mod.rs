//! CEL, by way of the `cel` crate: parsing, bounds, and the evaluation of what
//! does not become a predicate of comparisons.

mod leaf;
mod shape;
mod value;

use cel::Program;

pub use self::shape::ShapeError;
use self::{leaf::CelLeaf, shape::Shape};
use super::{FilterError, Predicate, Term, one_line};
use std::sync::Arc;

/// Parses a filter and compiles it to terms. Needs a large stack.
pub(super) fn compile(source: &str) -> Result<Vec<Term>, FilterError> {
    let program = parse(source)?;
    let shape = Shape::of(program.expression())?;
    if let Some(other) = shape.unknown_variable {
        return Err(FilterError::UnknownVariable(other));
    }
    let leaf = CelLeaf::new(program, shape.reads_data, source);
    Ok(vec![Term::new(
        one_line(source),
        Predicate::Leaf(Arc::new(leaf)),
    )])
}

fn parse(source: &str) -> Result<Program, FilterError> {
    Program::compile(source).map_err(|errors| {
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
    })
}
