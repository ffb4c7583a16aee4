//! What the tasks of a run share.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use sluice_proto::pb::{AppendedRange, Event};
use sluice_tests::{
    api::{Api, places},
    history::History,
};
use tokio::sync::watch;

/// Partitions of the topic "in".
pub(crate) const PARTITIONS: u32 = 3;

/// What every task of a run shares.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) history: Arc<Mutex<History>>,
    /// Where the broker is now; nothing while it is down.
    pub(crate) url: watch::Receiver<Option<String>>,
    /// The producers are to end.
    pub(crate) done: watch::Receiver<bool>,
    /// The consumers are to end.
    pub(crate) drained: watch::Receiver<bool>,
}

impl Run {
    /// Writes into the history.
    pub(crate) fn note<T>(&self, note: impl FnOnce(&mut History) -> T) -> T {
        note(&mut self.history.lock().unwrap())
    }

    /// A connection to the broker, when there is one again. `None` when the run
    /// has come to its end.
    pub(crate) async fn connect(&self, end: &watch::Receiver<bool>) -> Option<Api> {
        let mut url = self.url.clone();
        let mut end = end.clone();
        loop {
            if *end.borrow() {
                return None;
            }
            let now = url.borrow_and_update().clone();
            if let Some(now) = now
                && let Ok(api) = Api::try_connect(&now).await
            {
                return Some(api);
            }
            tokio::select! {
                _ = end.changed() => {}
                _ = url.changed() => {}
                // It may have been killed before we had connected.
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }

    /// The broker said that these are durable.
    pub(crate) fn acked(&self, producer: &str, events: &[Event], ranges: &[AppendedRange]) {
        let places = places(events, PARTITIONS, ranges);
        let ids = events.iter().map(|event| event.id.clone());
        let batch = ids.zip(places).collect();
        // Ids end with a number that counts a producer's events.
        let first = events[0].id.rsplit('-').next();
        let number = first.and_then(|digits| digits.parse().ok()).unwrap();
        self.note(|history| history.batch_acked(producer, number, batch));
    }

    /// These are about to be published.
    pub(crate) fn invoked(&self, events: &[Event]) {
        self.note(|history| {
            for event in events {
                history.publish_invoked(&event.id);
            }
        });
    }
}
