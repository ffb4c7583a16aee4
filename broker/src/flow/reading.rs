//! How much of what producers send is read and on its way to the log, all
//! streams together.
//!
//! When it is as much as it may be, streams are read by turns as batches are done
//! with: what comes meanwhile fills the windows of the connections, and then stays
//! with those who send. Nobody can tell whether a stream has something to read, so
//! whoever has the turn holds nothing, and when nothing is on its way all have it.
//! A stream that waits for its next batch is not stopped any more: each may
//! overshoot by one.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// What is on its way. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reading(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    waiting: VecDeque<Waiter>,
}

/// A stream that waits for its turn.
#[derive(Debug)]
struct Waiter {
    /// What it is likely to read.
    expected_bytes: u64,
    turn: oneshot::Sender<()>,
}

/// A batch that is on its way, for as long as it lives.
#[derive(Debug)]
pub struct OnItsWay {
    reading: Reading,
    bytes: u64,
}

/// One stream's place among those that are read.
#[derive(Debug)]
pub struct Turn {
    reading: Reading,
    /// Bytes of its last batch.
    last_bytes: u64,
    waiting: Option<oneshot::Receiver<()>>,
}

impl Reading {
    /// For so many bytes at once.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Shared {
            bytes_max,
            state: Mutex::default(),
        }))
    }

    /// A batch of so many bytes is on its way, whether there is room for it or not.
    #[must_use]
    pub fn on_its_way(&self, bytes: u64) -> OnItsWay {
        self.state().bytes += bytes;
        OnItsWay {
            reading: self.clone(),
            bytes,
        }
    }

    /// The place of another stream.
    #[must_use]
    pub fn stream(&self) -> Turn {
        Turn {
            reading: self.clone(),
            last_bytes: 0,
            waiting: None,
        }
    }

    fn done(&self, bytes: u64) {
        let mut state = self.state();
        state.bytes -= bytes;
        let mut room = self.0.bytes_max.saturating_sub(state.bytes);
        let mut turns = Vec::new();
        while let Some(next) = state.waiting.front()
            && (state.bytes == 0 || next.expected_bytes <= room)
            && let Some(next) = state.waiting.pop_front()
        {
            // Whoever is gone needs no room.
            if !next.turn.is_closed() {
                room = room.saturating_sub(next.expected_bytes);
                turns.push(next.turn);
            }
        }
        drop(state);
        for turn in turns {
            let _ = turn.send(());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under this lock can leave the state half changed.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Waits until the stream may be read. Whoever gives up waiting and comes back
    /// has kept its place.
    pub async fn wait(&mut self) {
        if self.waiting.is_none() {
            let mut state = self.reading.state();
            if state.bytes < self.reading.0.bytes_max && state.waiting.is_empty() {
                return;
            }
            let (turn, waiting) = oneshot::channel();
            state.waiting.push_back(Waiter {
                expected_bytes: self.last_bytes.max(1),
                turn,
            });
            self.waiting = Some(waiting);
        }
        if let Some(waiting) = &mut self.waiting {
            // Nobody drops the other end without having sent.
            let _ = waiting.await;
            self.waiting = None;
        }
    }

    /// The stream's next batch was read, and had so many bytes.
    pub fn read(&mut self, bytes: u64) {
        self.last_bytes = bytes;
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.reading.done(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn has_turn(stream: &mut Turn) -> bool {
        stream.wait().now_or_never().is_some()
    }

    #[test]
    fn streams_are_read_by_turns_as_room_comes_back() {
        let reading = Reading::new(100);
        let mut streams: Vec<_> = (0..4).map(|_| reading.stream()).collect();
        let mut batches = Vec::new();
        for stream in &mut streams[..2] {
            assert!(has_turn(stream));
            stream.read(60);
            batches.push(reading.on_its_way(60));
        }
        for stream in &mut streams {
            stream.read(60);
            assert!(!has_turn(stream), "120 are on their way");
        }
        batches.pop();
        let turns: Vec<_> = streams.iter_mut().map(has_turn).collect();
        assert_eq!(turns, [false; 4], "40 have room");
        let small = reading.on_its_way(10);
        batches.pop();
        let turns: Vec<_> = streams.iter_mut().map(has_turn).collect();
        assert_eq!(turns, [true, false, false, false]);
        // What has its turn may have nothing to read: then the others go on.
        drop(small);
        let turns: Vec<_> = streams.iter_mut().skip(1).map(has_turn).collect();
        assert_eq!(turns, [true; 3]);
    }

    proptest! {
        /// Whatever comes and goes, and whoever gives up: nobody waits while nothing
        /// is on its way, and nobody begins to read while it is as much as it may be.
        #[test]
        fn nobody_waits_for_nothing(
            steps in prop::collection::vec((0_usize..5, 0_u64..150, 0_u8..4), 0..100),
        ) {
            let reading = Reading::new(100);
            let mut streams: Vec<_> = (0..5).map(|_| reading.stream()).collect();
            let mut batches: Vec<OnItsWay> = Vec::new();
            for (at, bytes, step) in steps {
                let on_its_way: u64 = batches.iter().map(|batch| batch.bytes).sum();
                prop_assert_eq!(reading.state().bytes, on_its_way);
                match step {
                    0 if !batches.is_empty() => drop(batches.swap_remove(at % batches.len())),
                    1 => streams[at] = reading.stream(),
                    _ => {
                        let had_waited = streams[at].waiting.is_some();
                        if has_turn(&mut streams[at]) {
                            prop_assert!(had_waited || on_its_way < 100);
                            streams[at].read(bytes);
                            batches.push(reading.on_its_way(bytes));
                        } else {
                            prop_assert!(on_its_way > 0);
                        }
                    }
                }
            }
            batches.clear();
            prop_assert!(streams.iter_mut().all(has_turn));
        }
    }
}
