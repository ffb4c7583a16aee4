//! The threads that take turns at being the sequencer.
//!
//! Whoever has the turn gathers proposals into a block, gives the turn away, and
//! writes the block itself. So as many blocks are under way as there are threads,
//! while one block is on its way the next gathers and is encoded, and nothing is
//! handed from thread to thread on the way from the queue to the reply.
//!
//! Nobody has the turn while there is nothing to do: then all threads are idle, and
//! what comes in line wakes one of them, and only that one.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, Weak},
    task::Waker,
    thread::JoinHandle,
};

use super::{AtOnce, Publisher, Sequencer, Turn, idle::Idle};

/// What the threads share. The sequencer's lock comes first.
pub(super) struct Turns {
    pub(super) sequencer: Mutex<Sequencer>,
    publisher: Mutex<Publisher>,
    idle: Arc<Idle>,
}

/// Starts `blocks_in_flight` threads; they end when the sequencer is told to
/// close, or nobody can propose any more.
pub(in crate::commit) fn start(
    mut sequencer: Sequencer,
    publisher: Publisher,
    blocks_in_flight: usize,
    at_once: &AtOnce,
) -> io::Result<Vec<JoinHandle<()>>> {
    let turns = Arc::new_cyclic(|turns: &Weak<Turns>| {
        let turns = turns.clone();
        // Of what the log syncs by itself no thread here comes to know.
        sequencer.writer.tell_when_synced(move || {
            if let Some(turns) = turns.upgrade()
                && let Ok(mut publisher) = turns.publisher.lock()
            {
                publisher.publish_ready();
            }
        });
        Turns {
            sequencer: Mutex::new(sequencer),
            publisher: Mutex::new(publisher),
            idle: Arc::default(),
        }
    });
    at_once.beside(&turns);
    (0..blocks_in_flight)
        .map(|number| {
            let turns = turns.clone();
            std::thread::Builder::new()
                .name(format!("sequencer-{number}"))
                .spawn(move || turns.run())
        })
        .collect()
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turns")
    }
}

impl Turns {
    fn run(&self) {
        let call_one = Waker::from(self.idle.clone());
        // Whatever ends this thread is to end the others.
        let _also = CallAtTheEnd(&call_one);
        loop {
            // After a panic of another thread the state may be half changed: then
            // all of them end, and whoever waits is told that the broker stops.
            let Ok(mut sequencer) = self.sequencer.lock() else {
                return;
            };
            let turn = sequencer.take_turn(&call_one, &self.publisher);
            drop(sequencer);
            match turn {
                Turn::Write(block) => {
                    fault_point!(BlockPlaced);
                    // An error is in the log's failure, which the publisher looks at.
                    let _ = block.write();
                    fault_point!(BlockDurable);
                    lock(&self.publisher).publish_ready();
                }
                Turn::Idle => self.idle.wait(),
                Turn::Over => return,
            }
        }
    }
}

struct CallAtTheEnd<'a>(&'a Waker);

impl Drop for CallAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}

/// Passes a panic of another thread on, as what it guarded may be half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("no thread of the sequencer has panicked")
}
