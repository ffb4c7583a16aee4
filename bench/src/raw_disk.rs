//! Durable writes without anything around them: the machine's own limit. They go
//! past the page cache where the file system has that, as the broker's do.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FallocateFlags, OFlags, fallocate},
    io::{ReadWriteFlags, pwritev2},
};

/// As large as a segment and some, so that it is written over again and again.
const FILE_BYTES: u64 = 256 << 20;
/// So large that a load of a few seconds does not come to its end.
const NEW_FILE_BYTES: u64 = 8 << 30;
const PAGE: usize = 4096;

/// A file whose blocks are there, to be written over in turn.
pub(crate) struct RawLog {
    file: File,
    bytes: u64,
    way: Way,
    next: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// O_DIRECT with RWF_DSYNC.
    Direct,
    /// Through the page cache, with `fdatasync`.
    Cached,
}

/// Memory for a block, at a multiple of a page.
pub(crate) struct Block {
    memory: Vec<u8>,
    start: usize,
}

impl Block {
    /// For up to `capacity` bytes.
    pub(crate) fn new(capacity: usize) -> Self {
        let mut memory: Vec<u8> = Vec::with_capacity(capacity.next_multiple_of(PAGE) + PAGE);
        let start = memory.as_ptr().align_offset(PAGE);
        memory.resize(start, 0);
        Self { memory, start }
    }

    pub(crate) fn clear(&mut self) {
        self.memory.truncate(self.start);
    }

    /// Appends, within the capacity.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        let room = self.memory.capacity() - self.memory.len();
        assert!(bytes.len() <= room, "a block does not grow");
        self.memory.extend_from_slice(bytes);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    /// Fills the last page with zeros.
    fn pad(&mut self) {
        let padded = self.bytes().len().next_multiple_of(PAGE);
        self.memory.resize(self.start + padded, 0);
    }
}

/// What the file's blocks are before they are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocks {
    /// They were written, with zeros.
    Written,
    /// They were allocated, as those of a broker's new segments are.
    Allocated,
}

impl RawLog {
    /// Makes the file.
    pub(crate) fn create(path: &Path, blocks: Blocks) -> io::Result<Self> {
        let made = File::create(path)?;
        let mut zeros = Block::new(1 << 20);
        zeros.extend(&vec![0; 1 << 20]);
        // That such a file can be opened proves nothing, so one is written.
        let direct = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(path)
            .and_then(|file| write_direct(&file, zeros.bytes(), 0).map(|()| file));
        let (file, way) = match direct {
            Ok(file) => (file, Way::Direct),
            Err(_) => (OpenOptions::new().write(true).open(path)?, Way::Cached),
        };
        let bytes = match blocks {
            Blocks::Written => {
                for at in (0..FILE_BYTES).step_by(zeros.bytes().len()) {
                    file.write_all_at(zeros.bytes(), at)?;
                }
                FILE_BYTES
            }
            Blocks::Allocated => {
                fallocate(&made, FallocateFlags::empty(), 0, NEW_FILE_BYTES)?;
                NEW_FILE_BYTES
            }
        };
        file.sync_all()?;
        Ok(Self {
            file,
            bytes,
            way,
            next: AtomicU64::new(0),
        })
    }

    /// Writes a block, padded to whole pages, and makes it durable. Several
    /// threads may, at once.
    pub(crate) fn write(&self, block: &mut Block) -> io::Result<()> {
        block.pad();
        let bytes = block.bytes();
        let after = |at: u64| {
            let end = at + bytes.len() as u64;
            Some(end).filter(|end| *end <= self.bytes)
        };
        let place = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| {
                after(at).or_else(|| after(0))
            });
        let place = place.map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let place = after(place).map_or(0, |_| place);
        match self.way {
            Way::Direct => write_direct(&self.file, bytes, place),
            Way::Cached => {
                self.file.write_all_at(bytes, place)?;
                self.file.sync_data()
            }
        }
    }

    /// Bytes per second with blocks of this size, of which so many are under way.
    pub(crate) fn speed(
        &self,
        block_bytes: usize,
        under_way: usize,
        time: Duration,
    ) -> io::Result<f64> {
        let started = Instant::now();
        let one = || -> io::Result<usize> {
            let mut block = Block::new(block_bytes);
            block.extend(&vec![0xa5; block_bytes]);
            let mut bytes = 0;
            while started.elapsed() < time {
                self.write(&mut block)?;
                bytes += block_bytes;
            }
            Ok(bytes)
        };
        let bytes = thread::scope(|scope| -> io::Result<usize> {
            let threads: Vec<_> = (0..under_way).map(|_| scope.spawn(one)).collect();
            let bytes = threads
                .into_iter()
                .map(|thread| thread.join().expect("a writer does not panic"));
            bytes.sum()
        })?;
        Ok(bytes as f64 / started.elapsed().as_secs_f64())
    }

    /// The median time of a durable block of 4 KiB.
    pub(crate) fn latency(&self, samples: usize) -> io::Result<Duration> {
        let mut block = Block::new(PAGE);
        block.extend(&[0xa5; PAGE]);
        let mut times = Vec::with_capacity(samples);
        for _ in 0..samples {
            let started = Instant::now();
            self.write(&mut block)?;
            times.push(started.elapsed());
        }
        times.sort_unstable();
        Ok(times[samples / 2])
    }
}

/// Memory, length and offset are at multiples of a page.
fn write_direct(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = [IoSlice::new(&bytes[done..])];
        match pwritev2(file, &rest, offset + done as u64, ReadWriteFlags::DSYNC) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_written_in_turn_and_over_each_other_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raw");
        let log = RawLog::create(&path, Blocks::Written).unwrap();
        let large = FILE_BYTES as usize - PAGE;
        let mut first = Block::new(large);
        first.extend(&vec![1; large]);
        log.write(&mut first).unwrap();
        let mut second = Block::new(2 * PAGE);
        second.extend(&[2; PAGE + 1]);
        log.write(&mut second).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), FILE_BYTES);
        let mut start = vec![0; 3 * PAGE];
        file.read_exact_at(&mut start, 0).unwrap();
        let expected = [vec![2; PAGE + 1], vec![0; PAGE - 1], vec![1; PAGE]].concat();
        assert!(start == expected);
    }
}
