//! What a filter fixes: the values that an event's type, source or subject must
//! have. By it the events of many groups are found without a look at each.

use std::sync::Arc;

use sluice_proto::event::EventRef;

use super::{
    Comparison, Predicate, Term,
    operand::{Attribute, Literal, Operand},
};

/// An attribute by which events are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FixedAttribute {
    /// `type`
    Type,
    /// `source`
    Source,
    /// `subject`, which an event may lack.
    Subject,
}

/// A term that holds for a few values of one attribute alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// The attribute.
    pub attribute: FixedAttribute,
    /// Its values.
    pub values: Vec<Arc<str>>,
    /// Of an event without the attribute the term is an error; otherwise it is
    /// false.
    pub needs_it: bool,
    /// The place of the term in [`super::Filter::terms`].
    pub term: usize,
}

/// Values of one term, more are not looked for one by one.
const VALUES_MAX: usize = 64;

impl FixedAttribute {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Type, Self::Source, Self::Subject];

    /// What an event has there.
    #[must_use]
    pub fn of<'a>(self, event: &EventRef<'a>) -> Option<&'a str> {
        match self {
            Self::Type => Some(event.event_type()),
            Self::Source => Some(event.source()),
            Self::Subject => event.subject(),
        }
    }

    fn named(attribute: &Attribute) -> Option<Self> {
        match attribute {
            Attribute::Type => Some(Self::Type),
            Attribute::Source => Some(Self::Source),
            Attribute::Subject => Some(Self::Subject),
            _ => None,
        }
    }
}

impl Fixed {
    /// What the first of the terms fixes that fixes anything.
    pub(super) fn by(terms: &[Term]) -> Option<Self> {
        let mut terms = terms.iter().enumerate();
        terms.find_map(|(at, term)| {
            let (attribute, values, needs_it) = fixed_by(&term.predicate)?;
            (values.len() <= VALUES_MAX).then_some(Self {
                attribute,
                values,
                needs_it,
                term: at,
            })
        })
    }
}

fn fixed_by(predicate: &Predicate) -> Option<(FixedAttribute, Vec<Arc<str>>, bool)> {
    match predicate {
        Predicate::Compare(left, Comparison::Equal, right) => {
            let ((Operand::Attribute(attribute), Operand::Literal(literal))
            | (Operand::Literal(literal), Operand::Attribute(attribute))) = (left, right)
            else {
                return None;
            };
            values_of(attribute, std::slice::from_ref(literal))
        }
        Predicate::In(Operand::Attribute(attribute), literals) => values_of(attribute, literals),
        Predicate::Or(parts) => {
            let mut parts = parts.iter().map(fixed_by);
            let (attribute, mut values, mut needs_it) = parts.next()??;
            for part in parts {
                let (other, more, needs) = part?;
                if other != attribute {
                    return None;
                }
                values.extend(more);
                needs_it |= needs;
            }
            values.sort();
            values.dedup();
            Some((attribute, values, needs_it))
        }
        // As the dialects compare what an event may lack.
        Predicate::And(parts) => match &parts[..] {
            [Predicate::Has(Operand::Attribute(has)), compare] => {
                let (attribute, values, _) = fixed_by(compare)?;
                (FixedAttribute::named(has) == Some(attribute))
                    .then_some((attribute, values, false))
            }
            _ => None,
        },
        _ => None,
    }
}

fn values_of(
    attribute: &Attribute,
    literals: &[Literal],
) -> Option<(FixedAttribute, Vec<Arc<str>>, bool)> {
    let attribute = FixedAttribute::named(attribute)?;
    // It is a string, which equals nothing else.
    let strings = literals.iter().filter_map(|literal| match literal {
        Literal::String(value) => Some(value.clone()),
        _ => None,
    });
    let mut values: Vec<_> = strings.collect();
    values.sort();
    values.dedup();
    Some((attribute, values, attribute == FixedAttribute::Subject))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;
    use sluice_proto::pb;

    use super::*;
    use crate::filter::{Filter, Verdict};

    fn fixed(source: &str) -> Option<(FixedAttribute, Vec<String>, usize)> {
        let filter = Filter::compile(source).unwrap();
        let fixed = filter.fixed()?;
        let values = fixed.values.iter().map(|value| value.to_string());
        Some((fixed.attribute, values.collect(), fixed.term))
    }

    #[test]
    fn what_fixes_an_attribute_is_seen() {
        use FixedAttribute::{Source, Subject, Type};
        let is = |source, attribute, values: &[&str], term| {
            let values = values.iter().map(|v| (*v).to_owned()).collect();
            assert_eq!(fixed(source), Some((attribute, values, term)), "{source}");
        };
        is(r#"event.type == "a""#, Type, &["a"], 0);
        is(r#""a" == event.type"#, Type, &["a"], 0);
        is(
            r#"event.data.x > 1 && event.source == "s""#,
            Source,
            &["s"],
            1,
        );
        is(
            r#"event.subject in ["b", "a", 1, "b"]"#,
            Subject,
            &["a", "b"],
            0,
        );
        is(
            r#"event.type == "b" || event.type == "a""#,
            Type,
            &["a", "b"],
            0,
        );
        is(r#"event.type in []"#, Type, &[], 0);
        for source in [
            r#"event.type != "a""#,
            r#"event.type == "a" || event.source == "b""#,
            r#"event.type == "a" || true"#,
            r#"!(event.type == "a")"#,
            r#"event.type.startsWith("a")"#,
            r#"event.id == "a""#,
            r#"event.type == event.source"#,
        ] {
            assert_eq!(fixed(source), None, "{source}");
        }
        let dialects = Filter::of_dialects_json(r#"[{"exact": {"subject": "a"}}]"#).unwrap();
        assert!(!dialects.fixed().unwrap().needs_it);
    }

    proptest! {
        /// An event without one of the values is dropped by the term, whatever
        /// else the filter says, or fails if it lacks what is needed.
        #[test]
        fn the_others_are_dropped_by_that_term(
            filter in prop::sample::select(vec![
                r#"event.type == "a""#,
                r#"event.data.x == 1 && event.type in ["a", "b"]"#,
                r#"event.subject == "a" && event.type != "c""#,
                r#"event.subject == "b" || event.subject == "c""#,
                r#"event.missing == 1 && (event.source == "a" || event.source == "b")"#,
            ]),
            event_type in "[a-d]",
            source in "[a-d]",
            subject in "[a-d]?",
            data in prop::sample::select(vec!["{\"x\":1}", "{\"x\":2}", "no"]),
        ) {
            let filter = Filter::compile(filter).unwrap();
            let fixed = filter.fixed().unwrap();
            let event = pb::Event {
                id: "1".into(),
                source,
                r#type: event_type,
                subject,
                data_content_type: "application/json".into(),
                data: data.into(),
                ..Default::default()
            }
            .encode_to_vec();
            let event = EventRef::read(&event).unwrap();
            let verdict = filter.judge(&filter.subject(&event, 1));
            let dropped = Verdict::Dropped { term: fixed.term };
            match fixed.attribute.of(&event) {
                Some(value) => {
                    let is_one = fixed.values.iter().any(|one| **one == *value);
                    prop_assert_eq!(verdict == dropped, !is_one);
                }
                None => prop_assert!(fixed.needs_it && verdict != Verdict::Matched),
            }
        }
    }
}
