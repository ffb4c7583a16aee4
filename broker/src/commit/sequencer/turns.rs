//! The threads that take turns at being the sequencer.
//!
//! Whoever has the turn gathers proposals into a block, gives the turn away, and
//! writes the block itself. So as many blocks are under way as there are threads,
//! while one block is on its way the next gathers and is encoded, and nothing is
//! handed from thread to thread on the way from the queue to the reply.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use super::{Publisher, Sequencer};

/// What the threads share. The sequencer's lock comes first.
struct Turns {
    sequencer: Mutex<Sequencer>,
    publisher: Mutex<Publisher>,
}

/// Starts `blocks_in_flight` threads; they end when the sequencer is told to
/// close, or nobody can propose any more.
pub(in crate::commit) fn start(
    sequencer: Sequencer,
    publisher: Publisher,
    blocks_in_flight: usize,
) -> io::Result<Vec<JoinHandle<()>>> {
    let turns = Arc::new(Turns {
        sequencer: Mutex::new(sequencer),
        publisher: Mutex::new(publisher),
    });
    (0..blocks_in_flight)
        .map(|number| {
            let turns = turns.clone();
            std::thread::Builder::new()
                .name(format!("sequencer-{number}"))
                .spawn(move || turns.run())
        })
        .collect()
}

impl Turns {
    fn run(&self) {
        loop {
            let mut sequencer = lock(&self.sequencer);
            let Some(block) = sequencer.next_block(&self.publisher) else {
                return;
            };
            drop(sequencer);
            // An error is in the log's failure, which the publisher looks at.
            let _ = block.write();
            lock(&self.publisher).publish_ready();
        }
    }
}

/// A thread that panicked has left nothing that may be relied on.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
