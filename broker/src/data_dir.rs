//! A data folder belongs to one process at a time.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// Why a data folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It cannot be made, read or locked.
    #[error("the data folder {0} cannot be used: {1}")]
    Folder(PathBuf, io::Error),
    /// A broker has it.
    #[error("the data folder {0} is in use by another broker")]
    Locked(PathBuf),
}

/// Makes the folder if it is not there, and keeps every other process out of it
/// as long as the file is open.
///
/// # Errors
/// When it cannot be used, or is in use.
pub fn lock(dir: &Path) -> Result<File, LockError> {
    let folder = |error| LockError::Folder(dir.to_owned(), error);
    fs::create_dir_all(dir).map_err(folder)?;
    let file = File::create(dir.join("LOCK")).map_err(folder)?;
    locked(dir, file.try_lock()).map(|()| file)
}

/// Keeps brokers out of a folder that is only read, which may be one that cannot
/// be written to. `None` when no broker has ever had it.
///
/// # Errors
/// As [`lock`], and when there is no such folder.
pub fn lock_to_read(dir: &Path) -> Result<Option<File>, LockError> {
    let folder = |error| LockError::Folder(dir.to_owned(), error);
    fs::read_dir(dir).map_err(folder)?;
    match File::open(dir.join("LOCK")) {
        Ok(file) => locked(dir, file.try_lock_shared()).map(|()| Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(folder(error)),
    }
}

fn locked(dir: &Path, result: Result<(), TryLockError>) -> Result<(), LockError> {
    match result {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(LockError::Locked(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(LockError::Folder(dir.to_owned(), error)),
    }
}
