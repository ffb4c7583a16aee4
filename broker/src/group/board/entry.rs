//! What the board keeps of one event. Most events are delivered once and acked, so
//! that what concerns others is kept apart: a group has many under way, and what is
//! small stays in the processor's cache.

use bytes::Bytes;
use sluice_proto::Offset;

use super::lease::Place;
use crate::{commit::record::AttemptFailed, group::key_lock::LineId};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Option<Bytes>,
    pub(super) size: u32,
    /// The line that it holds, or in which it waits. One that steps aside for its
    /// next attempt has none meanwhile, nor one that has passed it on.
    pub(super) line: Option<LineId>,
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

impl Past {
    const fn nothing() -> Self {
        Self {
            before: Before::NOTHING,
            history: Vec::new(),
            not_before_ms: 0,
            parked_at: None,
        }
    }

    fn is_nothing(&self) -> bool {
        self.before == Before::NOTHING
            && self.history.is_empty()
            && self.not_before_ms == 0
            && self.parked_at.is_none()
    }
}

impl Entry {
    pub(super) fn new(
        key: Option<Bytes>,
        size: u32,
        line: Option<LineId>,
        past: Past,
        place: Place,
    ) -> Self {
        Self {
            key,
            size,
            line,
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

    pub(super) fn attempt(&self) -> u32 {
        let past = self.past();
        let last = past.history.last();
        last.map_or(past.before.next_attempt, AttemptFailed::next_attempt)
    }
}
