//! Durable writes without anything around them: the machine's own limit.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

/// As large as a segment and some, so that it is written over again and again.
const FILE_BYTES: u64 = 256 << 20;

/// A file whose blocks have all been written, to be written over in turn.
pub(crate) struct RawLog {
    file: File,
    at: u64,
}

impl RawLog {
    /// Makes the file, with zeros.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        let zeros = vec![0; 1 << 20];
        for at in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    /// Writes a block and makes it durable.
    pub(crate) fn write(&mut self, block: &[u8]) -> io::Result<()> {
        let padded = (block.len() as u64).next_multiple_of(4096);
        if self.at + padded > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(block, self.at)?;
        self.at += padded;
        self.file.sync_data()
    }

    /// Bytes per second with blocks of this size.
    pub(crate) fn speed(&mut self, block_bytes: usize, time: Duration) -> io::Result<f64> {
        let block = vec![0xa5; block_bytes];
        let started = Instant::now();
        let mut bytes = 0;
        while started.elapsed() < time {
            self.write(&block)?;
            bytes += block_bytes;
        }
        Ok(bytes as f64 / started.elapsed().as_secs_f64())
    }

    /// The median time of a durable block of 4 KiB.
    pub(crate) fn latency(&mut self, samples: usize) -> io::Result<Duration> {
        let block = vec![0xa5; 4096];
        let mut times = Vec::with_capacity(samples);
        for _ in 0..samples {
            let started = Instant::now();
            self.write(&block)?;
            times.push(started.elapsed());
        }
        times.sort_unstable();
        Ok(times[samples / 2])
    }
}
