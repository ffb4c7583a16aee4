//! What publishers may have in line for the log, all together.
//!
//! It is less than the line is long, so that settlements, heartbeats and commits
//! always find room in it. When it is used up, publishers take turns.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use super::{
    gate::Producer,
    turns::{Ticket, Turns},
};

/// The line as publishers see it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Intake(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes_max: u64,
    requests_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    requests: usize,
    waiting: Turns<Producer, (u64, oneshot::Sender<InLine>)>,
}

/// A place in line, until the request has an outcome.
#[derive(Debug)]
pub struct InLine {
    intake: Intake,
    bytes: u64,
}

impl Drop for InLine {
    fn drop(&mut self) {
        let mut state = self.intake.state();
        state.bytes -= self.bytes;
        state.requests -= 1;
        let waits = !state.waiting.is_empty();
        drop(state);
        if waits {
            self.intake.pump();
        }
    }
}

/// Waits for its turn; does so no more when dropped.
struct Waiting<'a>(&'a Intake, Ticket);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let left = self.0.state().waiting.leave(self.1);
        drop(left);
    }
}

impl Intake {
    /// Room for so many bytes, and so many requests, in line at once. A request
    /// that is larger has it alone.
    #[must_use]
    pub fn new(bytes_max: u64, requests_max: usize) -> Self {
        Self(Arc::new(Shared {
            bytes_max,
            requests_max,
            state: Mutex::default(),
        }))
    }

    /// Waits for room; `None` when there is none by `until`.
    pub async fn enter(&self, who: Producer, bytes: u64, until: Option<Instant>) -> Option<InLine> {
        let (ticket, mut turn) = {
            let mut state = self.state();
            if state.waiting.is_empty() && self.has_room(&state, bytes) {
                return Some(self.take(&mut state, bytes));
            }
            let (sender, turn) = oneshot::channel();
            (state.waiting.wait(who, bytes, (bytes, sender)), turn)
        };
        let waiting = Waiting(self, ticket);
        // What was in the way may have gone just now.
        self.pump();
        let time_is_up = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Ok(in_line) = &mut turn => return Some(in_line),
            () = time_is_up => {}
        }
        drop(waiting);
        // Its turn may have come just now.
        turn.try_recv().ok()
    }

    fn has_room(&self, state: &State, bytes: u64) -> bool {
        state.requests == 0
            || (state.bytes + bytes <= self.0.bytes_max && state.requests < self.0.requests_max)
    }

    fn take(&self, state: &mut State, bytes: u64) -> InLine {
        state.bytes += bytes;
        state.requests += 1;
        InLine {
            intake: self.clone(),
            bytes,
        }
    }

    fn pump(&self) {
        let mut admitted = Vec::new();
        let mut state = self.state();
        while let Some((bytes, _)) = state.waiting.first()
            && self.has_room(&state, *bytes)
            && let Some((bytes, sender)) = state.waiting.pop()
        {
            admitted.push((sender, self.take(&mut state, bytes)));
        }
        drop(state);
        for (sender, in_line) in admitted {
            // One that waits no longer gives its place up again.
            let _ = sender.send(in_line);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under this lock can leave the state half changed.
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sluice_proto::ProducerId;

    use super::*;

    const GREEDY: Producer = Producer::Session(ProducerId(1));
    const MODEST: Producer = Producer::Session(ProducerId(2));

    #[tokio::test]
    async fn room_comes_back_and_the_modest_do_not_wait_behind_the_greedy() {
        let intake = Intake::new(100, 1000);
        let first = intake.enter(GREEDY, 80, None).await.expect("there is room");
        let mut order = Vec::new();
        let (sender, mut entered) = tokio::sync::mpsc::unbounded_channel();
        for at in 0..5 {
            let (intake, sender) = (intake.clone(), sender.clone());
            tokio::spawn(async move {
                let in_line = intake.enter(GREEDY, 80, None).await;
                sender.send(("greedy", at)).expect("it is read");
                drop(in_line);
            });
        }
        tokio::task::yield_now().await;
        let (of_modest, to) = (intake.clone(), sender);
        tokio::spawn(async move {
            let in_line = of_modest.enter(MODEST, 40, None).await;
            to.send(("modest", 0)).expect("it is read");
            drop(in_line);
        });
        tokio::task::yield_now().await;
        // Nobody is in time while the first has the room.
        let soon = Some(Instant::now() + Duration::from_millis(10));
        assert!(intake.enter(MODEST, 40, soon).await.is_none());
        drop(first);
        while let Some((who, _)) = entered.recv().await {
            order.push(who);
        }
        let place = order.iter().position(|who| *who == "modest");
        assert!(place.is_some_and(|place| place <= 1), "{order:?}");
        assert_eq!(order.len(), 6);
        let state = intake.state();
        assert_eq!((state.bytes, state.requests), (0, 0));
    }

    #[tokio::test]
    async fn one_that_is_larger_than_the_line_has_it_alone() {
        let intake = Intake::new(100, 10);
        let large = intake.enter(GREEDY, 500, None).await;
        assert!(large.is_some());
        let now = Some(Instant::now());
        assert!(intake.enter(MODEST, 1, now).await.is_none());
        drop(large);
        assert!(intake.enter(MODEST, 1, now).await.is_some());
    }
}
