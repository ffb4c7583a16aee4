//! Files that hold no part of the log any more, or none yet, kept to become
//! segments: writing into blocks that were written before is faster than into
//! new ones.

use std::{
    io,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::disk::Disk;

const SUFFIX: &str = ".spare";

/// A file to be made a segment.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) name: String,
    pub(super) size: u64,
    /// It held blocks before; otherwise it is all zeros.
    pub(super) used: bool,
}

/// The spare files that there are, bounded in number.
#[derive(Debug)]
pub(super) struct Spares {
    ready: Mutex<Vec<Spare>>,
    /// At most so many are kept.
    count_max: usize,
    /// Size of a segment; files of another are of no use.
    size: u64,
    next_number: AtomicU64,
    /// One is wanted ahead of need.
    wanted: Mutex<bool>,
    wake: Condvar,
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 16)
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

impl Spares {
    /// Takes over the spare files that are in the folder, and removes those
    /// that are too many or of another size.
    pub(super) fn find(disk: &dyn Disk, size: u64, count_max: usize) -> io::Result<Self> {
        let mut ready = Vec::new();
        let mut next_number = 0;
        for name in disk.list()? {
            let Some(number) = number_of(&name) else {
                continue;
            };
            next_number = next_number.max(number + 1);
            if ready.len() < count_max && disk.open(&name)?.size()? == size {
                // What it holds is not known, so it counts as used.
                ready.push(Spare {
                    name,
                    size,
                    used: true,
                });
            } else {
                disk.remove(&name)?;
            }
        }
        Ok(Self {
            ready: Mutex::new(ready),
            count_max,
            size,
            next_number: AtomicU64::new(next_number),
            wanted: Mutex::new(false),
            wake: Condvar::new(),
        })
    }

    /// A file of this size, if there is one.
    pub(super) fn take(&self, size: u64) -> Option<Spare> {
        (size == self.size).then(|| self.ready().pop()).flatten()
    }

    /// Size of a segment.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// A segment will be needed soon.
    pub(super) fn will_need_one(&self) {
        if self.ready().is_empty() {
            *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.wake.notify_all();
        }
    }

    /// Wakes up who waits for a need, because it is over.
    pub(super) fn wake(&self) {
        drop(self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_all();
    }

    /// Waits until a file is to be made ahead of need; false when it is over.
    pub(super) fn wait_for_need(&self, is_over: impl Fn() -> bool) -> bool {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if is_over() {
                return false;
            }
            if std::mem::take(&mut *wanted) {
                return true;
            }
            wanted = self
                .wake
                .wait(wanted)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many more of this size are of use.
    pub(super) fn room(&self, size: u64) -> usize {
        if size == self.size {
            self.count_max.saturating_sub(self.ready().len())
        } else {
            0
        }
    }

    /// A name that no file has had.
    pub(super) fn next_name(&self) -> String {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        format!("{number:016x}{SUFFIX}")
    }

    /// Adds a file whose name is durable. Whoever adds asks for [`Spares::room`]
    /// before; a few too many do no harm.
    pub(super) fn add(&self, spare: Spare) {
        self.ready().push(spare);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.ready().iter().map(|spare| spare.size).sum()
    }

    fn ready(&self) -> MutexGuard<'_, Vec<Spare>> {
        // Nothing that runs under this lock can leave the list half changed.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
