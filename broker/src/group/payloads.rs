//! Events that were read and wait for delivery, as far as a budget of bytes
//! goes; others are read again when their turn comes, within a budget of the
//! same size, so that what was read far ahead does not keep them out.
//!
//! An event is copied here: as a slice it would keep a whole block of the log in
//! memory, at most a MiB, for as long as it waits here or in a member's stream. Small
//! ones are copied side by side, many to a piece of memory, because asking for memory
//! for each costs more than the copy. A piece counts against the budget as a whole
//! until the last of its events is taken.

use bytes::{Bytes, BytesMut};
use slab::Slab;

use super::{board::EventId, by_event::ByEvent};
use crate::commit::StoredEvent;

/// A smaller event is copied.
const COPIED_BELOW: usize = 128 << 10;
/// Bytes of a piece for small events.
const PIECE_BYTES: usize = 8 << 10;
/// So many events have room in a piece, at least; a larger one has its own memory.
const PIECE_EVENTS_MIN: usize = 16;
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
    event: StoredEvent,
    piece: usize,
}

/// Memory that one or more events share.
#[derive(Debug)]
struct Piece {
    events: usize,
    bytes: usize,
    of: Whose,
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
    /// The piece that is being filled, and what is left of it.
    open: Option<(usize, BytesMut)>,
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

    fn has_open(&self, bytes: usize) -> bool {
        let left = self.open.as_ref().map(|(_, left)| left.capacity());
        left.is_some_and(|left| left >= bytes)
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
            true if self.ahead.has_open(event.event.len()) => 0,
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

    fn insert(&mut self, id: EventId, mut event: StoredEvent, of: Whose) {
        self.take(id);
        let piece = if self.budget(of).shares(&event) {
            self.copy_beside_others(&mut event.event, of)
        } else {
            if event.event.len() < COPIED_BELOW {
                event.event = Bytes::copy_from_slice(&event.event);
            }
            let bytes = size(&event);
            self.new_piece(bytes, of)
        };
        self.pieces[piece].events += 1;
        self.events.insert(id, Kept { event, piece });
    }

    fn copy_beside_others(&mut self, event: &mut Bytes, of: Whose) -> usize {
        let (piece, mut left) = match self.budget(of).open.take() {
            Some((piece, left)) if left.capacity() >= event.len() => (piece, left),
            full => {
                if let Some((full, _)) = full {
                    self.give_back(full);
                }
                let bytes = self.budget(of).piece_bytes();
                (self.new_piece(bytes, of), BytesMut::with_capacity(bytes))
            }
        };
        left.extend_from_slice(event);
        *event = left.split().freeze();
        self.budget(of).open = Some((piece, left));
        piece
    }

    fn new_piece(&mut self, bytes: usize, of: Whose) -> usize {
        self.budget(of).bytes += bytes;
        self.pieces.insert(Piece {
            events: 0,
            bytes,
            of,
        })
    }

    /// Gives a piece back if nothing is left of it, and nothing more will come.
    fn give_back(&mut self, at: usize) {
        let Some(piece) = self.pieces.get(at) else {
            return;
        };
        let (of, bytes, empty) = (piece.of, piece.bytes, piece.events == 0);
        let budget = self.budget(of);
        let is_open = budget.open.as_ref().is_some_and(|(open, _)| *open == at);
        if empty && !is_open {
            budget.bytes -= bytes;
            self.pieces.remove(at);
        }
    }

    pub(super) fn take(&mut self, id: EventId) -> Option<StoredEvent> {
        let Kept { event, piece } = self.events.remove(&id)?;
        if let Some(piece) = self.pieces.get_mut(piece) {
            piece.events -= 1;
        }
        self.give_back(piece);
        if self.events.is_empty() {
            self.close_pieces();
        }
        Some(event)
    }

    /// While nothing is kept, nothing is held for what may come.
    fn close_pieces(&mut self) {
        for of in [Whose::Ahead, Whose::Needed] {
            if let Some((open, _)) = self.budget(of).open.take() {
                self.give_back(open);
            }
        }
    }

    pub(super) fn has(&self, id: EventId) -> bool {
        self.events.contains(&id)
    }

    /// Bytes of an event that is kept.
    pub(super) fn size_of(&self, id: EventId) -> Option<usize> {
        self.events.get(&id).map(|kept| kept.event.event.len())
    }

    /// Whether half of what may be read ahead is free.
    pub(super) fn has_room_ahead(&self) -> bool {
        self.ahead.room() > self.ahead.bytes_max / 2
    }

    /// Bytes of events whose turn has come that may still be read; 0 while as
    /// many wait to be taken.
    pub(super) fn room_for_needed(&self) -> usize {
        self.needed.room()
    }

    fn budget(&mut self, of: Whose) -> &mut Budget {
        match of {
            Whose::Ahead => &mut self.ahead,
            Whose::Needed => &mut self.needed,
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
                        let taken = payloads.take(id).map(|event| event.event);
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
