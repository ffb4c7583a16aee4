//! Bytes of events that wait in members' streams: of each stream, and of all.
//!
//! A stream takes more while it has less than its bound waiting. When all
//! together have as much as they may, one that has nothing waiting still takes
//! one event, so that those who do not read never keep those who do from going
//! on.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct BufferLimits {
    /// In one stream.
    pub stream_bytes: usize,
    /// In all of them.
    pub total_bytes: usize,
}

/// What waits in all streams. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Buffers {
    total: Arc<AtomicUsize>,
    limits: BufferLimits,
}

impl Buffers {
    pub(super) fn new(limits: BufferLimits) -> Self {
        Self {
            total: Arc::default(),
            limits,
        }
    }

    /// The buffer of a new stream.
    pub(super) fn stream(&self) -> Buffer {
        Buffer {
            waiting: Arc::default(),
            all: self.clone(),
        }
    }
}

/// What waits in one stream. Its clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Buffer {
    waiting: Arc<AtomicUsize>,
    all: Buffers,
}

impl Buffer {
    /// Whether an event of `size` may be added to what waits, and to `share`
    /// bytes that are about to be.
    pub(super) fn takes(&self, size: usize, share: usize) -> bool {
        let waiting = self.waiting.load(Relaxed) + share;
        let total = self.all.total.load(Relaxed) + share;
        let limits = &self.all.limits;
        waiting == 0
            || (waiting + size <= limits.stream_bytes && total + size <= limits.total_bytes)
    }

    pub(super) fn add(&self, bytes: usize) {
        self.waiting.fetch_add(bytes, Relaxed);
        self.all.total.fetch_add(bytes, Relaxed);
    }

    pub(super) fn remove(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Relaxed);
        self.all.total.fetch_sub(bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_stream_takes_nothing_and_an_empty_one_always_something() {
        let buffers = Buffers::new(BufferLimits {
            stream_bytes: 100,
            total_bytes: 150,
        });
        let (first, second) = (buffers.stream(), buffers.stream());
        assert!(first.takes(1000, 0), "one event moves, however large");
        first.add(60);
        assert!(first.takes(40, 0) && !first.takes(41, 0) && !first.takes(40, 1));
        first.add(40);
        assert!(second.takes(50, 0));
        second.add(20);
        assert!(!second.takes(31, 0), "together they have too much");
        second.remove(20);
        assert!(second.takes(1000, 0));
        first.remove(100);
        assert_eq!(buffers.total.load(Relaxed), 0);
    }
}
