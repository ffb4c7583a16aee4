//! Filters: which events of a topic a group, or a reader, wants.
//!
//! A filter is written in CEL (<https://cel.dev>) over the variable `event`, and
//! compiled to a [`Predicate`]. Comparisons, `in`, string functions and `has` on
//! attributes and payload paths are evaluated where the event lies, and the
//! payload is read in one pass, when the first condition asks for it; the rest
//! of CEL is evaluated by the `cel` crate.
//!
//! Filters and payloads come from users and must not hurt the broker. So a
//! filter's size and shape are bounded before it is ever evaluated, it is parsed
//! on a thread with a stack that no source within the bound can exhaust, what
//! is read of a payload is bounded, and so are the steps of an evaluation.

pub mod budget;
mod cel;
mod cesql;
mod counters;
mod dialects;
mod explain;
mod fixed;
mod json;
pub mod operand;
mod pattern;
mod predicate;
mod subject;

use std::{sync::Arc, thread};

use sluice_proto::event::EventRef;

use self::json::Paths;
pub use self::{
    cel::ShapeError,
    counters::{Counters, Failure},
    dialects::{DIALECT_DEPTH_MAX, DIALECT_FILTERS_MAX, Dialect, DialectError},
    explain::{SeenValue, TermExplanation},
    fixed::{Fixed, FixedAttribute},
    pattern::Pattern,
    predicate::{Comparison, Leaf, Predicate},
    subject::Subject,
};

/// Longest source of a filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 4096;

/// The parser stops at 96 nested brackets, but a chain of operators makes an
/// expression as deep as it is long, which is walked, refused and dropped here.
/// Pages that are not touched cost nothing.
const COMPILE_STACK_BYTES: usize = 64 << 20;

/// Stack of a thread that evaluates filters, which recurses as deep as a filter
/// and a payload are. The debug build of the deepest ones takes about half of it.
pub const EVALUATION_STACK_BYTES: usize = 8 << 20;

/// A filter that can be evaluated: a conjunction of [`Term`]s. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Filter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    terms: Vec<Term>,
    /// What the terms read of the payload.
    paths: Paths,
    fixed: Option<Fixed>,
}

/// One part of the conjunction that a filter is, which can be judged alone.
#[derive(Clone, Debug)]
pub struct Term {
    text: String,
    predicate: Predicate,
}

/// What a filter says of an event.
///
/// Terms are judged in the order of the source, but for the one that fixes an
/// attribute ([`Filter::fixed`]), which goes first.
///
/// Exactly one of these holds, so over many events
/// `matched + dropped by each term + errors = seen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every term is true.
    Matched,
    /// A term is false. It is the first one that is, in the order of judgement,
    /// even if one before it is an error.
    Dropped {
        /// The place of the term in [`Filter::terms`].
        term: usize,
    },
    /// No term is false, and at least one is an error, which counts as no match.
    Failed {
        /// The place of the first such term.
        term: usize,
        /// Why it cannot be judged.
        error: EvaluationError,
    },
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
    /// A regular expression in it is none, or too large.
    #[error("the regular expression {pattern:?} is refused: {reason}")]
    Pattern {
        /// The expression.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A filter in another dialect than CEL is refused.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// The machine has no thread left to compile it.
    #[error("the filter could not be compiled now: {0}")]
    NoThread(String),
}

/// Why an event could not be judged, which counts as no match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// The event has no such attribute, or its payload no such field.
    #[error("the event has no {0}")]
    Missing(Arc<str>),
    /// Values of these types cannot be compared like this.
    #[error("{operation} is not defined for {left} and {right}")]
    NoOverload {
        /// The operator or function.
        operation: &'static str,
        /// The type of what is left of it.
        left: &'static str,
        /// The type of what is right of it.
        right: &'static str,
    },
    /// The result is neither true nor false.
    #[error("the filter gives a {0}, not a bool")]
    NotBool(&'static str),
    /// CEL says so.
    #[error("{0}")]
    Cel(String),
    /// CloudEvents SQL says so.
    #[error("{0}")]
    Cesql(String),
    /// The payload is no JSON, or too large or too deep a one.
    #[error("the payload cannot be read: {0}")]
    Data(Arc<str>),
    /// It would take more work than a filter may be.
    #[error(
        "the filter takes more than {} steps for one event, the limit",
        budget::STEPS_MAX
    )]
    OverBudget,
    /// The evaluator failed; a fault of the broker's.
    #[error("the evaluator failed")]
    Panicked,
}

impl EvaluationError {
    fn data(text: impl Into<Arc<str>>) -> Self {
        Self::Data(text.into())
    }
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
            .spawn(move || cel::compile(&source))
            .map_err(|error| FilterError::NoThread(error.to_string()))?
            .join();
        compiled
            .unwrap_or_else(|_| Err(FilterError::Parse("the parser failed".into())))
            .map(Self::of)
    }

    /// The filter of a group's definition: CEL, or dialects in JSON; none if both
    /// are empty.
    ///
    /// # Errors
    /// When it does not parse, or exceeds a bound.
    pub fn of_definition(cel: &str, dialects: &str) -> Result<Option<Self>, FilterError> {
        match (cel, dialects) {
            ("", "") => Ok(None),
            ("", dialects) => Ok(Some(Self::of_dialects_json(dialects)?)),
            (cel, _) => Self::compile(cel).map(Some),
        }
    }

    /// The filter that is the conjunction of these terms; without any, all
    /// events match.
    #[must_use]
    pub fn of(mut terms: Vec<Term>) -> Self {
        let mut paths = Paths::default();
        for term in &mut terms {
            term.predicate.paths(&mut |path| paths.add(path));
        }
        let fixed = Fixed::by(&terms);
        Self(Arc::new(Inner {
            terms,
            paths,
            fixed,
        }))
    }

    /// The parts of the top-level conjunction, in the order of the source.
    #[must_use]
    pub fn terms(&self) -> &[Term] {
        &self.0.terms
    }

    /// What it fixes, so that events can be found by it.
    #[must_use]
    pub fn fixed(&self) -> Option<&Fixed> {
        self.0.fixed.as_ref()
    }

    /// An event as this filter's terms look at it. `attempt` is which delivery
    /// it is judged for, from 1.
    #[must_use]
    pub fn subject<'a>(&'a self, event: &'a EventRef<'a>, attempt: u32) -> Subject<'a> {
        Subject::new(event, attempt, &self.0.paths)
    }

    /// Whether it only compares: judging an event then takes little more than
    /// one look at its bytes.
    #[must_use]
    pub fn is_cheap(&self) -> bool {
        self.0.terms.iter().all(|term| term.predicate.is_cheap())
    }

    /// Judges an event.
    #[must_use]
    pub fn judge(&self, subject: &Subject<'_>) -> Verdict {
        let mut failed = None;
        for term in self.order() {
            match self.0.terms[term].evaluate(subject) {
                Ok(true) => {}
                Ok(false) => return Verdict::Dropped { term },
                Err(error) => {
                    let over_budget = error == EvaluationError::OverBudget;
                    let failure = Verdict::Failed { term, error };
                    if over_budget {
                        return failure;
                    }
                    failed.get_or_insert(failure);
                }
            }
        }
        failed.unwrap_or(Verdict::Matched)
    }

    /// The places of the terms, in the order of judgement.
    fn order(&self) -> impl Iterator<Item = usize> {
        let first = self.0.fixed.as_ref().map(|fixed| fixed.term);
        let others = (0..self.0.terms.len()).filter(move |term| Some(*term) != first);
        first.into_iter().chain(others)
    }

    /// Whether the filter is true of the event, judged for its first delivery.
    ///
    /// # Errors
    /// When it cannot be evaluated.
    pub fn matches(&self, event: &EventRef<'_>) -> Result<bool, EvaluationError> {
        match self.judge(&self.subject(event, 1)) {
            Verdict::Matched => Ok(true),
            Verdict::Dropped { .. } => Ok(false),
            Verdict::Failed { error, .. } => Err(error),
        }
    }
}

impl Term {
    /// A term that is shown as `text`.
    #[must_use]
    pub fn new(text: String, predicate: Predicate) -> Self {
        Self { text, predicate }
    }

    /// The term as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it says.
    #[must_use]
    pub fn predicate(&self) -> &Predicate {
        &self.predicate
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// When that cannot be said.
    pub fn evaluate(&self, subject: &Subject<'_>) -> Result<bool, EvaluationError> {
        self.predicate.evaluate(subject)
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
