//! Patterns of `LIKE`: `%` stands for any characters, `_` for one, and a
//! backslash before either for itself.

use crate::filter::budget::Budget;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Character(char),
}

impl Pattern {
    pub(super) fn new(source: &str) -> Self {
        let mut parts = Vec::new();
        let mut characters = source.chars().peekable();
        while let Some(character) = characters.next() {
            parts.push(match character {
                '%' => Part::Any,
                '_' => Part::One,
                '\\' => match characters.next_if(|next| matches!(next, '%' | '_')) {
                    Some(escaped) => Part::Character(escaped),
                    None => Part::Character('\\'),
                },
                other => Part::Character(other),
            });
        }
        parts.dedup_by(|later, earlier| *later == Part::Any && *earlier == Part::Any);
        Self(parts)
    }

    /// Whether the whole of `text` matches. Takes a step for each character
    /// that is looked at; false when there are none left.
    pub(super) fn matches(&self, text: &str, budget: &Budget) -> bool {
        let (mut part, mut rest) = (0, text.chars());
        // Where to go on when this fails: the last `%` takes one more.
        let mut again = None;
        while budget.spend(1).is_ok() {
            match self.0.get(part) {
                Some(Part::Any) => {
                    part += 1;
                    again = Some((part, rest.clone()));
                    continue;
                }
                Some(Part::One) if rest.clone().next().is_some() => {
                    rest.next();
                    part += 1;
                    continue;
                }
                Some(Part::Character(wanted)) if rest.clone().next() == Some(*wanted) => {
                    rest.next();
                    part += 1;
                    continue;
                }
                None if rest.clone().next().is_none() => return true,
                _ => {}
            }
            let Some((after_any, from)) = &mut again else {
                return false;
            };
            if from.next().is_none() {
                return false;
            }
            part = *after_any;
            rest = from.clone();
        }
        false
    }
}
