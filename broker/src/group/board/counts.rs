//! What can be asked of a board.

use std::ops::AddAssign;

use sluice_proto::Offset;

use super::{
    Board, EventId, Lease,
    lease::{Place, Waited},
};
use crate::commit::{AckWindow, record::Source};

/// A count per state, of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // As in `sluice.v1.GroupPartition`.
pub struct Counts {
    pub in_flight: u64,
    /// Wait for their next attempt, or their failed attempt is on its way to the
    /// log.
    pub delayed: u64,
    /// Wait in the parking partition, for their next attempt or their key.
    pub parked: u64,
    pub held: u64,
    /// Ready for anybody.
    pub ready: u64,
    /// Ready for a member that holds nothing.
    pub suspect: u64,
    /// Behind another event of their key or partition.
    pub queued: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        let Self {
            in_flight,
            delayed,
            parked,
            held,
            ready,
            suspect,
            queued,
        } = other;
        self.in_flight += in_flight;
        self.delayed += delayed;
        self.parked += parked;
        self.held += held;
        self.ready += ready;
        self.suspect += suspect;
        self.queued += queued;
    }
}

/// An event under lease.
#[derive(Clone, Copy, Debug)]
pub struct InFlight<'a> {
    /// The event.
    pub id: EventId,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Who has it, since when, and what its worker said last.
    pub lease: &'a Lease,
}

impl Board {
    /// Events under lease.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Events under lease, and those held for members from before a restart, who
    /// may be at work on them.
    #[must_use]
    pub fn occupied(&self) -> usize {
        self.in_flight + self.held
    }

    /// Suspects that wait for a holder that has nothing.
    #[must_use]
    pub fn suspects(&self) -> usize {
        self.suspects.len()
    }

    /// Suspects under lease.
    #[must_use]
    pub fn suspects_out(&self) -> usize {
        self.holders.suspects()
    }

    /// Events that may be given to anybody now.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Whether any event may be given to anybody now.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Events that are met and not settled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether no event is on it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Events that were settled since the board was made.
    #[must_use]
    pub fn settled_count(&self) -> u64 {
        self.settled_count
    }

    /// Another number whenever an event has become ready, or a lease is not of its holder
    /// any more: what nobody could be given before, somebody may be given then.
    #[must_use]
    pub fn stirs(&self) -> u64 {
        self.stirs
    }

    /// Lines of which an event is on the board: as many may be given out at once.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.locks.held()
    }

    /// Events behind others of their line.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.locks.waiting()
    }

    /// Events that wait for their next attempt.
    #[must_use]
    pub fn delayed(&self) -> usize {
        self.delayed.len()
    }

    /// Whether events are held for members from before a restart.
    #[must_use]
    pub fn has_held(&self) -> bool {
        self.held > 0
    }

    /// Whether events of a source were skipped of which the log does not know.
    #[must_use]
    pub fn has_skipped(&self, source: usize) -> bool {
        !self.sources[source].skipped.is_empty()
    }

    /// Whether what came last of a source was skipped, in this run of the broker,
    /// and nothing is left of what came before.
    #[must_use]
    pub fn ends_skipped(&self, source: usize) -> bool {
        let progress = &self.sources[source];
        progress.ends_skipped && progress.unsettled == 0
    }

    /// What is settled of a source.
    #[must_use]
    pub fn window(&self, source: usize) -> &AckWindow {
        &self.sources[source].window
    }

    /// No event at or above has been delivered, in this run of the broker.
    #[must_use]
    pub fn delivered_end(&self, source: usize) -> Offset {
        let progress = &self.sources[source];
        progress.delivered_end.max(progress.window.committed_end())
    }

    /// The source's place in the log.
    #[must_use]
    pub fn source(&self, source: usize) -> Source {
        self.sources[source].source
    }

    /// The events under lease, in no order. Walks over all events.
    pub fn leased_events(&self) -> impl Iterator<Item = InFlight<'_>> {
        self.events.iter().filter_map(|(id, entry)| {
            Some(InFlight {
                id: *id,
                attempt: entry.attempt(),
                lease: entry.place.lease()?,
            })
        })
    }

    /// Counts of each source. Walks over all events.
    #[must_use]
    pub fn counts(&self) -> Vec<Counts> {
        let mut counts = vec![Counts::default(); self.sources.len()];
        for (id, entry) in self.events.iter() {
            let of = &mut counts[id.source];
            let parked = entry.parked_at().is_some();
            match entry.place {
                Place::Leased(_) | Place::Settling(_) => of.in_flight += 1,
                Place::Delayed | Place::Queued | Place::Moving(_) if parked => of.parked += 1,
                Place::Delayed | Place::Failing | Place::Moving(Waited::Delay) => of.delayed += 1,
                Place::Held(..) => of.held += 1,
                Place::Queued | Place::Moving(_) => of.queued += 1,
                Place::Ready if entry.is_suspect() => of.suspect += 1,
                Place::Ready => of.ready += 1,
            }
        }
        for id in self.lot.returning.keys() {
            counts[id.source].parked += 1;
        }
        counts
    }
}
