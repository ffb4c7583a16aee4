//! The filter dialects of the CloudEvents Subscriptions API (§3.2.4 of
//! <https://github.com/cloudevents/spec/blob/main/subscriptions/spec.md>),
//! compiled to the same [`Predicate`] that CEL is.
//!
//! `exact`, `prefix` and `suffix` compare an attribute as text, and are false,
//! not an error, of one that the event does not have. An error in `sql` is an
//! error of the filter, and no match, except below a `not`: there it is false,
//! as the specification has it, so that the `not` is true.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    EvaluationError, FILTER_BYTES_MAX, Filter, Leaf, Term,
    cesql::{self, ErrorKind, Evaluated, Expression},
    operand::{Attribute, Literal, Operand},
    predicate::{Comparison, Predicate},
    subject::Subject,
};

/// Deepest nesting of `all`, `any` and `not`.
pub const DIALECT_DEPTH_MAX: usize = 16;
/// Most filters, nested ones and each attribute of one counted.
pub const DIALECT_FILTERS_MAX: usize = 256;

/// One filter, as in the specification's JSON: `{"exact": {"type": "x"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Every attribute is exactly this.
    Exact(BTreeMap<String, String>),
    /// Every attribute begins with this.
    Prefix(BTreeMap<String, String>),
    /// Every attribute ends with this.
    Suffix(BTreeMap<String, String>),
    /// Every filter is true.
    All(Vec<Dialect>),
    /// Some filter is true.
    Any(Vec<Dialect>),
    /// The filter is false.
    Not(Box<Dialect>),
    /// A CloudEvents SQL expression.
    Sql(String),
}

/// What is wrong with a filter, and which one: a path such as
/// `[1].all[0].exact`, to be put behind the name of the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct DialectError {
    /// Which.
    pub path: String,
    /// What.
    pub problem: String,
}

impl Filter {
    /// The filter that lets an event pass if every one of these does.
    ///
    /// # Errors
    /// When one of them is empty, over a bound, or no CESQL.
    pub fn of_dialects(filters: &[Dialect]) -> Result<Self, DialectError> {
        let mut compiler = Compiler::default();
        let mut terms = Vec::new();
        for (at, filter) in filters.iter().enumerate() {
            compiler.terms(filter, &format!("[{at}]"), 1, &mut terms)?;
        }
        Ok(Self::of(terms))
    }

    /// The same from its form in the log.
    ///
    /// # Errors
    /// As [`Filter::of_dialects`].
    pub fn of_dialects_json(json: &str) -> Result<Self, DialectError> {
        let filters: Vec<Dialect> = serde_json::from_str(json).map_err(|error| DialectError {
            path: String::new(),
            problem: error.to_string(),
        })?;
        Self::of_dialects(&filters)
    }
}

#[derive(Default)]
struct Compiler {
    filters: usize,
    bytes: usize,
}

/// How an attribute is compared.
#[derive(Clone, Copy, Debug)]
enum How {
    Exact,
    Prefix,
    Suffix,
}

impl Compiler {
    /// The terms of a filter of the top level: what it says of each attribute,
    /// and each part of an `all`, is one of its own.
    fn terms(
        &mut self,
        filter: &Dialect,
        path: &str,
        depth: usize,
        terms: &mut Vec<Term>,
    ) -> Result<(), DialectError> {
        match filter {
            Dialect::All(parts) => {
                self.nest(parts.len(), path, "all", depth)?;
                for (at, part) in parts.iter().enumerate() {
                    self.terms(part, &format!("{path}.all[{at}]"), depth + 1, terms)?;
                }
            }
            Dialect::Exact(_) | Dialect::Prefix(_) | Dialect::Suffix(_) => {
                for (text, predicate) in self.attributes(filter, path)? {
                    terms.push(Term::new(text, predicate));
                }
            }
            Dialect::Any(_) | Dialect::Not(_) | Dialect::Sql(_) => {
                let predicate = self.predicate(filter, path, depth, false)?;
                let text = serde_json::to_string(filter).unwrap_or_default();
                terms.push(Term::new(text, predicate));
            }
        }
        Ok(())
    }

    fn predicate(
        &mut self,
        filter: &Dialect,
        path: &str,
        depth: usize,
        in_not: bool,
    ) -> Result<Predicate, DialectError> {
        Ok(match filter {
            Dialect::Exact(_) | Dialect::Prefix(_) | Dialect::Suffix(_) => {
                let parts = self.attributes(filter, path)?;
                Predicate::And(parts.into_iter().map(|(_, part)| part).collect())
            }
            Dialect::All(parts) => Predicate::And(self.parts(parts, path, "all", depth, in_not)?),
            Dialect::Any(parts) => Predicate::Or(self.parts(parts, path, "any", depth, in_not)?),
            Dialect::Not(part) => {
                self.nest(1, path, "not", depth)?;
                let part = self.predicate(part, &format!("{path}.not"), depth + 1, true)?;
                Predicate::Not(Box::new(part))
            }
            Dialect::Sql(source) => Predicate::Leaf(Arc::new(self.sql(source, path, in_not)?)),
        })
    }

    fn parts(
        &mut self,
        parts: &[Dialect],
        path: &str,
        name: &str,
        depth: usize,
        in_not: bool,
    ) -> Result<Vec<Predicate>, DialectError> {
        self.nest(parts.len(), path, name, depth)?;
        let part =
            |(at, part)| self.predicate(part, &format!("{path}.{name}[{at}]"), depth + 1, in_not);
        parts.iter().enumerate().map(part).collect()
    }

    fn nest(&self, parts: usize, path: &str, name: &str, depth: usize) -> Result<(), DialectError> {
        let path = || format!("{path}.{name}");
        if parts == 0 {
            return refuse(path(), "it must have at least one filter");
        }
        if depth >= DIALECT_DEPTH_MAX {
            let problem = format!("it nests more than {DIALECT_DEPTH_MAX} deep, the limit");
            return refuse(path(), problem);
        }
        Ok(())
    }

    /// Each attribute that a filter compares, as a term would show it.
    fn attributes(
        &mut self,
        filter: &Dialect,
        path: &str,
    ) -> Result<Vec<(String, Predicate)>, DialectError> {
        let (how, name, attributes) = match filter {
            Dialect::Exact(attributes) => (How::Exact, "exact", attributes),
            Dialect::Prefix(attributes) => (How::Prefix, "prefix", attributes),
            Dialect::Suffix(attributes) => (How::Suffix, "suffix", attributes),
            _ => return Ok(Vec::new()),
        };
        if attributes.is_empty() {
            return refuse(format!("{path}.{name}"), "it must name an attribute");
        }
        let mut parts = Vec::with_capacity(attributes.len());
        for (attribute, value) in attributes {
            let path = || format!("{path}.{name}[{attribute:?}]");
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            if attribute.is_empty() || !attribute.bytes().all(allowed) {
                let problem = "the name of an attribute is of lower-case letters and digits";
                return refuse(path(), problem);
            }
            if value.is_empty() {
                return refuse(path(), "the value must not be empty");
            }
            self.count(attribute.len() + value.len(), path)?;
            let text = format!("{name} {attribute} {value:?}");
            parts.push((text, compare(how, attribute, value)));
        }
        Ok(parts)
    }

    fn sql(&mut self, source: &str, path: &str, in_not: bool) -> Result<Sql, DialectError> {
        let path = || format!("{path}.sql");
        self.count(source.len(), path)?;
        let expression = match Expression::parse(source) {
            Ok(expression) => expression,
            Err(error) => return refuse(path(), error.to_string()),
        };
        if let Some(call) = expression.missing_function() {
            return refuse(path(), format!("there is no function {call}"));
        }
        Ok(Sql {
            source: source.into(),
            expression,
            in_not,
        })
    }

    fn count(&mut self, bytes: usize, path: impl Fn() -> String) -> Result<(), DialectError> {
        self.filters += 1;
        self.bytes += bytes;
        if self.filters > DIALECT_FILTERS_MAX {
            let problem = format!("there are more than {DIALECT_FILTERS_MAX} filters, the limit");
            return refuse(path(), problem);
        }
        if self.bytes > FILTER_BYTES_MAX {
            let problem = format!("the filters have more than {FILTER_BYTES_MAX} bytes, the limit");
            return refuse(path(), problem);
        }
        Ok(())
    }
}

fn refuse<T>(path: String, problem: impl Into<String>) -> Result<T, DialectError> {
    let problem = problem.into();
    Err(DialectError { path, problem })
}

fn compare(how: How, name: &str, value: &str) -> Predicate {
    let attribute = match name {
        "specversion" => Attribute::SpecVersion,
        "id" => Attribute::Id,
        "source" => Attribute::Source,
        "type" => Attribute::Type,
        "subject" => Attribute::Subject,
        "datacontenttype" => Attribute::DataContentType,
        "dataschema" => Attribute::DataSchema,
        // A time, or an extension, which may have any type.
        _ => {
            return Predicate::Leaf(Arc::new(AttributeText {
                how,
                name: name.into(),
                value: value.into(),
            }));
        }
    };
    let required = !matches!(
        attribute,
        Attribute::Subject | Attribute::DataContentType | Attribute::DataSchema
    );
    let operand = Operand::Attribute(attribute);
    let has = Predicate::Has(operand.clone());
    let compared = match how {
        How::Exact => Predicate::Compare(
            operand,
            Comparison::Equal,
            Operand::Literal(Literal::String(value.into())),
        ),
        How::Prefix => Predicate::StartsWith(operand, value.into()),
        How::Suffix => Predicate::EndsWith(operand, value.into()),
    };
    if required {
        compared
    } else {
        // False of an event without it, instead of an error.
        Predicate::And(vec![has, compared])
    }
}

/// An attribute of any type, compared as CloudEvents write it.
#[derive(Clone, Debug)]
struct AttributeText {
    how: How,
    name: String,
    value: String,
}

impl Leaf for AttributeText {
    fn evaluate(&self, subject: &Subject<'_>) -> Result<bool, EvaluationError> {
        let Some(text) = cesql::attribute_text(subject.event(), &self.name) else {
            return Ok(false);
        };
        Ok(match self.how {
            How::Exact => text == self.value,
            How::Prefix => text.starts_with(&self.value),
            How::Suffix => text.ends_with(&self.value),
        })
    }

    fn operands(&self) -> Vec<Operand> {
        let attribute = Attribute::Extension(self.name.as_str().into());
        let named = Attribute::named(&self.name).filter(|named| *named == Attribute::Time);
        vec![Operand::Attribute(named.unwrap_or(attribute))]
    }

    fn boxed(&self) -> Box<dyn Leaf> {
        Box::new(self.clone())
    }
}

impl fmt::Display for AttributeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.how {
            How::Exact => "exact",
            How::Prefix => "prefix",
            How::Suffix => "suffix",
        };
        write!(f, "{how} {} {:?}", self.name, self.value)
    }
}

/// A CESQL expression.
#[derive(Clone, Debug)]
struct Sql {
    source: Arc<str>,
    expression: Expression,
    /// Below a `not`, where an error is false.
    in_not: bool,
}

impl Leaf for Sql {
    fn evaluate(&self, subject: &Subject<'_>) -> Result<bool, EvaluationError> {
        let Evaluated { value, errors } =
            self.expression.evaluate(subject.event(), subject.budget());
        if errors
            .iter()
            .any(|error| error.kind == ErrorKind::OverBudget)
        {
            return Err(EvaluationError::OverBudget);
        }
        match (value, errors.first()) {
            (cesql::Value::Boolean(holds), None) => Ok(holds),
            _ if self.in_not => Ok(false),
            (_, Some(error)) => Err(EvaluationError::Cesql(error.to_string())),
            (other, None) => Err(EvaluationError::NotBool(other.type_name())),
        }
    }

    fn operands(&self) -> Vec<Operand> {
        let mut names = Vec::new();
        self.expression.attributes(&mut names);
        let named = |name: &str| match name {
            // Extensions to CESQL.
            "key" | "attempt" | "data" => Some(Attribute::Extension(name.into())),
            _ => Attribute::named(name),
        };
        let attributes = names.into_iter().filter_map(named);
        attributes.map(Operand::Attribute).collect()
    }

    fn boxed(&self) -> Box<dyn Leaf> {
        Box::new(self.clone())
    }
}

impl fmt::Display for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sql {:?}", self.source)
    }
}

#[cfg(test)]
mod tests;
