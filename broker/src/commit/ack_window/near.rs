//! Which offsets not far above a window's end are settled: a bit for each.
//!
//! Acks of events that are worked on in parallel come in any order, within some
//! thousands of each other. To set a bit costs less than to find a run among as many,
//! and each ack does it twice: for the group, and for the log.

use std::collections::VecDeque;

use sluice_proto::Offset;

/// Offsets that have bits, at most: 8 KiB, of which there may be twice as much while
/// they become more.
pub(super) const SPAN: u64 = 1 << 16;
/// Offsets in a word.
const WORD: u64 = u64::BITS as u64;
/// Memory for more words than these is given back when a fourth of it is enough.
const WORDS_KEPT: usize = 64;

/// Bits from an offset on.
#[derive(Clone, Debug)]
pub(super) struct Near {
    /// Everything below is settled, and this is not.
    from: u64,
    /// From the word of `from` on; what has none is not settled. Those below `from` in
    /// the first one say nothing.
    words: VecDeque<u64>,
    runs: usize,
}

/// The bits of `start..end` in the word that begins at `word`.
fn mask(word: u64, start: u64, end: u64) -> u64 {
    let low = start.saturating_sub(word);
    let high = (end - word).min(WORD);
    match high.checked_sub(low) {
        None | Some(0) => 0,
        Some(count) => (u64::MAX >> (WORD - count)) << low,
    }
}

impl Near {
    pub(super) fn new(from: Offset) -> Self {
        Self {
            from: from.0,
            words: VecDeque::new(),
            runs: 0,
        }
    }

    /// Everything below is settled.
    pub(super) fn from(&self) -> Offset {
        Offset(self.from)
    }

    fn base(&self) -> u64 {
        self.from / WORD * WORD
    }

    /// What is here or above has no bit.
    pub(super) fn limit(&self) -> Offset {
        Offset(self.base().saturating_add(SPAN))
    }

    /// How many runs are settled.
    pub(super) fn runs(&self) -> usize {
        self.runs
    }

    /// Words that have memory.
    #[cfg(test)]
    pub(super) fn words(&self) -> usize {
        self.words.capacity()
    }

    fn index(&self, offset: u64) -> usize {
        // The words reach as far as `SPAN`.
        ((offset - self.base()) / WORD) as usize
    }

    /// Words with the offsets at which they begin, from the one with `offset` on.
    fn words_from(&self, offset: u64) -> impl Iterator<Item = (u64, u64)> {
        let first = self.index(offset).min(self.words.len());
        let base = self.base();
        let words = self.words.range(first..).enumerate();
        words.map(move |(at, word)| (base + (first + at) as u64 * WORD, *word))
    }

    /// Whether an offset below [`Near::limit`] is settled.
    pub(super) fn is_settled(&self, offset: Offset) -> bool {
        let Offset(offset) = offset;
        offset < self.from
            || self
                .words
                .get(self.index(offset))
                .is_some_and(|word| word >> (offset % WORD) & 1 == 1)
    }

    /// Settles `start..end`, which is not empty, begins above `from`, and ends at the limit
    /// or below. False when all of it was settled before.
    pub(super) fn settle(&mut self, start: Offset, end: Offset) -> bool {
        let joins_below = self.is_settled(Offset(start.0 - 1));
        let joined = self.runs_that_begin(start.0, end.0);
        let last = self.index(end.0 - 1);
        if self.words.len() <= last {
            self.words.resize(last + 1, 0);
        }
        let (first, base) = (self.index(start.0), self.base());
        let mut fresh = false;
        for (at, word) in self.words.range_mut(first..=last).enumerate() {
            let begins = base + (first + at) as u64 * WORD;
            let bits = mask(begins, start.0, end.0);
            fresh |= *word & bits != bits;
            *word |= bits;
        }
        self.runs = self.runs + usize::from(!joins_below) - joined;
        fresh
    }

    /// How many runs begin at `first..=last`.
    fn runs_that_begin(&self, first: u64, last: u64) -> usize {
        let mut before = u64::from(first == self.from || self.is_settled(Offset(first - 1)));
        let mut begin = 0;
        for (begins, word) in self.words_from(first) {
            if begins > last {
                break;
            }
            // As if what is below `first` were as the one before it.
            let below = mask(begins, begins, first.max(begins));
            let seen = if before == 1 {
                word | below
            } else {
                word & !below
            };
            let here = mask(begins, first, last.saturating_add(1));
            begin += (seen & !(seen << 1 | before) & here).count_ones() as usize;
            before = word >> (WORD - 1);
        }
        begin
    }

    /// The first offset, `from` or above, that is not settled; the limit when there is
    /// none.
    pub(super) fn first_open(&self, from: Offset) -> Offset {
        let from = from.0.max(self.from);
        for (begins, word) in self.words_from(from) {
            let open = !word & !mask(begins, begins, from.max(begins));
            if open != 0 {
                return Offset(begins + u64::from(open.trailing_zeros()));
            }
        }
        let end = self.words.len() as u64 * WORD;
        let end = self.base().saturating_add(end);
        Offset(end.max(from)).min(self.limit())
    }

    /// The first offset, `from` or above, that is settled.
    pub(super) fn first_settled(&self, from: Offset) -> Option<Offset> {
        let from = from.0.max(self.from);
        self.words_from(from).find_map(|(begins, word)| {
            let settled = word & !mask(begins, begins, from.max(begins));
            let first = || u64::from(settled.trailing_zeros());
            (settled != 0).then(|| Offset(begins + first()))
        })
    }

    /// No offset at or above is settled.
    pub(super) fn settled_end(&self) -> Offset {
        let words = self.words.iter().enumerate().rev();
        let mut ends = words.filter(|(_, word)| **word != 0).map(|(at, word)| {
            let last = u64::from(WORD as u32 - word.leading_zeros());
            self.base() + at as u64 * WORD + last
        });
        Offset(ends.next().unwrap_or(self.from).max(self.from))
    }

    /// How many offsets below `end` are settled.
    pub(super) fn settled_below(&self, end: Offset) -> u64 {
        let words = self.words_from(self.from);
        let words = words.take_while(|(begins, _)| *begins < end.0);
        words
            .map(|(begins, word)| (word & mask(begins, self.from, end.0)).count_ones() as u64)
            .sum()
    }

    /// What is below `from`, which is not lower than before, is not its concern any
    /// more.
    pub(super) fn begin_at(&mut self, from: Offset) {
        let Offset(from) = from;
        if !self.words.is_empty() {
            self.runs -= self.runs_that_begin(self.from, from);
            let passed = (from / WORD - self.from / WORD).min(self.words.len() as u64);
            // At most as many as there are.
            self.words.drain(..passed as usize);
            if self.runs == 0 {
                self.words.clear();
            }
            if self.words.capacity() > WORDS_KEPT.max(4 * self.words.len()) {
                self.words.shrink_to(2 * self.words.len());
            }
        }
        self.from = from;
    }
}
