//! What goes on while a backup is taken.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use sluice_proto::pb::Event;
use sluice_tests::{
    api::{Api, keyed_event, places},
    history::Place,
    member::{Member, ack, join},
};
use tokio::task::JoinHandle;

/// What was answered so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Answered {
    /// Events that were acked, by id.
    pub(super) published: Vec<(String, Place)>,
    /// What the group `w` of `t` has settled.
    pub(super) settled: BTreeSet<(i32, i64)>,
}

/// Publishers and a worker.
pub(super) struct Load {
    answered: Arc<Mutex<Answered>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

fn large(id: &str, bytes: usize) -> Event {
    Event {
        data_content_type: "application/octet-stream".to_owned(),
        data: vec![b'x'; bytes].into(),
        ..keyed_event(id, id)
    }
}

impl Load {
    pub(super) fn start(api: &Api) -> Self {
        let mut load = Self {
            answered: Arc::default(),
            stop: Arc::default(),
            tasks: Vec::new(),
        };
        for (name, topic) in [("one", "t"), ("two", "t"), ("three", "b")] {
            let (api, answered, stop) = (api.clone(), load.answered.clone(), load.stop.clone());
            load.tasks.push(tokio::spawn(async move {
                let partitions = api.partitions(topic).await;
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let events: Vec<Event> = (0..4)
                        .map(|m| large(&format!("{name}-{n}-{m}"), 16 << 10))
                        .collect();
                    let ranges = api.publish(topic, events.clone()).await.unwrap();
                    let places = places(&events, partitions, &ranges);
                    let ids = events.into_iter().map(|event| event.id);
                    answered.lock().unwrap().published.extend(ids.zip(places));
                }
            }));
        }
        let (api, answered, stop) = (api.clone(), load.answered.clone(), load.stop.clone());
        load.tasks.push(tokio::spawn(async move {
            let mut member = Member::join(&api, join("t", "w", i64::MAX)).await.unwrap();
            let _heartbeats = member.heartbeats();
            while !stop.load(Ordering::Relaxed) {
                let delivery = member.delivery().await.unwrap();
                let failures = member.settle(vec![ack(delivery.lease.unwrap())]).await;
                assert!(failures.unwrap().is_empty());
                let place = (delivery.partition, delivery.offset);
                answered.lock().unwrap().settled.insert(place);
            }
        }));
        load
    }

    pub(super) fn so_far(&self) -> Answered {
        self.answered.lock().unwrap().clone()
    }

    pub(super) async fn stop(self) -> Answered {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        Arc::into_inner(self.answered)
            .unwrap()
            .into_inner()
            .unwrap()
    }
}
