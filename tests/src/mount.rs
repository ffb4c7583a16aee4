//! File systems of a test's own. They need root; where they cannot be had, the
//! test fails.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::ioctl::{Setter, ioctl};
use tempfile::TempDir;

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    folder: TempDir,
}

impl Mount {
    /// A file system in memory, with `mount -o` options such as
    /// `size=64m,nr_inodes=100`.
    ///
    /// # Panics
    /// When it cannot be mounted, which needs root.
    #[must_use]
    pub fn tmpfs(options: &str) -> Self {
        let mount = Self {
            folder: tempfile::tempdir().expect("a temporary folder can be made"),
        };
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(mount.path()));
        mount
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Also while somebody still has a file open in it.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
    }
}

/// ext4 over a loop device, whose power can be cut. The device's file is in
/// memory.
#[derive(Debug)]
pub struct PowerCut {
    image: PathBuf,
    mount: Mount,
    /// Goes last: the image is in it.
    _memory: Mount,
}

/// `EXT4_IOC_SHUTDOWN`.
const SHUTDOWN: u32 = 0x8004_587d;
/// Stop at once: neither what was not synced nor the journal is written.
const NO_LOG_FLUSH: u32 = 2;

impl PowerCut {
    /// With so much room.
    ///
    /// # Panics
    /// When it cannot be mounted, which needs root and loop devices.
    #[must_use]
    pub fn new(mib: u64) -> Self {
        let memory = Mount::tmpfs(&format!("size={}m", mib + 16));
        let image = memory.path().join("image");
        let file = File::create(&image).expect("a file in our own folder can be made");
        file.set_len(mib << 20).expect("it can be that long");
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        let mount = Mount {
            folder: tempfile::tempdir().expect("a temporary folder can be made"),
        };
        let power_cut = Self {
            image,
            mount,
            _memory: memory,
        };
        power_cut.mount();
        power_cut
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mount.path()
    }

    /// From now on nothing that was not synced reaches the device, nor does
    /// anything else: every write fails.
    ///
    /// # Panics
    /// When the file system does not do that.
    #[allow(unsafe_code)]
    pub fn cut(&self) {
        let root = File::open(self.path()).expect("a mounted folder can be opened");
        // SAFETY: this call takes a pointer to 32 bits, and only reads them.
        let cut = unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) };
        cut.expect("ext4 can be shut down, by root");
    }

    /// What a start of the machine does: what was in memory is forgotten, and the
    /// journal is replayed. Nobody may have a file open in it.
    ///
    /// # Panics
    /// When it cannot be mounted again.
    pub fn power_on(&self) {
        run(Command::new("umount").arg(self.path()));
        self.mount();
    }

    fn mount(&self) {
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(self.path()));
    }
}

/// Runs a program of the system to its end.
///
/// # Panics
/// When it fails.
pub fn run(command: &mut Command) {
    let status = command.status();
    let ended_well = status.as_ref().is_ok_and(|status| status.success());
    assert!(ended_well, "{command:?}: {status:?} (this needs root)");
}
