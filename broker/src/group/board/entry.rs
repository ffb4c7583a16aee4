//! What the board keeps of one event. Most events are delivered once and acked, so
//! that what concerns others is kept apart: a group has many under way, and what is
//! small stays in the processor's cache.

use sluice_proto::Offset;

use super::lease::Place;
use crate::{
    commit::record::AttemptFailed,
    group::{key_lock::LineId, payloads::KeptAt},
};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) size: u32,
    /// The line that it holds, or in which it waits. One that steps aside for its
    /// next attempt has none meanwhile, nor one that has passed it on.
    pub(super) line: Option<LineId>,
    /// Where it is in memory, if it is.
    pub(super) kept: Option<KeptAt>,
    pub(super) place: Place,
    /// Nothing of an event that is neither parked nor has failed.
    past: Option<Box<Past>>,
}

/// What was before.
#[derive(Debug)]
pub(super) struct Past {
    /// What was tried before it was parked.
    pub(super) before: Before,
    /// Failed attempts since, the latest ones, oldest first.
    pub(super) history: Vec<AttemptFailed>,
    pub(super) not_before_ms: u64,
    /// Where it is in the parking partition, if it is there.
    pub(super) parked_at: Option<Offset>,
    /// The line from which it steps aside for its next attempt.
    pub(super) aside: Option<Box<[u8]>>,
}

/// What was tried before an event was parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Before {
    pub(super) next_attempt: u32,
    pub(super) suspect: bool,
}

impl Before {
    const NOTHING: Self = Self {
        next_attempt: 1,
        suspect: false,
    };
}

impl Default for Before {
    fn default() -> Self {
        Self::NOTHING
    }
}

static NO_PAST: Past = Past::nothing();

impl Default for Past {
    fn default() -> Self {
        Self::nothing()
    }
}

impl Past {
    const fn nothing() -> Self {
        Self {
            before: Before::NOTHING,
            history: Vec::new(),
            not_before_ms: 0,
            parked_at: None,
            aside: None,
        }
    }

    fn is_nothing(&self) -> bool {
        self.before == Before::NOTHING
            && self.history.is_empty()
            && self.not_before_ms == 0
            && self.parked_at.is_none()
            && self.aside.is_none()
    }
}

impl Entry {
    pub(super) fn new(size: u32, past: Past, place: Place) -> Self {
        Self {
            size,
            line: None,
            kept: None,
            place,
            past: (!past.is_nothing()).then(|| Box::new(past)),
        }
    }

    pub(super) fn past(&self) -> &Past {
        self.past.as_deref().unwrap_or(&NO_PAST)
    }

    pub(super) fn past_mut(&mut self) -> &mut Past {
        self.past.get_or_insert_with(|| Box::new(Past::nothing()))
    }

    /// The line from which it stepped aside, to which it comes back.
    pub(super) fn take_aside(&mut self) -> Option<Box<[u8]>> {
        self.past.as_mut()?.aside.take()
    }

    /// Where it is in the parking partition, if it is there.
    pub(super) fn parked_at(&self) -> Option<Offset> {
        self.past().parked_at
    }

    /// A vanished member had it, in its last attempt.
    pub(super) fn is_suspect(&self) -> bool {
        let past = self.past();
        let last = past.history.last();
        last.map_or(past.before.suspect, |failed| failed.suspect)
    }

    /// Returns where it was, and whether it is suspect.
    pub(super) fn become_ready(&mut self) -> (Place, bool) {
        let before = std::mem::replace(&mut self.place, Place::Ready);
        (before, self.is_suspect())
    }

    pub(super) fn attempt(&self) -> u32 {
        let past = self.past();
        let last = past.history.last();
        last.map_or(past.before.next_attempt, AttemptFailed::next_attempt)
    }
}
