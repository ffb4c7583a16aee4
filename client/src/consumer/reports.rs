//! When a consumer sends what its workers say of how far they are.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use super::lease::LeaseKey;

/// Between two sendings. People look at it, so more often serves nobody.
const INTERVAL: Duration = Duration::from_millis(100);

/// Reports of a consumer's leases: those of all leases are sent together, the last of
/// each, when those before are answered and [`INTERVAL`] is over. Bounded by the leases
/// that are held.
#[derive(Debug)]
pub(super) struct Reports {
    /// Leases with something to send.
    due: HashSet<LeaseKey>,
    /// Those that were sent, by request; an answer counts them by their place.
    unanswered: HashMap<i64, Vec<LeaseKey>>,
    next: Instant,
}

impl Reports {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: HashSet::new(),
            unanswered: HashMap::new(),
            next: now,
        }
    }

    /// The lease has something to send.
    pub(super) fn add(&mut self, key: LeaseKey) {
        self.due.insert(key);
    }

    /// The lease is not held any more.
    pub(super) fn remove(&mut self, key: LeaseKey) {
        self.due.remove(&key);
    }

    /// When something is to be sent, as things stand.
    pub(super) fn next(&self) -> Option<Instant> {
        (!self.due.is_empty() && self.unanswered.is_empty()).then_some(self.next)
    }

    /// The leases whose reports are to be sent now.
    pub(super) fn take(&mut self, now: Instant) -> Vec<LeaseKey> {
        self.next = now + INTERVAL;
        self.due.drain().collect()
    }

    /// They were sent.
    pub(super) fn sent(&mut self, request: i64, leases: Vec<LeaseKey>) {
        self.unanswered.insert(request, leases);
    }

    /// Those that a request had sent; `None` when it was none of these.
    pub(super) fn answered(&mut self, request: i64) -> Option<Vec<LeaseKey>> {
        self.unanswered.remove(&request)
    }

    /// What was sent on an earlier stream is not answered any more.
    pub(super) fn new_stream(&mut self) {
        self.unanswered.clear();
    }
}

#[cfg(test)]
mod tests {
    use sluice_proto::pb::LeaseToken;

    use super::*;

    fn key(counter: i64) -> LeaseKey {
        LeaseToken { epoch: 1, counter }.into()
    }

    #[test]
    fn the_next_waits_for_the_answer_and_for_its_time() {
        let now = Instant::now();
        let mut reports = Reports::new(now);
        assert_eq!(reports.next(), None);
        reports.add(key(1));
        assert_eq!(reports.next(), Some(now));
        let sent = reports.take(now);
        assert_eq!(sent, [key(1)]);
        reports.sent(7, sent);
        for _ in 0..1000 {
            reports.add(key(1));
            reports.add(key(2));
        }
        assert_eq!(reports.next(), None, "there is no answer");
        assert_eq!(reports.answered(6), None);
        assert_eq!(reports.answered(7), Some(vec![key(1)]));
        assert_eq!(reports.next(), Some(now + INTERVAL));
        reports.remove(key(1));
        assert_eq!(reports.take(now + INTERVAL), [key(2)]);
        assert_eq!(reports.next(), None, "nothing is due");
    }

    #[test]
    fn a_new_stream_waits_for_no_answer_of_the_one_before() {
        let now = Instant::now();
        let mut reports = Reports::new(now);
        reports.sent(7, vec![key(1)]);
        reports.add(key(1));
        assert_eq!(reports.next(), None);
        reports.new_stream();
        assert_eq!(reports.next(), Some(now));
    }
}
