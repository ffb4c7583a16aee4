//! How far each stage of a chain is, over time.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::sleep_until};

use super::Run;

const INTERVAL: Duration = Duration::from_millis(100);

/// How far a chain was at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds from when counting began.
    pub(crate) at: f64,
    /// Events that had been sent to the first stage.
    pub(crate) sent: u64,
    /// Events that each stage had done.
    pub(crate) done: Vec<u64>,
}

impl Sample {
    /// Events that wait for this stage, or are with it.
    pub(crate) fn backlog(&self, stage: usize) -> u64 {
        let before = match stage.checked_sub(1) {
            Some(before) => self.done[before],
            None => self.sent,
        };
        before.saturating_sub(self.done[stage])
    }
}

/// Looks until all stages have done all.
pub(super) async fn watch(run: Arc<Run>, stages: Vec<watch::Receiver<u64>>) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut next = run.from;
    let give_up = run.until + run.spec.patience();
    loop {
        sleep_until(next.into()).await;
        next += INTERVAL;
        let sent = run.sent.load(Ordering::Relaxed);
        let done: Vec<_> = stages.iter().map(|count| *count.borrow()).collect();
        let now = Instant::now();
        let is_all = now > run.until && done.iter().all(|done| *done == sent);
        samples.push(Sample {
            at: now.saturating_duration_since(run.from).as_secs_f64(),
            sent,
            done,
        });
        if is_all || now > give_up {
            return samples;
        }
    }
}
