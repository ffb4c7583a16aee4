//! The file of which the next segment is made, and what happens when there is no
//! room for one.
//!
//! That nothing could be made is no failed write: nothing is on the disk that the
//! log relies on, and what is to be written has not begun to be. So the log waits
//! for room, as whoever publishes does, and goes on by itself. Whoever is to stop it
//! says that it is not worth waiting any longer, and then it fails.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Position, disk::DiskFile, reader::Shared, segment};

/// How often it is tried again whether there is room.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A file that is to become a segment.
#[derive(Debug)]
pub(super) struct Blank {
    pub(super) name: String,
    pub(super) file: Arc<dyn DiskFile>,
    /// It held blocks of another segment; otherwise it is all zeros.
    pub(super) used: bool,
}

/// Whether the log waits when there is no room for a segment: from the moment when
/// it is open, until it is to be stopped.
#[derive(Debug, Default)]
pub(super) struct Patience {
    waits: Mutex<bool>,
    wake: Condvar,
}

impl Patience {
    pub(super) fn begin(&self) {
        *self.waits() = true;
    }

    pub(super) fn end(&self) {
        *self.waits() = false;
        self.wake.notify_all();
    }

    /// False when it is not worth waiting, or not any longer.
    fn wait(&self) -> bool {
        let mut waits = self.waits();
        if *waits {
            let woken = self.wake.wait_timeout(waits, AGAIN_AFTER);
            (waits, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
        *waits
    }

    fn waits(&self) -> MutexGuard<'_, bool> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the log's waiting for room. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EndOfWaiting(pub(super) Arc<Shared>);

impl EndOfWaiting {
    /// From now on a block for which there is no room fails, and with it the log;
    /// also one that waits for room already.
    pub fn come(&self) {
        self.0.patience.end();
    }
}

impl Shared {
    /// A file of this size for the segment with this base. Waits for room.
    pub(super) fn blank(&self, base: Position, size: u64) -> io::Result<Blank> {
        let mut has_waited = false;
        loop {
            let error = match self.blank_now(base, size) {
                Err(error) if lacks_room(&error) => error,
                made => {
                    if has_waited && made.is_ok() {
                        tracing::info!("there is room for the log's next segment again");
                    }
                    return made;
                }
            };
            if !has_waited {
                tracing::error!(%error, "there is no room for the log's next segment");
            }
            if !self.patience.wait() {
                return Err(error);
            }
            has_waited = true;
        }
    }

    fn blank_now(&self, base: Position, size: u64) -> io::Result<Blank> {
        if let Some(spare) = self.spares.take(size) {
            return Ok(Blank {
                file: self.disk.open(&spare.name)?,
                name: spare.name,
                used: spare.used,
            });
        }
        let name = segment::unfinished_name(base);
        let made = self.disk.create(&name, size);
        if made.as_ref().is_err_and(lacks_room) {
            // What there is of it takes room. If it stays, it is made anew.
            let _ = self.disk.remove(&name);
        }
        Ok(Blank {
            file: made?,
            name,
            used: false,
        })
    }
}

fn lacks_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), QuotaExceeded | StorageFull)
}
