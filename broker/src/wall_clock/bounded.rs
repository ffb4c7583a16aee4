//! The time by which events grow old.

/// Follows the wall clock, never back, and forward at a bounded rate: a clock
/// that jumps ahead must not drop everything at once.
///
/// A day is caught up within an hour, in which somebody can set the clock right.
/// It is noted in the log now and then, and a start goes on from there, so that the
/// same holds for a broker that was stopped for long, and for one whose clock was
/// set while it ran or while it did not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    now_ms: u64,
}

/// How much faster than time itself it may go.
const CATCH_UP: u64 = 24;

impl Clock {
    /// `noted_ms` is the time that the log knows; 0 when it is new.
    pub(super) fn start(noted_ms: u64, wall_ms: u64) -> Self {
        let now_ms = if noted_ms == 0 { wall_ms } else { noted_ms };
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
    use proptest::prelude::*;

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

    proptest! {
        /// Whatever the wall clock is set to and when, over restarts too, the time
        /// never goes back, never goes on faster than it may, and is right in the end.
        #[test]
        fn no_wall_clock_makes_it_jump(
            steps in proptest::collection::vec((0..100_000_u64, -2 * DAY as i64..2 * DAY as i64, any::<bool>()), 1..50),
        ) {
            let began_ms = 10 * DAY;
            let (mut real_ms, mut clock) = (began_ms, Clock::start(0, began_ms));
            let mut noted_ms = clock.now_ms();
            for (elapsed_ms, ahead_ms, restart) in steps {
                real_ms += elapsed_ms;
                let wall_ms = real_ms.saturating_add_signed(ahead_ms);
                let before_ms = clock.now_ms();
                if restart {
                    clock = Clock::start(noted_ms, wall_ms);
                    prop_assert_eq!(clock.now_ms(), noted_ms);
                    continue;
                }
                clock.advance(wall_ms, elapsed_ms);
                prop_assert!(clock.now_ms() >= before_ms);
                prop_assert!(clock.now_ms() <= before_ms + CATCH_UP * elapsed_ms);
                noted_ms = clock.now_ms();
            }
            clock.advance(real_ms + 10 * DAY, 10 * DAY);
            prop_assert!(clock.now_ms() >= real_ms + 10 * DAY);
        }
    }
}
