//! The built-in functions (§3.5 of the specification, and the casts).

use super::{
    cast::Value,
    evaluate::{ErrorKind, Evaluator},
};

/// Longest string that a function may make, in bytes.
pub(super) const STRING_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Int,
    Bool,
    String,
    Abs,
    Length,
    Concat,
    ConcatWs,
    Lower,
    Upper,
    Trim,
    Left,
    Right,
    Substring,
}

impl Function {
    /// By its name in lower case and its number of arguments.
    pub(super) fn find(name: &str, arguments: usize) -> Option<Self> {
        match (name, arguments) {
            ("int", 1) => Some(Self::Int),
            ("bool", 1) => Some(Self::Bool),
            ("string", 1) => Some(Self::String),
            ("abs", 1) => Some(Self::Abs),
            ("length", 1) => Some(Self::Length),
            ("concat", _) => Some(Self::Concat),
            ("concat_ws", 1..) => Some(Self::ConcatWs),
            ("lower", 1) => Some(Self::Lower),
            ("upper", 1) => Some(Self::Upper),
            ("trim", 1) => Some(Self::Trim),
            ("left", 2) => Some(Self::Left),
            ("right", 2) => Some(Self::Right),
            ("substring", 2 | 3) => Some(Self::Substring),
            _ => None,
        }
    }

    /// What it gives when an argument is missing.
    pub(super) fn zero(self) -> Value {
        match self {
            Self::Bool => Value::Boolean(false),
            Self::Int | Self::Abs | Self::Length => Value::Integer(0),
            _ => Value::String(String::new()),
        }
    }

    /// Calls it with as many arguments as [`Function::find`] was given.
    pub(super) fn call(self, arguments: Vec<Value>, on: &mut Evaluator<'_, '_>) -> Value {
        let mut arguments = arguments.into_iter();
        let Some(first) = arguments.next() else {
            return self.zero();
        };
        match self {
            Self::Int => Value::Integer(on.integer(&first)),
            Self::Bool => Value::Boolean(on.boolean(&first)),
            Self::String => Value::String(first.into_string()),
            Self::Abs => {
                let integer = on.integer(&first);
                Value::Integer(integer.checked_abs().unwrap_or_else(|| {
                    on.error(ErrorKind::Math, "ABS of the smallest integer");
                    i32::MAX
                }))
            }
            Self::Length => {
                let length = first.into_string().chars().count();
                Value::Integer(i32::try_from(length).unwrap_or(i32::MAX))
            }
            Self::Concat => join("", std::iter::once(first).chain(arguments), on),
            Self::ConcatWs => join(&first.into_string(), arguments, on),
            Self::Lower => bounded(first.into_string().to_lowercase(), on),
            Self::Upper => bounded(first.into_string().to_uppercase(), on),
            Self::Trim => Value::String(first.into_string().trim().to_owned()),
            Self::Left | Self::Right => {
                let text = first.into_string();
                let count = arguments.next().map_or(0, |count| on.integer(&count));
                let Ok(count) = usize::try_from(count) else {
                    on.error(ErrorKind::Function, "a negative length");
                    return Value::String(text);
                };
                let length = text.chars().count();
                let part = if self == Self::Left {
                    text.chars().take(count).collect()
                } else {
                    text.chars().skip(length.saturating_sub(count)).collect()
                };
                Value::String(part)
            }
            Self::Substring => {
                let text = first.into_string();
                let from = arguments.next().map_or(0, |from| on.integer(&from));
                let length = arguments.next().map(|length| on.integer(&length));
                match substring(&text, from, length) {
                    Ok(part) => Value::String(part),
                    Err(problem) => {
                        on.error(ErrorKind::Function, problem);
                        Value::String(String::new())
                    }
                }
            }
        }
    }
}

fn join(delimiter: &str, parts: impl Iterator<Item = Value>, on: &mut Evaluator<'_, '_>) -> Value {
    let mut joined = String::new();
    for (at, part) in parts.enumerate() {
        if at > 0 {
            joined.push_str(delimiter);
        }
        joined.push_str(&part.into_string());
        if joined.len() > STRING_BYTES_MAX {
            break;
        }
    }
    bounded(joined, on)
}

fn bounded(text: String, on: &mut Evaluator<'_, '_>) -> Value {
    if text.len() > STRING_BYTES_MAX {
        let message = format!("a string of more than {STRING_BYTES_MAX} bytes, the limit");
        on.error(ErrorKind::Function, message);
        return Value::String(String::new());
    }
    Value::String(text)
}

/// Characters count from 1, and from the end if `from` is negative.
fn substring(text: &str, from: i32, length: Option<i32>) -> Result<String, &'static str> {
    let characters = text.chars().count();
    if from.unsigned_abs() as usize > characters {
        return Err("SUBSTRING begins outside of the string");
    }
    let length = match length.map(usize::try_from) {
        None => usize::MAX,
        Some(Ok(length)) => length,
        Some(Err(_)) => return Err("a negative length"),
    };
    let skipped = match from {
        0 => return Ok(String::new()),
        1.. => from as usize - 1,
        _ => characters - from.unsigned_abs() as usize,
    };
    Ok(text.chars().skip(skipped).take(length).collect())
}
