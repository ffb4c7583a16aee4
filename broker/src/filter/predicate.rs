//! A compiled filter: a tree of comparisons that is evaluated on an event where
//! it lies.

use std::{cmp::Ordering, fmt, sync::Arc};

use super::{
    EvaluationError,
    operand::{DataPath, Literal, Operand, Value},
    pattern::Pattern,
    subject::Subject,
};

/// A condition on an event.
///
/// It is true, false or an error, by CEL's rules:
///
/// - `And` is false if any part is false, whatever the others are; else an error
///   if any part is one; else true. `Or` is the same with true and false
///   swapped. The order of the parts does not matter for the result, so parts
///   after one that decides are not evaluated.
/// - `Not` of an error is that error.
/// - A missing attribute or field is an error in everything but [`Has`].
/// - `==` and `!=` never fail on values that are there: numbers compare by
///   value (`1 == 1.0`), values of other different types are not equal. The
///   orders `< <= > >=` of values of different types, or of NaN, are errors.
/// - `StartsWith`, `EndsWith`, `Contains` and `Matches` of something that is no
///   string are errors.
///
/// [`Has`]: Predicate::Has
#[derive(Clone, Debug)]
pub enum Predicate {
    /// Always this.
    Constant(bool),
    /// Every part holds.
    And(Vec<Predicate>),
    /// Some part holds.
    Or(Vec<Predicate>),
    /// The part does not hold.
    Not(Box<Predicate>),
    /// Two values compare like this. At least one side must be a literal or an
    /// attribute, because lists and maps of the payload do not compare.
    Compare(Operand, Comparison, Operand),
    /// The value equals one of these.
    In(Operand, Arc<[Literal]>),
    /// The string begins so.
    StartsWith(Operand, Arc<str>),
    /// The string ends so.
    EndsWith(Operand, Arc<str>),
    /// The string has this in it.
    Contains(Operand, Arc<str>),
    /// The regular expression matches somewhere in the string.
    Matches(Operand, Pattern),
    /// The event has the attribute or field.
    Has(Operand),
    /// The value is true; an error if it is neither true nor false.
    Truth(Operand),
    /// Anything else that judges an event.
    Leaf(Arc<dyn Leaf>),
}

/// What cannot be said by the other predicates: evaluated by a language's own
/// evaluator.
pub trait Leaf: fmt::Debug + fmt::Display + Send + Sync {
    /// Judges an event.
    ///
    /// # Errors
    /// When it cannot be judged.
    fn evaluate(&self, subject: &Subject<'_>) -> Result<bool, EvaluationError>;

    /// The payload paths that it reads by [`Subject::data`]. Each is given its
    /// slot when the filter is put together.
    fn paths(&mut self, _visit: &mut dyn FnMut(&mut DataPath)) {}

    /// Where it looks, to be shown; what is computed may be left out.
    fn operands(&self) -> Vec<Operand> {
        Vec::new()
    }

    /// A copy, in which slots can be given.
    fn boxed(&self) -> Box<dyn Leaf>;
}

/// How two values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // They say it.
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Predicate {
    /// Whether it holds.
    ///
    /// # Errors
    /// When that cannot be said; see above for the rules.
    pub fn evaluate(&self, subject: &Subject<'_>) -> Result<bool, EvaluationError> {
        match self {
            Self::Constant(value) => Ok(*value),
            Self::And(parts) => decided(parts, subject, false),
            Self::Or(parts) => decided(parts, subject, true),
            Self::Not(part) => part.evaluate(subject).map(|holds| !holds),
            Self::Compare(left, comparison, right) => {
                comparison.holds(&left.value(subject)?, &right.value(subject)?)
            }
            Self::In(operand, literals) => {
                let value = operand.value(subject)?;
                Ok(literals.iter().any(|one| one.value().equals(&value)))
            }
            Self::StartsWith(operand, start) => {
                string(operand, subject, "startsWith", |s| s.starts_with(&**start))
            }
            Self::EndsWith(operand, end) => {
                string(operand, subject, "endsWith", |s| s.ends_with(&**end))
            }
            Self::Contains(operand, part) => {
                string(operand, subject, "contains", |s| s.contains(&**part))
            }
            Self::Matches(operand, pattern) => string(operand, subject, "matches", |s| {
                pattern.is_match(s, subject.budget())
            })?,
            Self::Has(operand) => operand.exists(subject),
            Self::Truth(operand) => match operand.value(subject)? {
                Value::Bool(holds) => Ok(holds),
                other => Err(EvaluationError::NotBool(other.type_name())),
            },
            Self::Leaf(leaf) => leaf.evaluate(subject),
        }
    }

    /// The parts of the top-level conjunction, or the predicate itself.
    #[must_use]
    pub fn into_conjunction(self) -> Vec<Self> {
        match self {
            Self::And(parts) => parts.into_iter().flat_map(Self::into_conjunction).collect(),
            other => vec![other],
        }
    }

    /// Whether there is nothing in it but comparisons.
    pub(super) fn is_cheap(&self) -> bool {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().all(Self::is_cheap),
            Self::Not(part) => part.is_cheap(),
            Self::Matches(..) | Self::Leaf(_) => false,
            _ => true,
        }
    }

    /// Every payload path that it reads.
    pub(super) fn paths(&mut self, visit: &mut dyn FnMut(&mut DataPath)) {
        let mut operand = |operand: &mut Operand| {
            if let Operand::Data(path) = operand {
                visit(path);
            }
        };
        match self {
            Self::Constant(_) => {}
            Self::And(parts) | Self::Or(parts) => {
                for part in parts {
                    part.paths(visit);
                }
            }
            Self::Not(part) => part.paths(visit),
            Self::Compare(left, _, right) => {
                operand(left);
                operand(right);
            }
            Self::In(of, _)
            | Self::StartsWith(of, _)
            | Self::EndsWith(of, _)
            | Self::Contains(of, _)
            | Self::Matches(of, _)
            | Self::Has(of)
            | Self::Truth(of) => operand(of),
            Self::Leaf(leaf) => {
                let mut own = leaf.boxed();
                own.paths(visit);
                *leaf = own.into();
            }
        }
    }
}

/// The parts with `decisive` as the value that decides.
fn decided(
    parts: &[Predicate],
    subject: &Subject<'_>,
    decisive: bool,
) -> Result<bool, EvaluationError> {
    let mut failed = None;
    for part in parts {
        match part.evaluate(subject) {
            Ok(value) if value == decisive => return Ok(decisive),
            Ok(_) => {}
            // Nothing may hide this one.
            Err(error @ EvaluationError::OverBudget) => return Err(error),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(!decisive), Err)
}

fn string<T>(
    operand: &Operand,
    subject: &Subject<'_>,
    function: &'static str,
    judge: impl FnOnce(&str) -> T,
) -> Result<T, EvaluationError> {
    match operand.value(subject)? {
        Value::String(text) => Ok(judge(&text)),
        other => Err(EvaluationError::NoOverload {
            operation: function,
            left: other.type_name(),
            right: "string",
        }),
    }
}

impl Comparison {
    fn holds(self, left: &Value<'_>, right: &Value<'_>) -> Result<bool, EvaluationError> {
        match self {
            Self::Equal => return Ok(left.equals(right)),
            Self::NotEqual => return Ok(!left.equals(right)),
            _ => {}
        }
        let order = left
            .compare(right)
            .ok_or_else(|| EvaluationError::NoOverload {
                operation: self.sign(),
                left: left.type_name(),
                right: right.type_name(),
            })?;
        Ok(match self {
            Self::Equal => order == Ordering::Equal,
            Self::NotEqual => order != Ordering::Equal,
            Self::Less => order == Ordering::Less,
            Self::LessOrEqual => order != Ordering::Greater,
            Self::Greater => order == Ordering::Greater,
            Self::GreaterOrEqual => order != Ordering::Less,
        })
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(value) => value.fmt(f),
            Self::And(parts) => joined(f, parts, " && ", "true"),
            Self::Or(parts) => joined(f, parts, " || ", "false"),
            Self::Not(part) => write!(f, "!({part})"),
            Self::Compare(left, comparison, right) => {
                write!(f, "{left} {} {right}", comparison.sign())
            }
            Self::In(operand, literals) => {
                write!(f, "{operand} in [")?;
                for (at, literal) in literals.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    write!(f, "{comma}{literal}")?;
                }
                f.write_str("]")
            }
            Self::StartsWith(operand, text) => write!(f, "{operand}.startsWith({text:?})"),
            Self::EndsWith(operand, text) => write!(f, "{operand}.endsWith({text:?})"),
            Self::Contains(operand, text) => write!(f, "{operand}.contains({text:?})"),
            Self::Matches(operand, pattern) => {
                write!(f, "{operand}.matches({:?})", pattern.source())
            }
            Self::Has(operand) => write!(f, "has({operand})"),
            Self::Truth(operand) => operand.fmt(f),
            Self::Leaf(leaf) => leaf.fmt(f),
        }
    }
}

fn joined(
    f: &mut fmt::Formatter<'_>,
    parts: &[Predicate],
    between: &str,
    empty: &str,
) -> fmt::Result {
    if parts.is_empty() {
        return f.write_str(empty);
    }
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            f.write_str(between)?;
        }
        match part {
            Predicate::And(inner) | Predicate::Or(inner) if inner.len() > 1 => {
                write!(f, "({part})")?;
            }
            _ => write!(f, "{part}")?,
        }
    }
    Ok(())
}
