//! What a filter did, counted.

use sluice_proto::{Offset, PartitionId};

use super::Verdict;

/// Verdicts over many events:
/// `matched + the sum of dropped + errors == seen`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events that were judged.
    pub seen: u64,
    /// Events for which every term was true.
    pub matched: u64,
    /// For each term, the events that it dropped.
    pub dropped: Vec<u64>,
    /// Events that could not be judged.
    pub errors: u64,
    /// The last of them.
    pub last_error: Option<Failure>,
}

/// An event that could not be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where it is.
    pub partition: PartitionId,
    /// Where in it.
    pub offset: Offset,
    /// The first term that failed.
    pub term: usize,
    /// Why.
    pub message: String,
}

impl Counters {
    /// Counts events of which every one matches, because there is no filter.
    pub fn all_match(&mut self, events: usize) {
        self.seen += events as u64;
        self.matched += events as u64;
    }

    /// Counts events that a term drops, none of which was looked at.
    pub fn all_dropped(&mut self, term: usize, events: u64) {
        if events > 0 {
            self.seen += events;
            self.reach(term + 1);
            self.dropped[term] += events;
        }
    }

    /// Counts an event.
    pub fn count(&mut self, partition: PartitionId, offset: Offset, verdict: &Verdict) {
        self.seen += 1;
        match verdict {
            Verdict::Matched => self.matched += 1,
            Verdict::Dropped { term } => {
                self.reach(term + 1);
                self.dropped[*term] += 1;
            }
            Verdict::Failed { term, error } => {
                self.errors += 1;
                self.last_error = Some(Failure {
                    partition,
                    offset,
                    term: *term,
                    message: error.to_string(),
                });
            }
        }
    }

    /// Adds what was counted after.
    pub fn add(&mut self, later: Self) {
        self.seen += later.seen;
        self.matched += later.matched;
        self.errors += later.errors;
        self.reach(later.dropped.len());
        for (sum, more) in self.dropped.iter_mut().zip(&later.dropped) {
            *sum += more;
        }
        if later.last_error.is_some() {
            self.last_error = later.last_error;
        }
    }

    /// Events that some term dropped.
    #[must_use]
    pub fn dropped_by_any(&self) -> u64 {
        self.dropped.iter().sum()
    }

    fn reach(&mut self, terms: usize) {
        if self.dropped.len() < terms {
            self.dropped.resize(terms, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::EvaluationError;

    fn verdict() -> impl Strategy<Value = Verdict> {
        (0..3_u8, 0..5_usize).prop_map(|(kind, term)| match kind {
            0 => Verdict::Matched,
            1 => Verdict::Dropped { term },
            _ => Verdict::Failed {
                term,
                error: EvaluationError::Cel(format!("of term {term}")),
            },
        })
    }

    proptest! {
        #[test]
        fn they_add_up_page_by_page(
            pages in proptest::collection::vec(proptest::collection::vec(verdict(), 0..20), 0..10),
        ) {
            let (mut by_page, mut at_once) = (Counters::default(), Counters::default());
            let mut offset = Offset(0);
            for verdicts in &pages {
                let mut page = Counters::default();
                for verdict in verdicts {
                    page.count(PartitionId(0), offset, verdict);
                    at_once.count(PartitionId(0), offset, verdict);
                    offset = offset.next();
                }
                by_page.add(page);
            }
            prop_assert_eq!(by_page.seen as usize, pages.iter().map(Vec::len).sum::<usize>());
            let counted = by_page.matched + by_page.dropped_by_any() + by_page.errors;
            prop_assert_eq!(counted, by_page.seen);
            prop_assert_eq!(by_page, at_once);
        }
    }
}
