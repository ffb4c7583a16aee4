//! Events on their way into the log, without a piece of memory for each.

use std::{collections::BTreeMap, iter};

use bytes::Bytes;
use sluice_proto::batch::Span;

/// An event to append, or as it was appended.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// The encoded event.
    pub event: Bytes,
    /// What the broker keeps beside it; mostly empty.
    pub note: Bytes,
}

impl NewEvent {
    /// Its bytes and those of its note.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.event.len() + self.note.len()) as u64
    }
}

/// Events in order. They are parts of what they came in, which mostly is one message
/// for all of them.
#[derive(Clone, Debug, Default)]
pub struct NewEvents {
    sources: Vec<Bytes>,
    events: Vec<Part>,
    /// Of the first events, as far as one has a note.
    notes: Vec<Bytes>,
    /// Of the events and their notes.
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    source: u32,
    span: Span,
}

impl NewEvents {
    /// None yet; those that are added as parts are of this.
    pub(super) fn of(source: Bytes, count: usize) -> Self {
        Self {
            sources: vec![source],
            events: Vec::with_capacity(count),
            ..Self::default()
        }
    }

    /// Those parts of one piece of memory.
    ///
    /// # Panics
    /// When one is not in it.
    #[must_use]
    pub fn parts_of(source: Bytes, spans: &[Span]) -> Self {
        let mut events = Self::of(source, spans.len());
        for span in spans {
            events.push_part(*span, Bytes::new());
        }
        events
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Bytes of the events and of their notes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Each encoded event, in order.
    pub fn events(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        let whole = |part: &Part| part.span.of(&self.sources[part.source as usize]);
        self.events.iter().map(whole)
    }

    /// Each with its note, in order.
    pub fn with_notes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let notes = self.notes.iter().map(|note| &note[..]);
        self.events().zip(notes.chain(iter::repeat(&[][..])))
    }

    /// Adds one behind the others.
    pub fn push(&mut self, event: NewEvent) {
        let span = Span {
            start: 0,
            length: event.event.len() as u32,
        };
        self.sources.push(event.event);
        self.push_part(span, event.note);
    }

    /// Adds one that is a part of the last piece of memory.
    pub(super) fn push_part(&mut self, span: Span, note: Bytes) {
        let source = self.sources.len() - 1;
        self.bytes += (span.of(&self.sources[source]).len() + note.len()) as u64;
        if !note.is_empty() {
            self.notes.resize(self.events.len(), Bytes::new());
            self.notes.push(note);
        }
        self.events.push(Part {
            source: source as u32,
            span,
        });
    }

    /// Shares them out: the event at `n` goes to what `to[n]` says. Those of each share
    /// are in order.
    #[must_use]
    pub fn share_out<K: Ord + Copy>(&self, to: &[K]) -> BTreeMap<K, Self> {
        // Each with the number that its last source has here.
        let mut shares = BTreeMap::<K, (Option<u32>, Self)>::new();
        for (n, (part, to)) in self.events.iter().zip(to).enumerate() {
            let (last, share) = shares.entry(*to).or_default();
            if last.replace(part.source) != Some(part.source) {
                let source = &self.sources[part.source as usize];
                share.sources.push(source.clone());
            }
            let note = self.notes.get(n).cloned().unwrap_or_default();
            share.push_part(part.span, note);
        }
        let share = |(to, (_, share))| (to, share);
        shares.into_iter().map(share).collect()
    }
}

impl From<Vec<Bytes>> for NewEvents {
    /// Events without notes.
    fn from(events: Vec<Bytes>) -> Self {
        let new = |event| NewEvent {
            event,
            note: Bytes::new(),
        };
        events.into_iter().map(new).collect()
    }
}

impl FromIterator<NewEvent> for NewEvents {
    fn from_iter<T: IntoIterator<Item = NewEvent>>(events: T) -> Self {
        let mut all = Self::default();
        for event in events {
            all.push(event);
        }
        all
    }
}

impl PartialEq for NewEvents {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.with_notes().eq(other.with_notes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owned(events: &NewEvents) -> Vec<(Vec<u8>, Vec<u8>)> {
        let owned = |(event, note): (&[u8], &[u8])| (event.to_vec(), note.to_vec());
        events.with_notes().map(owned).collect()
    }

    proptest! {
        #[test]
        fn events_are_what_was_added_and_shares_are_theirs(
            given in proptest::collection::vec(
                (any::<bool>(), "[a-z]{0,9}", "[a-z]{0,2}", 0_u8..4),
                0..40,
            ),
        ) {
            let mut events = NewEvents::default();
            for (is_part, event, note, _) in &given {
                let note = Bytes::from(note.clone());
                let before = events.sources.last().map_or(0, Bytes::len);
                if *is_part && before > 2 {
                    events.push_part(Span { start: 1, length: 2 }, note);
                } else {
                    let event = Bytes::from(event.clone());
                    events.push(NewEvent { event, note });
                }
            }
            let mut source = "";
            let expected: Vec<(Vec<u8>, Vec<u8>)> = given
                .iter()
                .map(|(is_part, event, note, _)| {
                    let part = *is_part && source.len() > 2;
                    if !part {
                        source = event;
                    }
                    let event = if part { &source[1..3] } else { source };
                    (event.into(), note.as_bytes().into())
                })
                .collect();
            prop_assert_eq!(owned(&events), expected.clone());
            let bytes: usize = expected.iter().map(|(event, note)| event.len() + note.len()).sum();
            prop_assert_eq!(events.bytes(), bytes as u64);

            let to: Vec<u8> = given.iter().map(|(.., to)| *to).collect();
            let shares = events.share_out(&to);
            prop_assert!(shares.values().all(|share| !share.is_empty()));
            for of in 0..4 {
                let of_it = expected.iter().zip(&to).filter(|(_, to)| **to == of);
                let of_it: Vec<_> = of_it.map(|(event, _)| event.clone()).collect();
                prop_assert_eq!(shares.get(&of).map_or(Vec::new(), owned), of_it);
            }
        }
    }
}
