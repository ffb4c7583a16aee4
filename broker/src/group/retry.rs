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
/// `delay_ms`, or asked for nothing.
#[must_use]
pub fn after_failure(config: &GroupConfig, attempt: u32, delay_ms: Option<u64>) -> Verdict {
    if attempt >= config.max_attempts {
        return Verdict::DeadLetter;
    }
    Verdict::RetryAfter(delay_ms.unwrap_or_else(|| delay_after(config, attempt)))
}

/// `initial_delay × multiplier^(attempt − 1)`, at most `max_delay`.
fn delay_after(config: &GroupConfig, attempt: u32) -> u64 {
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let delay = config.initial_delay_ms as f64 * config.multiplier.powi(exponent);
    // A float that is too large, or not a number, becomes the limit.
    if delay < config.max_delay_ms as f64 {
        delay as u64
    } else {
        config.max_delay_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let delays: Vec<_> = (1..=5).map(|n| after_failure(&config(), n, None)).collect();
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
        assert_eq!(after_failure(&config(), 1, Some(7)), Verdict::RetryAfter(7));
        assert_eq!(after_failure(&config(), 9, Some(7)), Verdict::DeadLetter);
    }

    #[test]
    fn no_number_overflows() {
        let config = GroupConfig {
            max_attempts: u32::MAX,
            multiplier: 10.0,
            ..config()
        };
        assert_eq!(delay_after(&config, u32::MAX - 1), 1000);
    }
}
