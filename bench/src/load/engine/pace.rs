//! When batches are due, and telling it when they are; and work that takes time.

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

/// The time that somebody works. What is slept too long is worked less afterwards,
/// however much it is: in all, work takes exactly its time, and whoever has few events
/// in a message does not sleep too long more often.
#[derive(Default)]
pub(super) struct Work {
    overslept: Duration,
}

impl Work {
    /// Works for so long.
    pub(super) async fn take(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = self.until(Instant::now(), time);
        let left = until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            // The runtime's timers go by milliseconds.
            tokio::task::spawn_blocking(move || thread::sleep(left)).await?;
        }
        self.ended(until, Instant::now());
        Ok(())
    }

    /// When work is done that begins now.
    fn until(&self, now: Instant, time: Duration) -> Instant {
        let end = now + time;
        end.checked_sub(self.overslept).unwrap_or(end)
    }

    /// It was to be done at a time, and is now.
    fn ended(&mut self, until: Instant, now: Instant) {
        self.overslept = now.saturating_duration_since(until);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_its_time_in_all_however_long_each_sleep_is() {
        let micros = Duration::from_micros;
        let begun = Instant::now();
        let mut now = begun;
        let mut work = Work::default();
        for sleeps_too_long in [70, 4_000, 0, 20_000, 900].repeat(160) {
            let until = work.until(now, micros(150));
            if until > now {
                now = until + micros(sleeps_too_long);
            }
            work.ended(until, now);
        }
        let worked = now - begun - work.overslept;
        assert_eq!(worked, micros(150) * 800);
    }
}
