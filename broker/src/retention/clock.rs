//! The time by which events grow old.

/// Follows the wall clock, never back, and forward at a bounded rate: a clock
/// that jumps ahead must not drop everything at once.
///
/// A day is caught up within an hour, in which somebody can set the clock right.
/// It begins at the time of the log's last event, so that the same holds for a
/// broker that was stopped for long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    now_ms: u64,
}

/// How much faster than time itself it may go.
const CATCH_UP: u64 = 24;

impl Clock {
    /// `log_ms` is the time of the log's last frame; 0 when it has none.
    pub(super) fn start(log_ms: u64, wall_ms: u64) -> Self {
        let now_ms = if log_ms == 0 { wall_ms } else { log_ms };
        Self { now_ms }
    }

    /// Lets time pass: `elapsed_ms` by a clock that nobody sets.
    pub(super) fn advance(&mut self, wall_ms: u64, elapsed_ms: u64) {
        let furthest = self
            .now_ms
            .saturating_add(elapsed_ms.saturating_mul(CATCH_UP));
        self.now_ms = self.now_ms.max(wall_ms.min(furthest));
    }

    /// Milliseconds since 1970, as far as it is believed.
    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;

    #[test]
    fn it_follows_the_wall_clock() {
        let mut clock = Clock::start(0, 1000);
        for step in 1..100 {
            clock.advance(1000 + step * 500, 500);
            assert_eq!(clock.now_ms(), 1000 + step * 500);
        }
    }

    #[test]
    fn a_clock_set_forward_by_a_day_is_followed_within_an_hour_and_not_at_once() {
        let mut clock = Clock::start(0, DAY);
        clock.advance(2 * DAY + 1000, 1000);
        assert_eq!(clock.now_ms(), DAY + 24_000);
        clock.advance(2 * DAY + HOUR, HOUR - 1000);
        assert!(clock.now_ms() >= 2 * DAY);
    }

    #[test]
    fn a_clock_set_back_stands_still() {
        let mut clock = Clock::start(0, 2 * DAY);
        clock.advance(DAY, 1000);
        assert_eq!(clock.now_ms(), 2 * DAY);
        clock.advance(2 * DAY + 1, DAY);
        assert_eq!(clock.now_ms(), 2 * DAY + 1);
    }

    #[test]
    fn what_a_stopped_broker_slept_through_is_made_up_for() {
        let mut clock = Clock::start(DAY, 11 * DAY);
        clock.advance(11 * DAY, 60_000);
        assert_eq!(clock.now_ms(), DAY + 24 * 60_000);
        clock.advance(12 * DAY, DAY);
        assert_eq!(clock.now_ms(), 12 * DAY);
    }
}
