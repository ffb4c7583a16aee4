//! An expression as parsed.

use super::{cast::Value, functions::Function, like::Pattern};

#[derive(Debug)]
pub(super) enum Node {
    Literal(Value),
    /// By its name, in lower case.
    Attribute(String),
    Exists(String),
    Not(Box<Node>),
    Negate(Box<Node>),
    /// Two or more operands of one operator, from left to right.
    Logic(Logic, Vec<Node>),
    Compare(Compare, Box<Node>, Box<Node>),
    Arithmetic(Arithmetic, Box<Node>, Box<Node>),
    Like {
        value: Box<Node>,
        pattern: Pattern,
        negated: bool,
    },
    In {
        value: Box<Node>,
        set: Vec<Node>,
        negated: bool,
    },
    Call(Function, Vec<Node>),
    /// Of a function that does not exist with so many arguments.
    UnknownCall {
        name: String,
        arguments: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logic {
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Node {
    pub(super) fn missing_function(&self) -> Option<String> {
        match self {
            Self::Literal(_) | Self::Attribute(_) | Self::Exists(_) => None,
            Self::Not(of) | Self::Negate(of) | Self::Like { value: of, .. } => {
                of.missing_function()
            }
            Self::Compare(_, left, right) | Self::Arithmetic(_, left, right) => {
                left.missing_function().or_else(|| right.missing_function())
            }
            Self::Logic(_, nodes) | Self::Call(_, nodes) => {
                nodes.iter().find_map(Self::missing_function)
            }
            Self::In { value, set, .. } => value
                .missing_function()
                .or_else(|| set.iter().find_map(Self::missing_function)),
            Self::UnknownCall { name, arguments } => {
                let plural = if *arguments == 1 { "" } else { "s" };
                Some(format!("{name} with {arguments} argument{plural}"))
            }
        }
    }

    pub(super) fn attributes<'a>(&'a self, names: &mut Vec<&'a str>) {
        match self {
            Self::Literal(_) | Self::UnknownCall { .. } => {}
            Self::Attribute(name) | Self::Exists(name) => names.push(name),
            Self::Not(of) | Self::Negate(of) | Self::Like { value: of, .. } => of.attributes(names),
            Self::Compare(_, left, right) | Self::Arithmetic(_, left, right) => {
                left.attributes(names);
                right.attributes(names);
            }
            Self::Logic(_, nodes) | Self::Call(_, nodes) => {
                for node in nodes {
                    node.attributes(names);
                }
            }
            Self::In { value, set, .. } => {
                value.attributes(names);
                for node in set {
                    node.attributes(names);
                }
            }
        }
    }
}
