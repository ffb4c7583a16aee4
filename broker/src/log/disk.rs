//! What the log asks of a file system, as a seam: tests put a simulated disk
//! here that loses, tears and reorders what was not synced.

use std::{
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{buffer::BufferPool, direct};

/// How much is zeroed at once: little, as what is written to the log meanwhile waits
/// for it.
const STEP: usize = 128 << 10;
/// Where zeros go through the page cache, so much of them is synced at once: all of it
/// in the end would take long.
const SYNCED_STEP: u64 = 1 << 20;

/// How the log is to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteChoice {
    /// Direct where the file system has it, buffered elsewhere.
    #[default]
    Auto,
    /// Past the page cache, durable when the write returns; refused where that
    /// is not possible.
    Direct,
    /// Through the page cache, with a sync after it.
    Buffered,
}

/// How the log is written. Files are the same in both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteWay {
    /// O_DIRECT with RWF_DSYNC.
    Direct,
    /// A write and fdatasync.
    Buffered,
}

impl WriteWay {
    /// "direct" or "buffered".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Buffered => "buffered",
        }
    }
}

/// A folder of files.
pub(super) trait Disk: Debug + Send + Sync {
    /// How [`DiskFile::write_durably`] works.
    fn way(&self) -> WriteWay;
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a file of `size` zero bytes, replacing one of that name. It is
    /// durable only after [`Disk::sync_dir`].
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Bytes that may still be written to it.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// A file of fixed size.
pub(super) trait DiskFile: Debug + Send + Sync {
    /// Fills the buffer from `offset` on, or fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes to the disk without a copy in the page cache; durable only after a sync.
    /// `bytes` begin at a multiple of a page in memory, as `offset` and their length
    /// are. False, and nothing is written, where that is not possible.
    fn write_past_cache(&self, _bytes: &[u8], _offset: u64) -> io::Result<bool> {
        Ok(false)
    }
    /// Writes, and makes durable what this wrote. `bytes` are as for
    /// [`DiskFile::write_past_cache`].
    fn write_durably(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable. Never to be called again after it failed.
    fn sync(&self) -> io::Result<()>;
    fn size(&self) -> io::Result<u64>;
}

/// Writes zeros all over a file, which is to be synced then. After each step `goes_on`
/// is asked; false if it did not.
pub(super) fn fill_with_zeros(
    file: &dyn DiskFile,
    size: u64,
    goes_on: impl Fn(u64) -> bool,
) -> io::Result<bool> {
    let mut zeros = Arc::<BufferPool>::default().take(STEP);
    zeros.bytes().resize(STEP, 0);
    let mut offset = 0;
    while offset < size {
        let step = (size - offset).min(STEP as u64);
        let zeros = &zeros.as_ref()[..step as usize];
        if !file.write_past_cache(zeros, offset)? {
            file.write_at(zeros, offset)?;
            if (offset + step).is_multiple_of(SYNCED_STEP) {
                file.sync()?;
            }
        }
        offset += step;
        if !goes_on(step) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A folder of the file system.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    way: WriteWay,
    /// Its files are not to be changed, and may be such that they cannot be.
    read_only: bool,
}

impl Folder {
    /// One that is only read: what would change it fails.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn to_read(path: &Path) -> io::Result<Self> {
        fs::read_dir(path)?;
        Ok(Self {
            path: path.to_owned(),
            way: WriteWay::Buffered,
            read_only: true,
        })
    }

    /// Opens it, making it durably if it is not there.
    ///
    /// # Errors
    /// When it cannot be, and when direct writes are demanded and not possible.
    pub(super) fn open(path: &Path, choice: WriteChoice) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        let way = match choice {
            WriteChoice::Buffered => WriteWay::Buffered,
            WriteChoice::Auto | WriteChoice::Direct if direct::is_possible(path) => {
                WriteWay::Direct
            }
            WriteChoice::Auto => WriteWay::Buffered,
            WriteChoice::Direct => {
                let message = "log_writer is direct, and its file system takes no direct writes";
                return Err(io::Error::new(io::ErrorKind::Unsupported, message));
            }
        };
        Ok(Self {
            path: path.to_owned(),
            way,
            read_only: false,
        })
    }

    fn to_change(&self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    fn file(&self, name: &str, file: File) -> io::Result<Arc<dyn DiskFile>> {
        let direct = match self.way {
            WriteWay::Direct => Some(direct::open(&self.path.join(name))?),
            WriteWay::Buffered => None,
        };
        Ok(Arc::new(OnDisk {
            file,
            direct,
            sync_failed: Mutex::new(None),
            #[cfg(feature = "fault-points")]
            unsynced: Default::default(),
        }))
    }
}

impl Disk for Folder {
    fn way(&self) -> WriteWay {
        self.way
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // What is no text is no name of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.to_change()?;
        fault_disk!("create");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path.join(name))?;
        // Space is taken now, so that it does not run out in the middle of a
        // block; where the file system cannot, the file is sparse.
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(size)?,
            other => other?,
        }
        self.file(name, file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(!self.read_only)
            .open(path)?;
        self.file(name, file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.to_change()?;
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.to_change()?;
        fs::remove_file(self.path.join(name))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let told = rustix::fs::statvfs(&self.path)?;
        Ok(told.f_bavail.saturating_mul(told.f_frsize))
    }

    fn sync_dir(&self) -> io::Result<()> {
        fault_disk!("sync-folder");
        File::open(&self.path)?.sync_all()
    }
}

#[derive(Debug)]
struct OnDisk {
    file: File,
    /// The same file, opened for direct writes.
    direct: Option<File>,
    /// Why a sync has failed. The system tells that once, to whoever syncs next: another
    /// one would succeed, also for whom the pages were that it has thrown away. So
    /// there is one sync at a time, and none after that.
    sync_failed: Mutex<Option<String>>,
    #[cfg(feature = "fault-points")]
    unsynced: crate::fault_points::Unsynced,
}

impl OnDisk {
    fn sync_once(&self) -> io::Result<()> {
        #[cfg(feature = "fault-points")]
        self.unsynced.sync(&self.file)?;
        self.file.sync_data()
    }
}

impl DiskFile for OnDisk {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        fault_disk!("write");
        #[cfg(feature = "fault-points")]
        self.unsynced.wrote(offset, bytes.len());
        self.file.write_all_at(bytes, offset)
    }

    fn write_past_cache(&self, bytes: &[u8], offset: u64) -> io::Result<bool> {
        let Some(direct) = &self.direct else {
            return Ok(false);
        };
        fault_disk!("write");
        #[cfg(feature = "fault-points")]
        self.unsynced.wrote(offset, bytes.len());
        direct::write(direct, bytes, offset)?;
        Ok(true)
    }

    fn write_durably(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        fault_switch!(AckBeforeSync, self.file.write_all_at(bytes, offset));
        match &self.direct {
            Some(direct) => {
                fault_disk!("write-durably");
                direct::write_durably(direct, bytes, offset)
            }
            None => {
                self.write_at(bytes, offset)?;
                fault_point!(BlockUnsynced);
                self.sync()
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut failed = self
            .sync_failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &*failed {
            return Err(io::Error::other(format!("a sync has failed: {reason}")));
        }
        self.sync_once()
            .inspect_err(|error| *failed = Some(error.to_string()))
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
