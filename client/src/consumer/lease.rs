//! A lease, as the consumer's task and the event's worker share it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sluice_proto::pb;
use tokio_util::sync::CancellationToken;

/// A lease as a key of maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LeaseKey {
    epoch: i64,
    counter: i64,
}

impl LeaseKey {
    pub(crate) fn token(self) -> pb::LeaseToken {
        pb::LeaseToken {
            epoch: self.epoch,
            counter: self.counter,
        }
    }
}

impl From<pb::LeaseToken> for LeaseKey {
    fn from(token: pb::LeaseToken) -> Self {
        Self {
            epoch: token.epoch,
            counter: token.counter,
        }
    }
}

/// A lease of an event that came.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) key: LeaseKey,
    /// Becomes cancelled when it is lost.
    pub(crate) lost: CancellationToken,
    said: Mutex<Said>,
}

/// What the worker says of how far it is.
#[derive(Debug, Default)]
struct Said {
    /// The last of it. It stays when it was sent, to be said again on the next stream.
    last: Option<pb::Extend>,
    /// The consumer's task has been told, or is about to be, that something is here
    /// that it has not sent.
    unsent: bool,
    /// The lease is settled, or somebody is at it.
    ended: bool,
}

/// A report finds that its lease has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseEnded;

impl Lease {
    pub(crate) fn new(key: LeaseKey) -> Self {
        Self {
            key,
            lost: CancellationToken::new(),
            said: Mutex::default(),
        }
    }

    /// Says this in the place of what was said before. Returns whether the consumer's
    /// task is to be told: not while there is something that it has been told of and
    /// not sent.
    pub(crate) fn say(&self, report: pb::Extend) -> Result<bool, LeaseEnded> {
        let mut said = self.said();
        if said.ended || self.lost.is_cancelled() {
            return Err(LeaseEnded);
        }
        said.last = Some(report);
        Ok(!std::mem::replace(&mut said.unsent, true))
    }

    /// What is to be sent now, by the consumer's task, which had been told.
    pub(crate) fn sent(&self) -> Option<pb::Extend> {
        let mut said = self.said();
        said.unsent = false;
        said.last.clone()
    }

    /// A broker that was restarted knows nothing of what was said. Returns whether
    /// there is something to send again, of which the consumer's task is told thereby.
    pub(crate) fn say_again(&self) -> bool {
        let mut said = self.said();
        let again = said.last.is_some() && !said.unsent;
        said.unsent |= again;
        again
    }

    /// Nothing is said any more: it is about to be settled.
    pub(crate) fn end(&self) {
        let mut said = self.said();
        said.ended = true;
        said.last = None;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.said().ended
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        // Nothing that runs under this lock panics.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease::new(pb::LeaseToken::default().into())
    }

    fn percent(percent: i32) -> pb::Extend {
        pb::Extend {
            percent: Some(percent),
            ..pb::Extend::default()
        }
    }

    #[test]
    fn the_task_is_told_once_and_sends_the_last_that_was_said() {
        let lease = lease();
        let told: Vec<_> = (1..=3).map(|at| lease.say(percent(at))).collect();
        assert_eq!(told, [Ok(true), Ok(false), Ok(false)]);
        assert_eq!(lease.sent(), Some(percent(3)));
        assert_eq!(lease.say(percent(4)), Ok(true));
        assert_eq!(lease.sent(), Some(percent(4)));
    }

    #[test]
    fn what_was_sent_is_said_again_and_what_was_not_is_said_once() {
        let lease = lease();
        assert!(!lease.say_again(), "nothing was said");
        assert_eq!(lease.say(percent(1)), Ok(true));
        assert!(!lease.say_again(), "the task knows of it");
        assert_eq!(lease.sent(), Some(percent(1)));
        assert!(lease.say_again());
        assert_eq!(lease.say(percent(2)), Ok(false), "the task knows of it");
        assert_eq!(lease.sent(), Some(percent(2)));
    }

    #[test]
    fn nothing_is_said_of_a_lease_that_is_settled_or_lost() {
        let settled = lease();
        assert_eq!(settled.say(percent(1)), Ok(true));
        settled.end();
        assert_eq!(settled.sent(), None);
        assert_eq!(settled.say(percent(2)), Err(LeaseEnded));
        assert!(!settled.say_again());

        let lost = lease();
        lost.lost.cancel();
        assert_eq!(lost.say(percent(1)), Err(LeaseEnded));
    }
}
