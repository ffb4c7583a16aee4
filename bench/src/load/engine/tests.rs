//! The engine against a broker in memory that is as slow as it is told to be.

#![allow(clippy::unwrap_used)]

use std::{ops::Range, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use super::*;
use crate::load::{
    target::{Acked, Consumer, Producer},
    workload::Spec,
};

/// A broker in memory that is as slow as it is told to be.
#[derive(Clone)]
struct Slow {
    /// Each ack and each delivery comes so much later.
    delay: Duration,
    /// In this time after its start it does nothing.
    stall: Range<Duration>,
    started: Instant,
    loses: bool,
    events: Arc<Mutex<Vec<Bytes>>>,
    arrived: Arc<Notify>,
}

impl Slow {
    fn new() -> Self {
        Self {
            delay: Duration::ZERO,
            stall: Duration::ZERO..Duration::ZERO,
            started: Instant::now(),
            loses: false,
            events: Arc::default(),
            arrived: Arc::default(),
        }
    }

    fn ready_at(&self) -> Instant {
        let now = Instant::now();
        let stalled = self.stall.contains(&(now - self.started));
        let start = if stalled {
            self.started + self.stall.end
        } else {
            now
        };
        start + self.delay
    }
}

#[async_trait]
impl Target for Slow {
    fn settings(&self) -> &str {
        ""
    }

    fn pid(&self) -> u32 {
        std::process::id()
    }

    async fn restart(&self) -> anyhow::Result<Instant> {
        anyhow::bail!("it cannot be killed")
    }

    async fn create(&self, _: &[String], _: &Spec) -> anyhow::Result<()> {
        Ok(())
    }

    async fn producer(&self, _: &[String], _: &Spec) -> anyhow::Result<Box<dyn Producer>> {
        Ok(Box::new(self.clone()))
    }

    async fn consumer(&self, _: &str, _: usize, _: &Spec) -> anyhow::Result<Box<dyn Consumer>> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Producer for Slow {
    async fn send(&mut self, _: usize, batch: Vec<Message>) -> anyhow::Result<Acked> {
        let slow = self.clone();
        let ready = self.ready_at();
        Ok(Box::pin(async move {
            sleep_until(ready.into()).await;
            let mut events = slow.events.lock().unwrap();
            let kept = if slow.loses {
                batch.len() - 1
            } else {
                batch.len()
            };
            events.extend(batch.into_iter().take(kept).map(|m| m.payload));
            slow.arrived.notify_waiters();
            Ok(())
        }))
    }
}

#[async_trait]
impl Consumer for Slow {
    async fn next(&mut self) -> anyhow::Result<Vec<Bytes>> {
        loop {
            let arrived = self.arrived.notified();
            let events = std::mem::take(&mut *self.events.lock().unwrap());
            if !events.is_empty() {
                return Ok(events);
            }
            arrived.await;
        }
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

fn spec() -> Spec {
    Spec {
        kind: Kind::EndToEnd,
        event_bytes: 64,
        rate: 500.0,
        outstanding: 10_000,
        groups: 1,
        members: 1,
        seconds: 1.0,
        warmup_seconds: 0.2,
        ..Spec::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_delay_is_in_every_latency() {
    let slow = Slow {
        delay: Duration::from_millis(50),
        ..Slow::new()
    };
    let outcome = run(Arc::new(slow), &spec()).await.unwrap();
    // It can only be later than that.
    assert!(outcome.acks.min() >= 50_000, "{}", outcome.acks.min());
    assert!(outcome.deliveries.min() >= 50_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_that_was_due_in_a_stall_has_waited_for_its_end() {
    // From 0.4 s to 0.9 s: half of the measured second.
    let slow = Slow {
        stall: Duration::from_millis(400)..Duration::from_millis(900),
        ..Slow::new()
    };
    // One at a time, so that a bench that waits for its broker before it
    // sends the next would see the stall once.
    let spec = Spec {
        outstanding: 1,
        ..spec()
    };
    let outcome = run(Arc::new(slow), &spec).await.unwrap();
    // Of the 500 events of the second, 250 were due in the stall, the first
    // of which waits 500 ms; the 150 that were due in its first 300 ms wait
    // for 200 ms at least.
    let long = outcome.deliveries.len() - outcome.deliveries.count_between(1, 199_000);
    assert!(long >= 145, "only {long} events have waited");
    let all = outcome.deliveries.len();
    assert!((495..=501).contains(&all), "{all} events were due");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_come_out_as_went_in() {
    let spec = Spec {
        batch: 7,
        members: 3,
        producers: 2,
        ..spec()
    };
    let outcome = run(Arc::new(Slow::new()), &spec).await.unwrap();
    assert!(outcome.published > 0 && outcome.consumed > 0);
    let losing = Slow {
        loses: true,
        ..Slow::new()
    };
    let spec = Spec {
        kind: Kind::Drain,
        events: 1000,
        patience_seconds: 0.5,
        ..spec
    };
    let error = run(Arc::new(losing), &spec).await.unwrap_err();
    assert!(error.to_string().contains("have not arrived"), "{error}");
}
