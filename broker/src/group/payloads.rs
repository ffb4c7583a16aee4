//! Events that were read and wait for delivery, as far as a budget of bytes
//! goes; others are read again when their turn comes, within a budget of the
//! same size, so that what was read far ahead does not keep them out.
//!
//! An event is copied here: as a slice it would keep a whole block of the log in
//! memory, at most a MiB, for as long as it waits here or in a member's stream. Small
//! ones are copied side by side, many to a piece of memory, because asking for memory
//! for each costs more than the copy. A piece counts against the budget as a whole
//! until the last of its events is taken.

use std::{mem, num::NonZeroU32};

use bytes::Bytes;
use slab::Slab;

use crate::commit::StoredEvent;

/// A smaller event is copied.
const COPIED_BELOW: usize = 128 << 10;
/// Bytes of a piece for small events.
const PIECE_BYTES: usize = 8 << 10;
/// So many events have room in a piece, at least.
const PIECE_EVENTS_MIN: usize = 16;
/// A larger event has its own memory.
pub(super) const SHARING_BYTES_MAX: usize = PIECE_BYTES / PIECE_EVENTS_MIN;
/// A budget has room for so many pieces, at least; if it is small they are, too.
const PIECES_MIN: usize = 64;

/// With more places than these, memory of what is not kept any more is given back when
/// nothing is.
const PLACES_KEPT: usize = 1024;

#[derive(Debug)]
pub(super) struct Payloads {
    kept: Slab<Kept>,
    pieces: Slab<Piece>,
    ahead: Budget,
    needed: Budget,
}

/// Where an event is kept. Whoever has this can take it, once, and has to.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct KeptAt(NonZeroU32);

impl KeptAt {
    fn of(place: usize) -> Self {
        // Memory ends long before numbers do.
        Self(NonZeroU32::MIN.saturating_add(place as u32))
    }

    fn place(&self) -> usize {
        self.0.get() as usize - 1
    }
}

#[derive(Debug)]
struct Kept {
    append_time_ms: u64,
    piece: u32,
    /// Where it lies in its piece, if it is there with others. A piece is 8 KiB at most.
    start: u16,
    len: u16,
}

/// Memory of one or more events, which counts as so many bytes.
#[derive(Debug)]
struct Piece {
    events: usize,
    bytes: usize,
    of: Whose,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Events side by side.
    Shared(Vec<u8>),
    Alone {
        event: Bytes,
        note: Bytes,
    },
}

/// An event that was kept.
#[derive(Debug)]
pub(super) struct Payload<'a> {
    pub(super) append_time_ms: u64,
    pub(super) event: EventBytes<'a>,
    /// What the broker keeps beside it; mostly empty.
    pub(super) note: Bytes,
}

/// An encoded event.
#[derive(Debug)]
pub(super) enum EventBytes<'a> {
    /// In memory that it shares with others.
    Shared(&'a [u8]),
    /// In its own.
    Own(Bytes),
}

impl EventBytes<'_> {
    /// In memory of its own.
    pub(super) fn into_own(self) -> Bytes {
        match self {
            Self::Shared(event) => Bytes::copy_from_slice(event),
            Self::Own(event) => event,
        }
    }
}

/// Which of the budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// Of events that were read ahead.
    Ahead,
    /// Of events whose turn had come when they were read.
    Needed,
}

#[derive(Debug)]
struct Budget {
    bytes: usize,
    bytes_max: usize,
    /// The piece that is being filled.
    open: Option<usize>,
}

impl Budget {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes: 0,
            bytes_max,
            open: None,
        }
    }

    fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes)
    }

    fn piece_bytes(&self) -> usize {
        PIECE_BYTES.min(self.bytes_max / PIECES_MIN)
    }

    /// Whether an event goes into a piece with others.
    fn shares(&self, event: &StoredEvent) -> bool {
        event.note.is_empty() && event.event.len() <= self.piece_bytes() / PIECE_EVENTS_MIN
    }
}

impl Payloads {
    /// Two budgets of `bytes_max` each.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            kept: Slab::new(),
            pieces: Slab::new(),
            ahead: Budget::new(bytes_max),
            needed: Budget::new(bytes_max),
        }
    }

    /// Keeps an event that was read ahead, if there is room.
    pub(super) fn keep_ahead(&mut self, event: StoredEvent) -> Option<KeptAt> {
        let wanted = match self.ahead.shares(&event) {
            true if self.has_open(event.event.len(), Whose::Ahead) => 0,
            true => self.ahead.piece_bytes(),
            false => size(&event),
        };
        (wanted <= self.ahead.room()).then(|| self.insert(event, Whose::Ahead))
    }

    /// Keeps an event whose turn has come. Whoever had it read has asked for room
    /// before.
    pub(super) fn keep_needed(&mut self, event: StoredEvent) -> KeptAt {
        self.insert(event, Whose::Needed)
    }

    fn insert(&mut self, stored: StoredEvent, of: Whose) -> KeptAt {
        let append_time_ms = stored.append_time_ms;
        let (piece, start, len) = if self.budget(of).shares(&stored) {
            self.copy_beside_others(&stored.event, of)
        } else {
            let bytes = size(&stored);
            let StoredEvent {
                mut event, note, ..
            } = stored;
            if event.len() < COPIED_BELOW {
                event = Bytes::copy_from_slice(&event);
            }
            let content = Content::Alone { event, note };
            (self.new_piece(bytes, of, content), 0, 0)
        };
        self.pieces[piece].events += 1;
        let place = self.kept.insert(Kept {
            append_time_ms,
            piece: piece as u32,
            start,
            len,
        });
        KeptAt::of(place)
    }

    fn has_open(&self, bytes: usize, of: Whose) -> bool {
        let open = self.budget(of).open.and_then(|open| self.pieces.get(open));
        open.is_some_and(|open| open.has_room(bytes))
    }

    /// Returns its piece, and where and how long it lies there.
    fn copy_beside_others(&mut self, event: &[u8], of: Whose) -> (usize, u16, u16) {
        let at = match self.budget(of).open {
            Some(open) if self.has_open(event.len(), of) => open,
            full => {
                let bytes = self.budget(of).piece_bytes();
                let content = Content::Shared(Vec::with_capacity(bytes));
                let open = self.new_piece(bytes, of, content);
                self.budget_mut(of).open = Some(open);
                if let Some(full) = full {
                    self.give_back(full);
                }
                open
            }
        };
        let mut start = 0;
        if let Content::Shared(shared) = &mut self.pieces[at].content {
            start = shared.len();
            shared.extend_from_slice(event);
        }
        (at, start as u16, event.len() as u16)
    }

    /// A piece that counts as so many bytes.
    fn new_piece(&mut self, bytes: usize, of: Whose, content: Content) -> usize {
        self.budget_mut(of).bytes += bytes;
        self.pieces.insert(Piece {
            events: 0,
            bytes,
            of,
            content,
        })
    }

    /// Gives a piece back if nothing is left of it, and nothing more will come.
    fn give_back(&mut self, at: usize) {
        let Some(piece) = self.pieces.get(at) else {
            return;
        };
        let (of, bytes, empty) = (piece.of, piece.bytes, piece.events == 0);
        let budget = self.budget_mut(of);
        if empty && budget.open != Some(at) {
            budget.bytes -= bytes;
            self.pieces.remove(at);
        }
    }

    /// Takes an event out, and gives it away.
    pub(super) fn take<R>(&mut self, at: KeptAt, give: impl FnOnce(Payload<'_>) -> R) -> R {
        // Whoever has its place is the only one who has, and it is there until now.
        let Kept {
            append_time_ms,
            piece: at,
            start,
            len,
        } = self.kept.remove(at.place());
        let at = at as usize;
        let piece = &mut self.pieces[at];
        piece.events -= 1;
        let (event, note) = match &mut piece.content {
            Content::Alone { event, note } => (EventBytes::Own(mem::take(event)), mem::take(note)),
            Content::Shared(shared) => {
                let (start, len) = (usize::from(start), usize::from(len));
                (
                    EventBytes::Shared(&shared[start..start + len]),
                    Bytes::new(),
                )
            }
        };
        let given = give(Payload {
            append_time_ms,
            event,
            note,
        });
        self.give_back(at);
        if self.kept.is_empty() {
            self.close_pieces();
            if self.kept.capacity() > PLACES_KEPT {
                self.kept = Slab::new();
            }
        }
        given
    }

    /// Nobody will want the event from here.
    pub(super) fn remove(&mut self, at: KeptAt) {
        self.take(at, |_| ());
    }

    /// While nothing is kept, nothing is held for what may come.
    fn close_pieces(&mut self) {
        for of in [Whose::Ahead, Whose::Needed] {
            if let Some(open) = self.budget_mut(of).open.take() {
                self.give_back(open);
            }
        }
    }

    /// How many events are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether a quarter of what may be read ahead is free.
    pub(super) fn has_room_ahead(&self) -> bool {
        self.ahead.room() > self.ahead.bytes_max / 4
    }

    /// Bytes of events whose turn has come that may still be read; 0 while as
    /// many wait to be taken.
    pub(super) fn room_for_needed(&self) -> usize {
        self.needed.room()
    }

    fn budget(&self, of: Whose) -> &Budget {
        match of {
            Whose::Ahead => &self.ahead,
            Whose::Needed => &self.needed,
        }
    }

    fn budget_mut(&mut self, of: Whose) -> &mut Budget {
        match of {
            Whose::Ahead => &mut self.ahead,
            Whose::Needed => &mut self.needed,
        }
    }
}

impl Piece {
    fn has_room(&self, bytes: usize) -> bool {
        match &self.content {
            Content::Shared(shared) => shared.len() + bytes <= shared.capacity(),
            Content::Alone { .. } => false,
        }
    }
}

fn size(event: &StoredEvent) -> usize {
    event.event.len() + event.note.len()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sluice_proto::Offset;

    use super::*;
    use proptest::prelude::*;

    fn stored(offset: u64, len: usize) -> StoredEvent {
        StoredEvent {
            offset: Offset(offset),
            append_time_ms: 0,
            event: vec![offset as u8; len].into(),
            note: Bytes::new(),
        }
    }

    const LENGTHS: [usize; 5] = [0, 1, 100, 512, 600];

    proptest! {
        /// Whatever is kept is given back as it was, and counts as long as it is
        /// there, with what shares its memory, and no longer.
        #[test]
        fn memory_counts_until_all_that_share_it_are_gone(
            steps in proptest::collection::vec((0_u8..6, 0_u64..100, 0_usize..5), 0..400),
        ) {
            let mut payloads = Payloads::new(512 << 10);
            let mut kept: BTreeMap<u64, KeptAt> = BTreeMap::new();
            let mut model: BTreeMap<u64, (usize, Whose)> = BTreeMap::new();
            for (kind, offset, length) in steps {
                let event = stored(offset, LENGTHS[length]);
                if let Some(at) = kept.remove(&offset) {
                    let taken = payloads.take(at, |payload| payload.event.into_own());
                    let expected = model.remove(&offset);
                    let expected = expected.map(|(len, _)| vec![offset as u8; len]);
                    prop_assert_eq!(Some(&taken[..]), expected.as_deref());
                }
                if kind < 4 {
                    let of = if kind < 2 { Whose::Ahead } else { Whose::Needed };
                    let at = match of {
                        Whose::Ahead => payloads.keep_ahead(event).expect("there is room"),
                        Whose::Needed => payloads.keep_needed(event),
                    };
                    kept.insert(offset, at);
                    model.insert(offset, (LENGTHS[length], of));
                }
                for of in [Whose::Ahead, Whose::Needed] {
                    let pieces = payloads.pieces.iter().filter(|(_, piece)| piece.of == of);
                    let bytes: usize = pieces.map(|(_, piece)| piece.bytes).sum();
                    prop_assert_eq!(payloads.budget(of).bytes, bytes);
                    let kept = model.values().filter(|(_, whose)| *whose == of);
                    let kept: usize = kept.map(|(len, _)| len).sum();
                    prop_assert!(bytes >= kept);
                    if model.is_empty() {
                        prop_assert_eq!(bytes, 0);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_read_ahead_keeps_to_its_budget() {
        let mut payloads = Payloads::new(64 << 10);
        let kept = (0..2000).filter_map(|offset| payloads.keep_ahead(stored(offset, 60)));
        let kept = kept.collect::<Vec<_>>().len();
        // 17 of them in each of 64 pieces of 1 KiB.
        assert_eq!((kept, payloads.ahead.room()), (64 * 17, 0));
    }
}
