//! Events that were read and wait for delivery, as far as a budget of bytes
//! goes; others are read again when their turn comes, within a budget of the
//! same size, so that what was read far ahead does not keep them out.
//!
//! An event is copied here: as a slice it would keep a whole block of the log in
//! memory, at most a MiB, for as long as it waits here or in a member's stream. Small
//! ones are copied side by side, many to a piece of memory, because asking for memory
//! for each costs more than the copy. A piece counts against the budget as a whole
//! until the last of its events is taken.

use std::ops::Range;

use bytes::Bytes;
use slab::Slab;

use super::{board::EventId, by_event::ByEvent};
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

#[derive(Debug)]
pub(super) struct Payloads {
    events: ByEvent<Kept>,
    pieces: Slab<Piece>,
    ahead: Budget,
    needed: Budget,
}

#[derive(Debug)]
struct Kept {
    append_time_ms: u64,
    piece: usize,
    lies: Lies,
}

/// Where an event lies.
#[derive(Debug)]
enum Lies {
    /// In its piece, with others.
    Among(Range<u32>),
    Alone {
        event: Bytes,
        note: Bytes,
    },
}

/// Memory of one or more events, which counts as so many bytes.
#[derive(Debug)]
struct Piece {
    events: usize,
    bytes: usize,
    of: Whose,
    /// What those have that share it.
    shared: Vec<u8>,
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
            events: ByEvent::default(),
            pieces: Slab::new(),
            ahead: Budget::new(bytes_max),
            needed: Budget::new(bytes_max),
        }
    }

    /// Keeps an event that was read ahead, if there is room.
    pub(super) fn keep_ahead(&mut self, id: EventId, event: StoredEvent) {
        let wanted = match self.ahead.shares(&event) {
            true if self.has_open(event.event.len(), Whose::Ahead) => 0,
            true => self.ahead.piece_bytes(),
            false => size(&event),
        };
        if wanted <= self.ahead.room() {
            self.insert(id, event, Whose::Ahead);
        }
    }

    /// Keeps an event whose turn has come. Whoever had it read has asked for room
    /// before.
    pub(super) fn keep_needed(&mut self, id: EventId, event: StoredEvent) {
        self.insert(id, event, Whose::Needed);
    }

    fn insert(&mut self, id: EventId, event: StoredEvent, of: Whose) {
        self.remove(id);
        let append_time_ms = event.append_time_ms;
        let (piece, lies) = if self.budget(of).shares(&event) {
            self.copy_beside_others(&event.event, of)
        } else {
            let piece = self.new_piece(size(&event), of, 0);
            let StoredEvent {
                mut event, note, ..
            } = event;
            if event.len() < COPIED_BELOW {
                event = Bytes::copy_from_slice(&event);
            }
            (piece, Lies::Alone { event, note })
        };
        self.pieces[piece].events += 1;
        let kept = Kept {
            append_time_ms,
            piece,
            lies,
        };
        self.events.insert(id, kept);
    }

    fn has_open(&self, bytes: usize, of: Whose) -> bool {
        let open = self.budget(of).open.and_then(|open| self.pieces.get(open));
        open.is_some_and(|open| open.has_room(bytes))
    }

    fn copy_beside_others(&mut self, event: &[u8], of: Whose) -> (usize, Lies) {
        let at = match self.budget(of).open {
            Some(open) if self.has_open(event.len(), of) => open,
            full => {
                let bytes = self.budget(of).piece_bytes();
                let open = self.new_piece(bytes, of, bytes);
                self.budget_mut(of).open = Some(open);
                if let Some(full) = full {
                    self.give_back(full);
                }
                open
            }
        };
        let shared = &mut self.pieces[at].shared;
        let start = shared.len() as u32;
        shared.extend_from_slice(event);
        // A piece is 8 KiB at most.
        (at, Lies::Among(start..shared.len() as u32))
    }

    /// A piece that counts as so many bytes, and has room for some that are shared.
    fn new_piece(&mut self, bytes: usize, of: Whose, room: usize) -> usize {
        self.budget_mut(of).bytes += bytes;
        self.pieces.insert(Piece {
            events: 0,
            bytes,
            of,
            shared: Vec::with_capacity(room),
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
    pub(super) fn take<R>(
        &mut self,
        id: EventId,
        give: impl FnOnce(Payload<'_>) -> R,
    ) -> Option<R> {
        let Kept {
            append_time_ms,
            piece: at,
            lies,
        } = self.events.remove(&id)?;
        let piece = self.pieces.get_mut(at)?;
        piece.events -= 1;
        let (event, note) = match lies {
            Lies::Alone { event, note } => (EventBytes::Own(event), note),
            Lies::Among(range) => {
                let shared = &piece.shared[range.start as usize..range.end as usize];
                (EventBytes::Shared(shared), Bytes::new())
            }
        };
        let given = give(Payload {
            append_time_ms,
            event,
            note,
        });
        self.give_back(at);
        if self.events.is_empty() {
            self.close_pieces();
        }
        Some(given)
    }

    /// Nobody will want the event from here.
    pub(super) fn remove(&mut self, id: EventId) {
        self.take(id, |_| ());
    }

    /// While nothing is kept, nothing is held for what may come.
    fn close_pieces(&mut self) {
        for of in [Whose::Ahead, Whose::Needed] {
            if let Some(open) = self.budget_mut(of).open.take() {
                self.give_back(open);
            }
        }
    }

    pub(super) fn has(&self, id: EventId) -> bool {
        self.events.contains(&id)
    }

    /// Bytes of an event that is kept.
    pub(super) fn size_of(&self, id: EventId) -> Option<usize> {
        let kept = self.events.get(&id)?;
        Some(match &kept.lies {
            Lies::Among(range) => range.len(),
            Lies::Alone { event, .. } => event.len(),
        })
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
        self.shared.len() + bytes <= self.shared.capacity()
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
            steps in proptest::collection::vec((0_u8..5, 0_u64..100, 0_usize..5), 0..400),
        ) {
            let mut payloads = Payloads::new(512 << 10);
            let mut model: BTreeMap<u64, (usize, Whose)> = BTreeMap::new();
            for (kind, offset, length) in steps {
                let id = EventId { source: 0, offset: Offset(offset) };
                let event = stored(offset, LENGTHS[length]);
                match kind {
                    0 | 1 => {
                        payloads.keep_ahead(id, event);
                        model.insert(offset, (LENGTHS[length], Whose::Ahead));
                    }
                    2 => {
                        payloads.keep_needed(id, event);
                        model.insert(offset, (LENGTHS[length], Whose::Needed));
                    }
                    _ => {
                        let taken = payloads.take(id, |payload| payload.event.into_own());
                        let expected = model.remove(&offset);
                        let expected = expected.map(|(len, _)| vec![offset as u8; len]);
                        prop_assert_eq!(taken.as_deref(), expected.as_deref());
                    }
                }
                prop_assert_eq!(payloads.has(id), model.contains_key(&offset));
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
        let keep = |payloads: &mut Payloads, offset| {
            let id = EventId {
                source: 0,
                offset: Offset(offset),
            };
            payloads.keep_ahead(id, stored(offset, 60));
            payloads.has(id)
        };
        let kept = (0..2000)
            .filter(|offset| keep(&mut payloads, *offset))
            .count();
        // 17 of them in each of 64 pieces of 1 KiB.
        assert_eq!((kept, payloads.ahead.room()), (64 * 17, 0));
    }
}
