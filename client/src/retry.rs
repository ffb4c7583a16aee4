//! How long to wait before trying again.

use std::time::Duration;

/// Exponential backoff with full jitter: before try `n` (from 0), a random time
/// between 0 and `min(max, first × 2^n)`, so that clients of a broker that comes
/// back do not come all at once
/// (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
///
/// ```
/// use sluice_client::Backoff;
/// let backoff = Backoff::default();
/// assert!(backoff.delay(3, 0.5) <= backoff.max);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Longest first delay. Default 50 ms.
    pub first: Duration,
    /// Longest delay. Default 5 s.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            max: Duration::from_secs(5),
        }
    }
}

impl Backoff {
    /// The delay before try `attempt`, where `random` is between 0 and 1.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let factor = 2_u32.saturating_pow(attempt);
        self.first
            .saturating_mul(factor)
            .min(self.max)
            .mul_f64(random.clamp(0.0, 1.0))
    }

    /// Waits before try `attempt`.
    pub(crate) async fn wait(&self, attempt: u32) {
        tokio::time::sleep(self.delay(attempt, rand::random())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn delays_stay_within_their_bound(attempt in any::<u32>(), random in 0.0..1.0) {
            let backoff = Backoff::default();
            let longest = backoff.delay(attempt, 1.0);
            prop_assert!(backoff.delay(attempt, random) <= longest);
            prop_assert!(longest <= backoff.max);
            prop_assert!(longest >= backoff.delay(attempt.saturating_sub(1), 1.0));
        }
    }
}
