//! File systems of a test's own. They need root; where they cannot be had, the
//! test fails.

use std::{path::Path, process::Command};

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

/// Runs a program of the system to its end.
///
/// # Panics
/// When it fails.
pub fn run(command: &mut Command) {
    let status = command.status();
    let ended_well = status.as_ref().is_ok_and(|status| status.success());
    assert!(ended_well, "{command:?}: {status:?} (this needs root)");
}
