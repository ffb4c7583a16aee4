//! A broker in memory.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, atomic::AtomicU64},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::Notify, time::sleep};

use super::super::*;
use crate::load::target::{Acked, Consumer, Message, Producer, Target};

/// A broker that is as slow and as wrong as it is told to be.
#[derive(Clone)]
pub(super) struct Slow {
    /// Each ack and each delivery comes so much later,
    pub(super) delay: Duration,
    /// or only those of one batch of so many.
    pub(super) delays_one_in: u64,
    /// In this time after its start it does nothing.
    pub(super) stall: Range<Duration>,
    /// Acks the event with this number but does not keep it.
    pub(super) loses: Option<u64>,
    /// Keeps the event with this number twice.
    pub(super) doubles: Option<u64>,
    /// The topic whose events have those numbers.
    pub(super) numbered: &'static str,
    /// Whether it applies filters.
    pub(super) filters: bool,
    /// From its start after a kill until it is there.
    pub(super) opening: Duration,
    /// How many batches it refuses after a kill.
    pub(super) refuses: u64,
    /// How many events it has no more after a kill.
    pub(super) forgets: usize,
    pub(super) started: Instant,
    /// Whether the bench has started it.
    pub(super) is_ours: bool,
    pub(super) shared: Arc<Shared>,
}

/// What its connections share.
#[derive(Default)]
pub(super) struct Shared {
    topics: Mutex<HashMap<String, Topic>>,
    batches: AtomicU64,
    refusals: AtomicU64,
    arrived: Notify,
}

#[derive(Default)]
struct Topic {
    /// Events that have come.
    count: u64,
    /// What waits for each group.
    groups: Vec<Vec<Message>>,
}

impl Slow {
    /// One that is quick and right.
    pub(super) fn new() -> Self {
        Self {
            delay: Duration::ZERO,
            delays_one_in: 1,
            stall: Duration::ZERO..Duration::ZERO,
            loses: None,
            doubles: None,
            numbered: "bench-0",
            filters: true,
            opening: Duration::ZERO,
            refuses: 0,
            forgets: 0,
            is_ours: true,
            started: Instant::now(),
            shared: Arc::default(),
        }
    }

    pub(super) fn target(self) -> Arc<dyn Target> {
        Arc::new(self)
    }

    /// When a batch that comes now is there.
    fn ready_at(&self) -> Instant {
        let now = Instant::now();
        let stalled = self.stall.contains(&(now - self.started));
        let start = if stalled {
            self.started + self.stall.end
        } else {
            now
        };
        let number = self.shared.batches.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(self.delays_one_in) {
            start + self.delay
        } else {
            start
        }
    }

    pub(super) fn topics(&self) -> usize {
        self.shared.topics.lock().unwrap().len()
    }

    fn keep(&self, topic: &str, batch: Vec<Message>) {
        let mut topics = self.shared.topics.lock().unwrap();
        let counts = self.numbered == topic;
        let topic = topics.get_mut(topic).unwrap();
        for message in batch {
            topic.count += 1;
            let is = |number| counts && number == Some(topic.count);
            let copies = match (is(self.loses), is(self.doubles)) {
                (true, _) => 0,
                (_, true) => 2,
                _ => 1,
            };
            for group in &mut topic.groups {
                group.extend(std::iter::repeat_n(message.clone(), copies));
            }
        }
        drop(topics);
        self.shared.arrived.notify_waiters();
    }
}

#[async_trait]
impl Target for Slow {
    fn settings(&self) -> &str {
        ""
    }

    fn pid(&self) -> Option<u32> {
        self.is_ours.then(std::process::id)
    }

    async fn remove(&self, topics: &[String], _: &Spec) -> anyhow::Result<()> {
        let mut all = self.shared.topics.lock().unwrap();
        all.retain(|name, _| self.is_ours || !topics.contains(name));
        Ok(())
    }

    async fn restart(&self) -> anyhow::Result<Instant> {
        let started = Instant::now();
        sleep(self.opening).await;
        let refusals = &self.shared.refusals;
        refusals.store(self.refuses, Ordering::Relaxed);
        for topic in self.shared.topics.lock().unwrap().values_mut() {
            for group in &mut topic.groups {
                group.truncate(group.len() - self.forgets);
            }
        }
        Ok(started)
    }

    async fn create(&self, topics: &[String], spec: &Spec) -> anyhow::Result<()> {
        let topic = || Topic {
            count: 0,
            groups: vec![Vec::new(); spec.groups],
        };
        let topics = topics.iter().map(|name| (name.clone(), topic()));
        self.shared.topics.lock().unwrap().extend(topics);
        Ok(())
    }

    async fn producer(&self, topics: &[String], _: &Spec) -> anyhow::Result<Box<dyn Producer>> {
        Ok(Box::new(Publisher {
            broker: self.clone(),
            topics: topics.to_vec(),
        }))
    }

    async fn consumer(
        &self,
        topic: &str,
        group: usize,
        spec: &Spec,
    ) -> anyhow::Result<Box<dyn Consumer>> {
        Ok(Box::new(Member {
            broker: self.clone(),
            topic: topic.to_owned(),
            group,
            filters: self.filters && !spec.filter.is_empty(),
        }))
    }
}

struct Publisher {
    broker: Slow,
    topics: Vec<String>,
}

#[async_trait]
impl Producer for Publisher {
    async fn send(&mut self, topic: usize, batch: Vec<Message>) -> anyhow::Result<Acked> {
        let refusals = &self.broker.shared.refusals;
        let refuses = refusals.try_update(Ordering::Relaxed, Ordering::Relaxed, |rest| {
            rest.checked_sub(1)
        });
        anyhow::ensure!(refuses.is_err(), "not yet");
        let (broker, topic) = (self.broker.clone(), self.topics[topic].clone());
        let ready = broker.ready_at();
        Ok(Box::pin(async move {
            sleep_until(ready.into()).await;
            broker.keep(&topic, batch);
            Ok(())
        }))
    }
}

struct Member {
    broker: Slow,
    topic: String,
    group: usize,
    /// Whether it gets only what has the label "0", which filters here ask for.
    filters: bool,
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self) -> anyhow::Result<Vec<Bytes>> {
        loop {
            let arrived = self.broker.shared.arrived.notified();
            let taken = {
                let mut topics = self.broker.shared.topics.lock().unwrap();
                let topic = topics.get_mut(&self.topic).unwrap();
                std::mem::take(&mut topic.groups[self.group])
            };
            let passing = taken
                .into_iter()
                .filter(|message| !self.filters || message.label == Some(0));
            let payloads: Vec<_> = passing.map(|message| message.payload).collect();
            if !payloads.is_empty() {
                return Ok(payloads);
            }
            arrived.await;
        }
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}
