//! How much work one evaluation may be.

use std::sync::atomic::{AtomicU64, Ordering};

use super::EvaluationError;

/// Steps that one evaluation of a filter may take. A step is about as much work
/// as looking at one small value; what a filter of comparisons takes is a few.
pub const STEPS_MAX: u64 = 200_000;

/// The steps that an evaluation has left.
#[derive(Debug)]
pub struct Budget(AtomicU64);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU64::new(STEPS_MAX))
    }
}

impl Budget {
    /// Takes steps off.
    ///
    /// # Errors
    /// When fewer are left; then none are.
    pub fn spend(&self, steps: u64) -> Result<(), EvaluationError> {
        let left = self.left();
        self.set(left.saturating_sub(steps));
        if steps > left {
            return Err(EvaluationError::OverBudget);
        }
        Ok(())
    }

    /// Steps left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, left: u64) {
        self.0.store(left, Ordering::Relaxed);
    }
}
