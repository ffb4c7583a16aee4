//! Evaluates an expression against an event. Everything is total: what goes
//! wrong is noted, and a value stands in for what could not be had.

use sluice_proto::event::EventRef;

use super::{
    ast::{Arithmetic, Compare, Logic, Node},
    attributes::attribute,
    cast::Value,
};
use crate::filter::budget::Budget;

/// What an expression says of an event.
#[derive(Debug)]
pub(in crate::filter) struct Evaluated {
    /// Its value, whatever went wrong.
    pub(in crate::filter) value: Value,
    /// What went wrong, in order.
    pub(in crate::filter) errors: Vec<Error>,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub(in crate::filter) struct Error {
    pub(in crate::filter) kind: ErrorKind,
    message: String,
}

/// The kinds of errors of the specification (§3.3) that an evaluation meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::filter) enum ErrorKind {
    #[error("math error")]
    Math,
    #[error("cast error")]
    Cast,
    #[error("missing attribute")]
    MissingAttribute,
    #[error("missing function")]
    MissingFunction,
    #[error("function error")]
    Function,
    /// A generic error: the evaluation was stopped.
    #[error("over its budget")]
    OverBudget,
}

pub(super) struct Evaluator<'e, 'a> {
    event: &'e EventRef<'a>,
    errors: Vec<Error>,
    /// A step for each node, and each character that `LIKE` looks at.
    budget: &'e Budget,
}

/// An operand that the event does not have, or that met an error. Whatever uses
/// it has the zero value of its own type.
struct Failed;

pub(super) fn evaluate(root: &Node, event: &EventRef<'_>, budget: &Budget) -> Evaluated {
    let mut on = Evaluator {
        event,
        errors: Vec::new(),
        budget,
    };
    let value = on.value(root).unwrap_or(Value::Boolean(false));
    if budget.left() == 0 {
        on.error(ErrorKind::OverBudget, "the evaluation was stopped");
    }
    Evaluated {
        value,
        errors: on.errors,
    }
}

impl Evaluator<'_, '_> {
    pub(super) fn error(&mut self, kind: ErrorKind, message: impl Into<String>) {
        let message = message.into();
        self.errors.push(Error { kind, message });
    }

    fn value(&mut self, node: &Node) -> Result<Value, Failed> {
        if self.budget.spend(1).is_err() {
            return Ok(Value::Boolean(false));
        }
        Ok(match node {
            Node::Literal(value) => value.clone(),
            Node::Attribute(name) => return self.attribute(name),
            Node::Exists(name) => Value::Boolean(attribute(self.event, name).is_some()),
            Node::Not(of) => Value::Boolean(self.not(of)),
            Node::Negate(of) => {
                let negated = self.operand(of).map(|of| self.integer(&of).checked_neg());
                Value::Integer(self.no_overflow(negated))
            }
            Node::Logic(operator, operands) => Value::Boolean(self.logic(*operator, operands)),
            Node::Compare(operator, left, right) => {
                let both = (self.operand(left), self.operand(right));
                let (Ok(left), Ok(right)) = both else {
                    return Ok(Value::Boolean(false));
                };
                Value::Boolean(self.compare(*operator, left, right))
            }
            Node::Arithmetic(operator, left, right) => {
                let both = (self.operand(left), self.operand(right));
                let (Ok(left), Ok(right)) = both else {
                    return Ok(Value::Integer(0));
                };
                Value::Integer(self.arithmetic(*operator, &left, &right))
            }
            Node::Like {
                value,
                pattern,
                negated,
            } => {
                let Ok(value) = self.operand(value) else {
                    return Ok(Value::Boolean(false));
                };
                let matches = pattern.matches(&value.into_string(), self.budget);
                Value::Boolean(matches != *negated)
            }
            Node::In {
                value,
                set,
                negated,
            } => Value::Boolean(self.is_in(value, set, *negated)),
            Node::Call(function, arguments) => {
                let mut values = Vec::with_capacity(arguments.len());
                let mut failed = false;
                for argument in arguments {
                    match self.operand(argument) {
                        Ok(value) => values.push(value),
                        Err(Failed) => failed = true,
                    }
                }
                if failed {
                    function.zero()
                } else {
                    function.call(values, self)
                }
            }
            Node::UnknownCall { .. } => {
                let message = node.missing_function().unwrap_or_default();
                self.error(ErrorKind::MissingFunction, message);
                Value::Boolean(false)
            }
        })
    }

    fn operand(&mut self, node: &Node) -> Result<Value, Failed> {
        let errors = self.errors.len();
        let value = self.value(node)?;
        if self.errors.len() == errors {
            Ok(value)
        } else {
            Err(Failed)
        }
    }

    fn attribute(&mut self, name: &str) -> Result<Value, Failed> {
        attribute(self.event, name).ok_or_else(|| {
            self.error(ErrorKind::MissingAttribute, name);
            Failed
        })
    }

    fn not(&mut self, of: &Node) -> bool {
        match self.operand(of) {
            Ok(Value::Integer(integer)) => {
                let message = format!("NOT is of a boolean, {integer} is an integer");
                self.error(ErrorKind::Cast, message);
                true
            }
            Ok(value) => !self.boolean(&value),
            Err(Failed) => false,
        }
    }

    /// From left to right, as far as the result depends on what comes.
    fn logic(&mut self, operator: Logic, operands: &[Node]) -> bool {
        let mut result = None;
        for operand in operands {
            let cast = self.operand(operand).map(|value| self.boolean(&value));
            let Ok(operand) = cast else {
                // The operation of this operand and those before it is false.
                result = Some(false);
                if operator == Logic::And {
                    return false;
                }
                continue;
            };
            let so_far = match (operator, result) {
                (_, None) => operand,
                (Logic::And, Some(left)) => left && operand,
                (Logic::Or, Some(left)) => left || operand,
                (Logic::Xor, Some(left)) => left != operand,
            };
            match operator {
                Logic::And if !so_far => return false,
                Logic::Or if so_far => return true,
                _ => result = Some(so_far),
            }
        }
        result.unwrap_or(false)
    }

    fn compare(&mut self, operator: Compare, left: Value, right: Value) -> bool {
        match operator {
            Compare::Equal => self.equal(left, &right),
            Compare::NotEqual => !self.equal(left, &right),
            _ => {
                let (left, right) = (self.integer(&left), self.integer(&right));
                match operator {
                    Compare::Less => left < right,
                    Compare::LessOrEqual => left <= right,
                    Compare::Greater => left > right,
                    _ => left >= right,
                }
            }
        }
    }

    /// Casts the left one to the right one's type.
    fn equal(&mut self, left: Value, right: &Value) -> bool {
        match right {
            Value::Boolean(right) => self.boolean(&left) == *right,
            Value::Integer(right) => self.integer(&left) == *right,
            Value::String(right) => left.into_string() == *right,
        }
    }

    fn is_in(&mut self, value: &Node, set: &[Node], negated: bool) -> bool {
        let value = self.operand(value);
        let (mut found, mut failed) = (false, value.is_err());
        for element in set {
            let element = self.operand(element);
            match (&value, element) {
                (Ok(value), Ok(element)) => found |= self.equal(element, value),
                _ => failed = true,
            }
        }
        !failed && found != negated
    }

    fn arithmetic(&mut self, operator: Arithmetic, left: &Value, right: &Value) -> i32 {
        let (left, right) = (self.integer(left), self.integer(right));
        let divides = matches!(operator, Arithmetic::Divide | Arithmetic::Remainder);
        if divides && right == 0 {
            self.error(ErrorKind::Math, "a division by zero");
            return 0;
        }
        let result = match operator {
            Arithmetic::Add => left.checked_add(right),
            Arithmetic::Subtract => left.checked_sub(right),
            Arithmetic::Multiply => left.checked_mul(right),
            Arithmetic::Divide => left.checked_div(right),
            Arithmetic::Remainder => Some(left.wrapping_rem(right)),
        };
        self.no_overflow(Ok(result))
    }

    fn no_overflow(&mut self, result: Result<Option<i32>, Failed>) -> i32 {
        match result {
            Ok(Some(integer)) => integer,
            Ok(None) => {
                self.error(ErrorKind::Math, "an integer overflows");
                0
            }
            Err(Failed) => 0,
        }
    }

    pub(super) fn boolean(&mut self, value: &Value) -> bool {
        value.to_boolean().unwrap_or_else(|_| {
            self.cannot_cast(value, "boolean");
            false
        })
    }

    pub(super) fn integer(&mut self, value: &Value) -> i32 {
        value.to_integer().unwrap_or_else(|_| {
            self.cannot_cast(value, "integer");
            0
        })
    }

    fn cannot_cast(&mut self, value: &Value, to: &str) {
        const SHOWN_CHARACTERS: usize = 40;
        let shown: String = value
            .clone()
            .into_string()
            .chars()
            .take(SHOWN_CHARACTERS)
            .collect();
        self.error(ErrorKind::Cast, format!("{shown:?} is no {to}"));
    }
}
