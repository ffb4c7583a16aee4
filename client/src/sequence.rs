//! The numbers of a producer session: which may be used next.
//!
//! The broker remembers results in a window above the highest number that it
//! applied. So that no number falls out of it while its request may still be
//! sent again, and none runs ahead of it, all numbers under way lie within
//! `span` of each other; and a number that was refused, and so not taken, is
//! used again first.

use std::collections::BTreeSet;

/// Numbers of one session.
#[derive(Debug)]
pub(crate) struct Sequence {
    next: u64,
    span: u64,
    under_way: BTreeSet<u64>,
    refused: BTreeSet<u64>,
}

impl Sequence {
    /// A new session with at most `span` numbers under way.
    pub(crate) fn new(span: u64) -> Self {
        Self {
            next: 1,
            span: span.max(1),
            under_way: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }

    /// A number to use now; `None` while too many are under way.
    pub(crate) fn take(&mut self) -> Option<u64> {
        let number = self.refused.first().copied().unwrap_or(self.next);
        let lowest = self.under_way.first().copied().unwrap_or(number);
        if number >= lowest.saturating_add(self.span) {
            return None;
        }
        if !self.refused.remove(&number) {
            self.next += 1;
        }
        self.under_way.insert(number);
        Some(number)
    }

    /// The number's request was applied, or will not be sent again.
    pub(crate) fn done(&mut self, number: u64) {
        self.under_way.remove(&number);
    }

    /// The number's request was refused for good, so the number is free.
    pub(crate) fn refused(&mut self, number: u64) {
        if self.under_way.remove(&number) {
            self.refused.insert(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the broker's rule: a number is accepted if it is above
        /// `highest - span` and at most `highest + span`.
        #[test]
        fn every_number_is_one_that_the_broker_takes(
            steps in proptest::collection::vec((0_u8..4, any::<prop::sample::Index>()), 1..400),
        ) {
            const SPAN: u64 = 8;
            let mut sequence = Sequence::new(SPAN);
            let mut under_way: Vec<u64> = Vec::new();
            let mut applied = BTreeSet::new();
            let mut highest = 0_u64;
            for (step, which) in steps {
                if step < 2 {
                    if let Some(number) = sequence.take() {
                        prop_assert!(!applied.contains(&number));
                        prop_assert!(number <= highest + SPAN, "{number} after {highest}");
                        under_way.push(number);
                    }
                } else if !under_way.is_empty() {
                    let number = under_way.swap_remove(which.index(under_way.len()));
                    prop_assert!(number + SPAN > highest, "{number} after {highest}");
                    if step == 2 {
                        applied.insert(number);
                        highest = highest.max(number);
                        sequence.done(number);
                    } else {
                        sequence.refused(number);
                    }
                }
                if under_way.is_empty() {
                    let number = sequence.take();
                    prop_assert!(number.is_some(), "stuck");
                    under_way.extend(number);
                }
            }
        }
    }
}
