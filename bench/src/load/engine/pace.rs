//! When batches are due, and telling it when they are.

use std::{
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::Run;

/// When batches are due.
pub(super) enum Due {
    /// As soon as they may be sent.
    AtOnce { until: Instant },
    /// At the times that come here, whether or not they may be sent then.
    Paced(mpsc::UnboundedReceiver<Instant>),
}

impl Due {
    /// When the next one is due, once it is; `None` when the time is over.
    pub(super) async fn next(&mut self) -> Option<Instant> {
        match self {
            Self::AtOnce { until } => Some(Instant::now()).filter(|now| now < until),
            Self::Paced(times) => times.recv().await,
        }
    }
}

/// Tells each time of a schedule when it has come. On a thread of its own,
/// because the runtime's timers are too coarse: they go by milliseconds.
pub(super) fn pace(
    mut schedule: Schedule,
    until: Instant,
) -> anyhow::Result<mpsc::UnboundedReceiver<Instant>> {
    let (tell, times) = mpsc::unbounded_channel();
    thread::Builder::new().name("pacer".into()).spawn(move || {
        while schedule.next < until {
            let due = schedule.take();
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if tell.send(due).is_err() {
                return;
            }
        }
    })?;
    Ok(times)
}

/// When batches are due at a rate.
pub(super) struct Schedule {
    next: Instant,
    interval: Duration,
    burst_interval: Duration,
    burst: Range<Instant>,
}

impl Schedule {
    /// `None` when there is no rate.
    pub(super) fn new(run: &Run, producer: usize) -> Option<Self> {
        let spec = &run.spec;
        if spec.rate == 0.0 {
            return None;
        }
        let per_producer = spec.rate / spec.producers as f64;
        let interval = Duration::from_secs_f64(spec.batch as f64 / per_producer);
        // Producers take turns.
        let offset = interval.mul_f64(producer as f64 / spec.producers as f64);
        let time = spec.time();
        Some(Self {
            next: Instant::now() + offset,
            interval,
            burst_interval: interval.div_f64(spec.burst),
            burst: run.from + time.mul_f64(0.4)..run.from + time.mul_f64(0.6),
        })
    }

    fn take(&mut self) -> Instant {
        let due = self.next;
        self.next += if self.burst.contains(&due) {
            self.burst_interval
        } else {
            self.interval
        };
        due
    }
}
