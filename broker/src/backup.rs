//! The folder of a backup: a data folder without a view, and `BACKUP`, which names
//! its files with their checksums.
//!
//! While it is written that list is called `BACKUP.part`; a folder that has it is
//! not whole, and nobody opens it. The first broker that opens a whole one removes
//! the list, because the folder is its own from then on.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

const LIST: &str = "BACKUP";
const UNFINISHED: &str = "BACKUP.part";
const FORMAT: u32 = 1;

/// What a backup is, as it stands in `BACKUP`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this list.
    pub format: u32,
    /// Of the broker that was copied.
    pub broker_version: String,
    /// When it was begun, RFC 3339.
    pub taken_at: String,
    /// The copy's identity, 32 hexadecimal digits.
    pub log_id: String,
    /// The identity of the log that was copied.
    pub source_log_id: String,
    /// Its epoch.
    pub source_log_epoch: i64,
    /// The position up to which it was.
    pub end_position: i64,
    /// The files, in the order in which they were written.
    pub files: Vec<FileEntry>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path below the folder, with `/`.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// How many of them, from the front, are not zeros that fill it up.
    pub data_bytes: u64,
    /// CRC-32 of those.
    pub crc32: u32,
}

/// What is wrong with a backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file system says so.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// The copying was interrupted.
    #[error(
        "{0} holds a backup that was not finished, and cannot be used; remove it and take \
         another"
    )]
    Unfinished(PathBuf),
    /// A backup goes into a folder of its own.
    #[error("{0} is not empty; a backup needs a new folder, or an empty one")]
    NotEmpty(PathBuf),
    /// The list cannot be read.
    #[error("{0} is no list of a backup's files: {1}")]
    List(PathBuf, String),
    /// A file is missing, or not as it was written.
    #[error("the backup is not whole: {path} {problem}; copy the folder again, all of it")]
    File {
        /// Its path below the folder.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What the broker sent is no backup.
    #[error("the broker sent what is no backup: {0}")]
    Sent(String),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError + '_ {
    move |error| BackupError::Io(path.to_owned(), error)
}

/// What backup the folder is; `None` when it is none (any more).
///
/// # Errors
/// When it is one that was not finished, or its list cannot be read.
pub fn of(dir: &Path) -> Result<Option<Manifest>, BackupError> {
    let unfinished = dir.join(UNFINISHED);
    if unfinished.try_exists().map_err(at(&unfinished))? {
        return Err(BackupError::Unfinished(dir.to_owned()));
    }
    let path = dir.join(LIST);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(at(&path))?,
    };
    let unreadable = |reason: String| BackupError::List(path.clone(), reason);
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    if manifest.format != FORMAT {
        let reason = format!("it has format {}, not {FORMAT}", manifest.format);
        return Err(unreadable(reason));
    }
    for file in &manifest.files {
        below(&file.path).map_err(|error| unreadable(error.to_string()))?;
    }
    Ok(Some(manifest))
}

/// The folder is no backup any more, but a broker's. Durable when this returns.
///
/// # Errors
/// When the file system says so.
pub fn forget(dir: &Path) -> Result<(), BackupError> {
    let path = dir.join(LIST);
    fs::remove_file(&path).map_err(at(&path))?;
    sync_folder(dir)
}

impl Manifest {
    /// That every file is there and as long as it was.
    ///
    /// # Errors
    /// Names the first one that is not.
    pub fn check_sizes(&self, dir: &Path) -> Result<(), BackupError> {
        self.files.iter().try_for_each(|file| {
            let path = dir.join(&file.path);
            match fs::metadata(&path) {
                Ok(found) if found.len() == file.size => Ok(()),
                Ok(found) => Err(file.wrong(format!(
                    "has {} bytes instead of {}",
                    found.len(),
                    file.size
                ))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Err(file.wrong("is missing".to_owned()))
                }
                Err(error) => Err(at(&path)(error)),
            }
        })
    }

    /// That every file holds what was written to it. Says which do not.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn check_contents(&self, dir: &Path) -> Result<Vec<BackupError>, BackupError> {
        let mut wrong = Vec::new();
        for file in &self.files {
            let path = dir.join(&file.path);
            match file.is_as_written(&path) {
                Ok(true) => {}
                Ok(false) => wrong.push(file.wrong("fails its checksum".to_owned())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    wrong.push(file.wrong("is missing".to_owned()));
                }
                Err(error) => return Err(at(&path)(error)),
            }
        }
        Ok(wrong)
    }
}

impl FileEntry {
    fn wrong(&self, problem: String) -> BackupError {
        BackupError::File {
            path: self.path.clone(),
            problem,
        }
    }

    fn is_as_written(&self, path: &Path) -> io::Result<bool> {
        let mut file = File::open(path)?;
        if file.metadata()?.len() != self.size {
            return Ok(false);
        }
        let mut buffer = vec![0; 256 << 10];
        let mut hasher = crc32fast::Hasher::new();
        let mut at = 0;
        loop {
            let length = file.read(&mut buffer)?;
            if length == 0 {
                return Ok(hasher.finalize() == self.crc32);
            }
            let data = self.data_bytes.saturating_sub(at).min(length as u64) as usize;
            let (data, filling) = buffer[..length].split_at(data);
            hasher.update(data);
            if filling.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += length as u64;
        }
    }
}

/// A backup that is being written.
#[derive(Debug)]
pub struct Writing {
    dir: PathBuf,
    manifest: Manifest,
    file: Option<(File, FileEntry, crc32fast::Hasher)>,
}

impl Writing {
    /// Begins one in a folder that is empty, or made.
    ///
    /// # Errors
    /// When it is not empty, and when the file system says so.
    pub fn begin(dir: &Path, manifest: Manifest) -> Result<Self, BackupError> {
        make_folder(dir)?;
        if fs::read_dir(dir).map_err(at(dir))?.next().is_some() {
            return Err(BackupError::NotEmpty(dir.to_owned()));
        }
        let writing = Self {
            dir: dir.to_owned(),
            manifest: Manifest {
                format: FORMAT,
                ..manifest
            },
            file: None,
        };
        // From here on it is seen to be unfinished.
        writing.write_list()?;
        sync_folder(dir)?;
        Ok(writing)
    }

    /// Begins a file of `size` bytes, all of which it takes from the disk.
    ///
    /// # Errors
    /// When the path is none below the folder, and when the file system says so.
    pub fn file(&mut self, path: &str, size: u64) -> Result<(), BackupError> {
        if self.file.is_some() {
            return Err(sent("a file within a file"));
        }
        let target = self.dir.join(below(path)?);
        if let Some(parent) = target.parent() {
            make_folder(parent)?;
        }
        let file = File::create_new(&target).map_err(at(&target))?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(size),
            other => other.map_err(io::Error::from),
        }
        .map_err(at(&target))?;
        let entry = FileEntry {
            path: path.to_owned(),
            size,
            data_bytes: 0,
            crc32: 0,
        };
        self.file = Some((file, entry, crc32fast::Hasher::new()));
        Ok(())
    }

    /// Adds to the file that was begun.
    ///
    /// # Errors
    /// When there is none, or it has no room, and when the file system says so.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let Some((file, entry, hasher)) = &mut self.file else {
            return Err(sent("bytes of no file"));
        };
        entry.data_bytes += bytes.len() as u64;
        if entry.data_bytes > entry.size {
            return Err(sent("more bytes than the file has"));
        }
        hasher.update(bytes);
        file.write_all(bytes).map_err(at(&self.dir))
    }

    /// Ends the file, which is durable when this returns. `told` is what the
    /// broker says of it: its bytes but for the zeros at the end, and their CRC-32.
    ///
    /// # Errors
    /// When it is not what the broker says, and when the file system says so.
    pub fn file_end(&mut self, told: (u64, u32)) -> Result<(), BackupError> {
        let Some((file, mut entry, hasher)) = self.file.take() else {
            return Err(sent("the end of no file"));
        };
        entry.crc32 = hasher.finalize();
        if (entry.data_bytes, entry.crc32) != told {
            return Err(sent("a file that does not fit its checksum"));
        }
        let path = self.dir.join(&entry.path);
        file.sync_all().map_err(at(&path))?;
        self.manifest.files.push(entry);
        Ok(())
    }

    /// Ends the backup: from here on it is one. Durable when this returns.
    ///
    /// # Errors
    /// When files are missing, and when the file system says so.
    pub fn finish(self, files: u64) -> Result<Manifest, BackupError> {
        if self.file.is_some() || self.manifest.files.len() as u64 != files {
            return Err(sent("an end before all files"));
        }
        for folder in self.folders() {
            sync_folder(&folder)?;
        }
        self.write_list()?;
        let unfinished = self.dir.join(UNFINISHED);
        fs::rename(&unfinished, self.dir.join(LIST)).map_err(at(&unfinished))?;
        sync_folder(&self.dir)?;
        Ok(self.manifest)
    }

    fn folders(&self) -> Vec<PathBuf> {
        let files = self.manifest.files.iter();
        let parents = files.filter_map(|file| Some(self.dir.join(&file.path).parent()?.to_owned()));
        let mut folders: Vec<PathBuf> = parents.collect();
        folders.dedup();
        folders
    }

    fn write_list(&self) -> Result<(), BackupError> {
        let path = self.dir.join(UNFINISHED);
        let mut text = serde_json::to_vec_pretty(&self.manifest)
            .map_err(|error| BackupError::List(path.clone(), error.to_string()))?;
        text.push(b'\n');
        let mut file = File::create(&path).map_err(at(&path))?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(at(&path))
    }
}

fn sent(what: &str) -> BackupError {
    BackupError::Sent(what.to_owned())
}

/// A path that leads to below a folder, whoever made it up.
fn below(path: &str) -> Result<&Path, BackupError> {
    let path = Path::new(path);
    let mut parts = path.components().peekable();
    let named = parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)));
    named
        .then_some(path)
        .ok_or_else(|| sent("a path out of the folder"))
}

/// Makes the folder durably if it is not there.
fn make_folder(dir: &Path) -> Result<(), BackupError> {
    fs::create_dir_all(dir).map_err(at(dir))?;
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync_folder(parent),
        None => Ok(()),
    }
}

fn sync_folder(dir: &Path) -> Result<(), BackupError> {
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(at(dir))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // A failed step is a failed test.

    use super::*;

    fn written(dir: &Path) -> Writing {
        let mut writing = Writing::begin(dir, Manifest::default()).unwrap();
        writing.file("log/a.seg", 10_000).unwrap();
        writing.bytes(b"one ").unwrap();
        writing.bytes(b"two").unwrap();
        writing.file_end((7, crc32fast::hash(b"one two"))).unwrap();
        writing
    }

    #[test]
    fn a_backup_is_one_when_it_is_finished_and_no_sooner() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("copy");
        assert_eq!(of(&dir).unwrap(), None);
        let writing = written(&dir);
        assert!(matches!(of(&dir), Err(BackupError::Unfinished(_))));
        let manifest = writing.finish(1).unwrap();
        assert_eq!(of(&dir).unwrap(), Some(manifest.clone()));
        manifest.check_sizes(&dir).unwrap();
        assert!(manifest.check_contents(&dir).unwrap().is_empty());
        let again = Writing::begin(&dir, Manifest::default()).unwrap_err();
        assert!(matches!(again, BackupError::NotEmpty(_)), "{again}");
        forget(&dir).unwrap();
        assert_eq!(of(&dir).unwrap(), None);
    }

    #[test]
    fn every_changed_byte_and_every_missing_file_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("copy");
        let manifest = written(&dir).finish(1).unwrap();
        let path = dir.join("log/a.seg");
        let whole = fs::read(&path).unwrap();
        // In the data and in the zeros behind it.
        for at in [0, 6, 7, 9999] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            manifest.check_sizes(&dir).unwrap();
            assert_eq!(manifest.check_contents(&dir).unwrap().len(), 1, "byte {at}");
        }
        fs::write(&path, &whole[1..]).unwrap();
        assert!(manifest.check_sizes(&dir).is_err());
        assert_eq!(manifest.check_contents(&dir).unwrap().len(), 1);
        fs::remove_file(&path).unwrap();
        let missing = manifest.check_sizes(&dir).unwrap_err().to_string();
        assert!(missing.contains("log/a.seg is missing"), "{missing}");
        assert_eq!(manifest.check_contents(&dir).unwrap().len(), 1);
    }

    #[test]
    fn what_a_broker_sends_stays_in_the_folder_and_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["", "..", "../a", "log/../../a", "/tmp/a", "."] {
            let dir = folder.path().join("copy");
            let mut writing = Writing::begin(&dir, Manifest::default()).unwrap();
            assert!(writing.file(path, 1).is_err(), "{path}");
            fs::remove_dir_all(&dir).unwrap();
        }
        let mut writing = written(&folder.path().join("copy"));
        assert!(writing.bytes(b"x").is_err());
        assert!(writing.file_end((0, 0)).is_err());
        writing.file("b", 2).unwrap();
        assert!(writing.file("c", 2).is_err());
        writing.bytes(b"xy").unwrap();
        assert!(writing.file_end((2, crc32fast::hash(b"xz"))).is_err());
        assert!(writing.finish(2).is_err());
    }
}
