//! Watches the room on the disk, so that publishing is refused while there is
//! still room for everything else: a log that runs out of it in a write has
//! failed for good.
//!
//! A thread asks the file system a few times a second; who publishes only looks
//! at what it found last. So the reserve has to hold what can be written between
//! two looks, besides settlements and checkpoints.

use std::{path::Path, time::Duration};

use tokio::sync::watch;

/// How often the file system is asked.
const INTERVAL: Duration = Duration::from_millis(100);

/// Files that must be creatable besides, on file systems that count them: for
/// segments and the view's files.
pub const FILES_RESERVE: u64 = 64;

/// There is less room than is to be kept free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowSpace {
    /// Bytes.
    #[error(
        "the disk has {free} bytes left, of which {reserve} are kept for settlements \
         (limits.disk_reserve_bytes); publishing goes on when there is more"
    )]
    Bytes {
        /// What is free.
        free: u64,
        /// What is to be.
        reserve: u64,
    },
    /// Files.
    #[error(
        "the disk takes {free} more files, of which {FILES_RESERVE} are kept for the \
         broker's own; publishing goes on when it takes more"
    )]
    Files {
        /// How many can be made.
        free: u64,
    },
}

/// What a file system has left.
#[derive(Clone, Copy, Debug)]
struct Room {
    bytes: u64,
    /// `None` where files are not counted.
    files: Option<u64>,
}

impl Room {
    fn of(path: &Path) -> std::io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Self {
            bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            files: (stat.f_files > 0).then_some(stat.f_favail),
        })
    }

    fn lacks(self, reserve: u64) -> Option<LowSpace> {
        if self.bytes < reserve {
            return Some(LowSpace::Bytes {
                free: self.bytes,
                reserve,
            });
        }
        let free = self.files?;
        (free < FILES_RESERVE).then_some(LowSpace::Files { free })
    }
}

/// What was found last. Cheap to clone and to ask.
#[derive(Clone, Debug)]
pub(crate) struct Space(watch::Receiver<Option<LowSpace>>);

impl Space {
    /// Begins to watch the file system of `folder`; ends when it is dropped with
    /// all its clones. A reserve of 0 bytes watches nothing.
    pub(crate) fn watch(folder: &Path, reserve: u64) -> std::io::Result<Self> {
        if reserve == 0 {
            return Ok(Self(watch::channel(None).1));
        }
        let (found, receiver) = watch::channel(Room::of(folder)?.lacks(reserve));
        let folder = folder.to_owned();
        std::thread::Builder::new()
            .name("space".into())
            .spawn(move || look_again(&folder, reserve, &found))?;
        Ok(Self(receiver))
    }

    /// What there is too little of, if there is.
    pub(crate) fn low(&self) -> Option<LowSpace> {
        *self.0.borrow()
    }
}

fn look_again(folder: &Path, reserve: u64, found: &watch::Sender<Option<LowSpace>>) {
    while !found.is_closed() {
        std::thread::sleep(INTERVAL);
        // What cannot be told now is taken to be as it was.
        let Ok(room) = Room::of(folder) else { continue };
        let low = room.lacks(reserve);
        let was_low = found.borrow().is_some();
        match low {
            Some(low) if !was_low => tracing::warn!("{low}; publishing is refused"),
            None if was_low => tracing::info!("there is room again; publishing goes on"),
            _ => {}
        }
        found.send_if_modified(|known| {
            let changed = *known != low;
            *known = low;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_bytes_or_files_are_named_and_the_reserve_itself_is_enough() {
        let room = |bytes, files| Room { bytes, files };
        assert_eq!(room(100, None).lacks(100), None);
        assert_eq!(room(100, Some(FILES_RESERVE)).lacks(100), None);
        assert_eq!(
            room(99, Some(1)).lacks(100),
            Some(LowSpace::Bytes {
                free: 99,
                reserve: 100
            })
        );
        assert_eq!(
            room(100, Some(FILES_RESERVE - 1)).lacks(100),
            Some(LowSpace::Files {
                free: FILES_RESERVE - 1
            })
        );
    }
}
