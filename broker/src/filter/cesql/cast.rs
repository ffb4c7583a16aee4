//! Values, and how one type becomes another (§3.7 of the specification).

/// A value of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::filter) enum Value {
    Boolean(bool),
    Integer(i32),
    String(String),
}

/// It cannot be cast; the target's zero value stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoCast;

impl Value {
    pub(super) fn to_boolean(&self) -> Result<bool, NoCast> {
        match self {
            Self::Boolean(boolean) => Ok(*boolean),
            Self::Integer(integer) => Ok(*integer != 0),
            Self::String(string) if string.eq_ignore_ascii_case("true") => Ok(true),
            Self::String(string) if string.eq_ignore_ascii_case("false") => Ok(false),
            Self::String(_) => Err(NoCast),
        }
    }

    pub(super) fn to_integer(&self) -> Result<i32, NoCast> {
        match self {
            Self::Boolean(boolean) => Ok((*boolean).into()),
            Self::Integer(integer) => Ok(*integer),
            // An optional sign and digits, which is what it reads.
            Self::String(string) => string.parse().map_err(|_| NoCast),
        }
    }

    pub(super) fn into_string(self) -> String {
        match self {
            Self::Boolean(boolean) => boolean.to_string(),
            Self::Integer(integer) => integer.to_string(),
            Self::String(string) => string,
        }
    }

    pub(in crate::filter) fn type_name(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "boolean",
            Self::Integer(_) => "integer",
            Self::String(_) => "string",
        }
    }
}
