//! CloudEvents SQL, version 1
//! (<https://github.com/cloudevents/spec/blob/main/cesql/spec.md>): the dialect
//! `sql` of a filter.
//!
//! An expression always has a value, and beside it the errors that came up: see
//! [`Evaluated`]. As a filter it lets an event pass only if the value is true
//! and there was no error.
//!
//! Where the specification leaves room, or disagrees with its own tests:
//!
//! - `AND`, `OR` and `XOR` have one precedence and go from left to right (§3.6),
//!   as the other operators do; the grammar beside the specification has them
//!   the other way round. Brackets make it plain.
//! - `NOT` of an integer is a cast error, as its test kit has it; §3.7 would
//!   have it cast. Elsewhere an integer casts to a boolean.
//! - An operation on a missing attribute, or on one that met an error itself,
//!   gives the zero value of its own type (§3.2), whatever its other operands
//!   are; so does `IN` if any member of its set is one.
//! - An integer that overflows is a math error with the value 0.
//! - In a string, a backslash only escapes the quote that delimits it.
//! - A time is written in UTC: an event holds the instant, not the offset that
//!   its producer wrote.

mod ast;
mod attributes;
mod cast;
mod evaluate;
mod functions;
mod lexer;
mod like;
mod parser;
#[cfg(test)]
mod tck;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use sluice_proto::event::EventRef;

use self::ast::Node;
pub(super) use self::{
    cast::Value,
    evaluate::{ErrorKind, Evaluated},
    parser::ParseError,
};
use super::budget::Budget;

/// An expression that can be evaluated. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    root: Arc<Node>,
}

impl Expression {
    /// Parses an expression of at most [`super::FILTER_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// When it is no CESQL, or exceeds a bound.
    pub(super) fn parse(source: &str) -> Result<Self, ParseError> {
        let root = Arc::new(parser::parse(source)?);
        Ok(Self { root })
    }

    /// A function that it calls and that does not exist with so many arguments.
    pub(super) fn missing_function(&self) -> Option<String> {
        self.root.missing_function()
    }

    /// The attributes that it looks at, in order.
    pub(super) fn attributes<'a>(&'a self, names: &mut Vec<&'a str>) {
        self.root.attributes(names);
    }

    /// Its value of an event, and what went wrong.
    pub(super) fn evaluate(&self, event: &EventRef<'_>, budget: &Budget) -> Evaluated {
        evaluate::evaluate(&self.root, event, budget)
    }
}

/// An attribute as text, if the event has it.
pub(super) fn attribute_text(event: &EventRef<'_>, name: &str) -> Option<String> {
    attributes::attribute(event, name).map(Value::into_string)
}
