//! The wall clock: for times that people see, and what has to outlast a restart.
//! It may be set at any moment, so what only has to last runs by a clock that
//! nobody sets.

mod bounded;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use self::bounded::Clock;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = since.map_or(0, |since| since.as_millis() as u64);
    #[cfg(feature = "fault-points")]
    let now_ms = now_ms.saturating_add_signed(crate::fault_points::clock_ahead_ms());
    now_ms
}

/// The time by which events grow old, one for the whole broker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AgeClock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    clock: Clock,
    /// Up to when it was let go on.
    advanced: Instant,
}

impl AgeClock {
    /// Goes on from what the log knows; 0 when it is new.
    pub(crate) fn start(noted_ms: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            clock: Clock::start(noted_ms, now_ms()),
            advanced: Instant::now(),
        })))
    }

    /// Milliseconds since 1970, as far as the wall clock is believed.
    pub(crate) fn now_ms(&self) -> u64 {
        // Nothing that runs under this lock can leave the state half changed.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed_ms = state.advanced.elapsed().as_millis() as u64;
        // Not to now: parts of milliseconds would be lost each time.
        state.advanced += Duration::from_millis(elapsed_ms);
        state.clock.advance(now_ms(), elapsed_ms);
        state.clock.now_ms()
    }
}
