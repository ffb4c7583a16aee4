//! The memory that blocks are gathered in: aligned, so that it can go to the
//! disk as it is, and used again once nobody reads from it any more.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};

use super::PAGE_BYTES;

const PAGE: usize = PAGE_BYTES as usize;
/// Smaller buffers come from the allocator as fast as from here.
const POOLED_MIN: usize = 64 << 10;
/// A page of memory as the processor can have them as well, where the system
/// gives such on request.
const HUGE_PAGE: usize = 2 << 20;
/// A full block; two are on a huge page.
const FULL: usize = HUGE_PAGE / 2;
/// Bytes of buffers that wait to be used again, other than full blocks.
const IDLE_BYTES_MAX: usize = 8 << 20;
/// The same of full blocks. Of these few are ever let go, because one that is
/// would keep its memory as long as the other on its page lives.
const IDLE_FULL_BYTES_MAX: usize = 32 << 20;

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
        let bytes = match found {
            Some(at) => idle.swap_remove(at),
            None if capacity >= HUGE_PAGE => on_huge_pages(capacity),
            // Smaller ones would keep too much memory that is not theirs.
            None if capacity == FULL => {
                let mut first = on_huge_pages(HUGE_PAGE);
                idle.push(first.split_off(capacity));
                first
            }
            None => aligned(capacity, PAGE),
        };
        drop(idle);
        Buffer {
            bytes,
            pool: self.clone(),
        }
    }

    fn give_back(&self, mut bytes: BytesMut) {
        if bytes.capacity() < POOLED_MIN {
            return;
        }
        bytes.clear();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let full = bytes.capacity() == FULL;
        let of_kind = idle.iter().map(BytesMut::capacity);
        let held: usize = of_kind.filter(|of| (*of == FULL) == full).sum();
        let max = if full {
            IDLE_FULL_BYTES_MAX
        } else {
            IDLE_BYTES_MAX
        };
        if held + bytes.capacity() <= max {
            idle.push(bytes);
        }
    }
}

/// Memory whose first byte is at a multiple of `align`.
fn aligned(capacity: usize, align: usize) -> BytesMut {
    let mut before = BytesMut::with_capacity(capacity + align);
    let gap = before.as_ptr().align_offset(align);
    let mut bytes = before.split_off(gap);
    // What is beyond would make the capacity differ from buffer to buffer.
    drop(bytes.split_off(capacity));
    bytes
}

/// As [`aligned`], and in few pages where the system gives such: a direct write
/// looks up and pins each page of its buffer.
#[allow(unsafe_code)]
fn on_huge_pages(capacity: usize) -> BytesMut {
    let mut bytes = aligned(capacity, HUGE_PAGE);
    let room = bytes.spare_capacity_mut();
    // SAFETY: the range is our own allocation, and the advice changes neither
    // what is in it nor whether it is there.
    let advised = unsafe {
        rustix::mm::madvise(
            room.as_mut_ptr().cast(),
            room.len(),
            rustix::mm::Advice::LinuxHugepage,
        )
    };
    // Where there are none, ordinary pages do.
    let _ = advised;
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
