//! The memory that blocks are gathered in: aligned, so that it can go to the
//! disk as it is, and used again once nobody reads from it any more.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};

use super::PAGE_BYTES;

const PAGE: usize = PAGE_BYTES as usize;
/// Smaller buffers come from the allocator as fast as from here.
const POOLED_MIN: usize = 64 << 10;
/// Bytes of buffers that wait to be used again.
const IDLE_BYTES_MAX: usize = 8 << 20;

/// Buffers that were given back.
#[derive(Debug, Default)]
pub(super) struct BufferPool {
    idle: Mutex<Vec<BytesMut>>,
}

/// Memory for one block. It begins at a multiple of a page and does not grow.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: BytesMut,
    pool: Arc<BufferPool>,
}

impl BufferPool {
    /// An empty buffer for at least `capacity` bytes. Sizes are powers of two, so
    /// that those that come back fit again.
    pub(super) fn take(self: &Arc<Self>, capacity: usize) -> Buffer {
        let capacity = capacity.max(PAGE).next_power_of_two();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let found = idle.iter().rposition(|bytes| bytes.capacity() == capacity);
        let pooled = found.map(|at| idle.swap_remove(at));
        drop(idle);
        Buffer {
            bytes: pooled.unwrap_or_else(|| aligned(capacity)),
            pool: self.clone(),
        }
    }

    fn give_back(&self, mut bytes: BytesMut) {
        if bytes.capacity() < POOLED_MIN {
            return;
        }
        bytes.clear();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = idle.iter().map(BytesMut::capacity).sum();
        if held + bytes.capacity() <= IDLE_BYTES_MAX {
            idle.push(bytes);
        }
    }
}

/// Memory whose first byte is at a multiple of a page.
fn aligned(capacity: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(capacity + PAGE);
    let gap = bytes.as_ptr().align_offset(PAGE);
    bytes.put_bytes(0, gap);
    let _ = bytes.split_to(gap);
    // What is beyond would make the capacity differ from buffer to buffer.
    let rest = bytes.split_off(capacity);
    drop(rest);
    bytes
}

impl Buffer {
    /// To append to, within the capacity.
    pub(super) fn bytes(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A larger one with the same content.
    pub(super) fn grown(&self, capacity: usize) -> Self {
        let mut larger = self.pool.take(capacity);
        larger.bytes.put_slice(&self.bytes);
        larger
    }

    /// Shares the content. The memory is given back when the last slice of it
    /// is dropped.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_used_again() {
        let pool = Arc::<BufferPool>::default();
        for wanted in [1, 5000, POOLED_MIN, POOLED_MIN + 1, 1 << 20] {
            let mut buffer = pool.take(wanted);
            assert_eq!(buffer.as_ref().as_ptr().align_offset(PAGE), 0, "{wanted}");
            assert!(buffer.capacity() >= wanted && buffer.capacity() < 2 * wanted.max(PAGE));
            buffer.bytes().put_bytes(7, wanted);
            let larger = buffer.grown(3 * wanted);
            assert_eq!(larger.as_ref(), buffer.as_ref());
            assert_eq!(larger.as_ref().as_ptr().align_offset(PAGE), 0, "{wanted}");
        }
        let mut buffer = pool.take(1 << 20);
        buffer.bytes().put_u8(1);
        let place = buffer.as_ref().as_ptr();
        let shared = buffer.freeze();
        let slice = shared.slice(..1);
        drop(shared);
        let other = pool.take(1 << 20);
        assert_ne!(other.as_ref().as_ptr(), place, "it is still read from");
        drop(slice);
        assert_eq!(pool.take(1 << 20).as_ref().as_ptr(), place);
    }
}
