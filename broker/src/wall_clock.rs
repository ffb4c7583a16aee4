//! The wall clock: for times that people see, and what has to outlast a restart.
//! It may be set at any moment, so what only has to last runs by a clock that
//! nobody sets.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = since.map_or(0, |since| since.as_millis() as u64);
    #[cfg(feature = "fault-points")]
    let now_ms = now_ms.saturating_add_signed(crate::fault_points::clock_ahead_ms());
    now_ms
}
