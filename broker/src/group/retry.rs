//! When a failed event is tried again, and when it is not.

use crate::commit::record::GroupConfig;

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another attempt, after so many milliseconds.
    RetryAfter(u64),
    /// It was the last one.
    DeadLetter,
}

/// What follows attempt number `attempt` (from 1), when the worker asked for
/// `delay_ms`, or asked for nothing. `chance` is a random number from 0 to 1.
#[must_use]
pub fn after_failure(
    config: &GroupConfig,
    attempt: u32,
    delay_ms: Option<u64>,
    chance: f64,
) -> Verdict {
    if attempt >= config.max_attempts {
        return Verdict::DeadLetter;
    }
    Verdict::RetryAfter(delay_ms.unwrap_or_else(|| delay_after(config, attempt, chance)))
}

/// `initial_delay × multiplier^(attempt − 1)`, at most `max_delay`, and of that
/// between `1 − jitter` and all.
fn delay_after(config: &GroupConfig, attempt: u32, chance: f64) -> u64 {
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let delay = config.initial_delay_ms as f64 * config.multiplier.powi(exponent);
    let longest = config.max_delay_ms as f64;
    // A float that is too large, or not a number, becomes the limit.
    let delay = if delay < longest { delay } else { longest };
    let jitter = config.jitter.clamp(0.0, 1.0) * chance.clamp(0.0, 1.0);
    (delay * (1.0 - jitter)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> GroupConfig {
        GroupConfig {
            max_attempts: 5,
            initial_delay_ms: 100,
            multiplier: 3.0,
            max_delay_ms: 1000,
            ..GroupConfig::default()
        }
    }

    #[test]
    fn delays_grow_up_to_the_limit_and_then_it_is_a_dead_letter() {
        let after = |attempt, asked| after_failure(&config(), attempt, asked, 0.9);
        let delays: Vec<_> = (1..=5).map(|n| after(n, None)).collect();
        assert_eq!(
            delays,
            [
                Verdict::RetryAfter(100),
                Verdict::RetryAfter(300),
                Verdict::RetryAfter(900),
                Verdict::RetryAfter(1000),
                Verdict::DeadLetter,
            ]
        );
        assert_eq!(after(1, Some(7)), Verdict::RetryAfter(7));
        assert_eq!(after(9, Some(7)), Verdict::DeadLetter);
    }

    #[test]
    fn a_fixed_delay_stays_as_it_is() {
        let config = GroupConfig {
            multiplier: 1.0,
            ..config()
        };
        let delays: Vec<_> = (1..=3).map(|n| delay_after(&config, n, 0.0)).collect();
        assert_eq!(delays, [100, 100, 100]);
    }

    proptest! {
        /// The same chance gives the same delay, and it lies within the jitter.
        #[test]
        fn chance_takes_its_share_of_a_delay_and_no_more(
            attempt in 1_u32..5, jitter in 0.0..=1.0_f64, chance in 0.0..=1.0_f64,
        ) {
            let config = GroupConfig { jitter, ..config() };
            let whole = delay_after(&config, attempt, 0.0);
            let delay = delay_after(&config, attempt, chance);
            prop_assert!(delay <= whole);
            prop_assert!(delay + 1 >= (whole as f64 * (1.0 - jitter)) as u64);
            prop_assert_eq!(delay, delay_after(&config, attempt, chance));
        }
    }

    #[test]
    fn no_number_overflows() {
        let config = GroupConfig {
            max_attempts: u32::MAX,
            multiplier: 10.0,
            ..config()
        };
        assert_eq!(delay_after(&config, u32::MAX - 1, 0.0), 1000);
        let nonsense = GroupConfig {
            multiplier: f64::NAN,
            jitter: f64::NAN,
            ..config
        };
        assert!(delay_after(&nonsense, 2, f64::NAN) <= 1000);
    }
}
