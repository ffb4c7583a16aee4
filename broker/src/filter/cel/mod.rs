//! CEL, by way of the `cel` crate: parsing, bounds, lowering to predicates, and
//! the evaluation of what does not become one.

mod leaf;
mod lower;
mod meter;
mod shape;
mod split;
mod value;
mod wrappers;

use cel::common::ast::IdedExpr;

pub use self::shape::ShapeError;
use self::{lower::Lowering, shape::Shape};
use super::{FilterError, Term, one_line};

/// Parses a filter and compiles it to terms. Needs a large stack.
pub(super) fn compile(source: &str) -> Result<Vec<Term>, FilterError> {
    compile_over(source, &[])
}

/// The same, over other variables beside `event`.
fn compile_over(source: &str, others: &[&str]) -> Result<Vec<Term>, FilterError> {
    let whole = parse(source)?;
    let shape = Shape::of(&whole, others)?;
    if let Some(other) = shape.unknown_variable {
        return Err(FilterError::UnknownVariable(other));
    }
    let pieces = split::conjunction(source);
    let parsed: Result<Vec<IdedExpr>, FilterError> =
        pieces.iter().map(|piece| parse(piece)).collect();
    // If a piece does not parse by itself, it was not cut where the parser cuts.
    let terms = match parsed {
        Ok(parsed) => pieces.into_iter().zip(parsed).collect(),
        Err(_) => vec![(source, whole)],
    };
    terms
        .into_iter()
        .map(|(piece, expression)| {
            let text = one_line(piece);
            let lowering = Lowering {
                text: &text,
                whole_event: Shape::of(&expression, others)?.whole_event,
            };
            let predicate = lowering.predicate(&expression)?;
            Ok(Term::new(text, predicate))
        })
        .collect()
}

/// The filter as the crate evaluates it alone: nothing lowered, nothing cut into
/// terms, and no path read but from the whole document.
#[cfg(test)]
pub(super) fn compile_plain(source: &str) -> super::Filter {
    tests::with_large_stack(|| {
        let whole = parse(source).expect("it parsed before");
        let whole_event = Shape::of(&whole, &[])
            .expect("it passed before")
            .whole_event;
        let leaf = leaf::CelLeaf::plain(whole, whole_event);
        let predicate = super::Predicate::Leaf(std::sync::Arc::new(leaf));
        super::Filter::of(vec![Term::new(source.into(), predicate)])
    })
}

fn parse(source: &str) -> Result<IdedExpr, FilterError> {
    let parser = leaf::ENV.parser().enable_ident_escape_syntax(true);
    parser.parse(source).map_err(|errors| {
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

#[cfg(test)]
mod tests;
