//! Waiting for blocks to land.

use std::sync::{
    Condvar, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use super::flight::Flight;

/// Told when a block has landed, and when the log has failed. Mostly nobody waits,
/// and then telling costs nothing: to ask the system would be a call for each block.
#[derive(Debug, Default)]
pub(super) struct Landing {
    told: Condvar,
    /// Changed under the flight's lock only.
    waiting: AtomicUsize,
}

impl Landing {
    /// Waits until it is told.
    pub(super) fn wait<'a>(&self, flight: MutexGuard<'a, Flight>) -> MutexGuard<'a, Flight> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let flight = self.told.wait(flight);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        // Nothing that runs under this lock can leave it half changed.
        flight.unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all who wait. To be called after the lock was held since what they wait
    /// for is so: then whoever does not see it is counted.
    pub(super) fn tell(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.told.notify_all();
        }
    }
}
