//! What a run was measured on.

use std::{fmt, fs, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use super::results::Raw;
use crate::{
    bare::BLOCKS_UNDER_WAY,
    raw_disk::{Blocks, RawLog},
};

/// A machine, as far as it bears on the figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    /// Of the folder that was written to.
    pub(crate) file_system: String,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            cores,
            memory_gib,
            kernel,
            file_system,
        } = self;
        write!(
            f,
            "{cores} processors ({cpu}), {memory_gib} GiB, Linux {kernel}, {file_system}"
        )
    }
}

impl Machine {
    /// This one. What the system does not tell is empty.
    pub(crate) fn of(folder: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kib(&field(&read("/proc/meminfo"), "MemTotal")).div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: folder
                .canonicalize()
                .map(|folder| file_system(&read("/proc/mounts"), &folder))
                .unwrap_or_default(),
        }
    }
}

/// What the folder's disk can do.
pub(crate) fn raw_limits(folder: &Path, time: Duration) -> anyhow::Result<Raw> {
    let log = RawLog::create(&folder.join("raw"), Blocks::Written)?;
    let bytes_per_second = log.speed(1 << 20, BLOCKS_UNDER_WAY, time)?;
    Ok(Raw {
        bytes_per_second,
        small_writes_per_second: 1.0 / log.latency(500)?.as_secs_f64(),
    })
}

/// The value after `name` and a colon.
fn field(text: &str, name: &str) -> String {
    let value = text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_default()
}

fn kib(value: &str) -> u64 {
    let number = value.strip_suffix(" kB").unwrap_or(value);
    number.parse().unwrap_or(0)
}

/// The type of the file system of the longest mount point above `folder`.
fn file_system(mounts: &str, folder: &Path) -> String {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (point, kind) = (words.nth(1)?, words.next()?);
        folder.starts_with(point).then_some((point.len(), kind))
    });
    // The last of those with the same place is on top.
    let found = mounts.max_by_key(|(length, _)| *length);
    found.map(|(_, kind)| kind.to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_that_of_the_nearest_mount() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp xfs rw 0 0\n";
        let of = |folder: &str| file_system(mounts, Path::new(folder));
        assert_eq!(of("/home/x"), "ext4");
        assert_eq!(of("/tmp/x"), "xfs");
        assert_eq!(of("/tmpfs"), "ext4");
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "MemTotalX: 5 kB\nMemTotal:       16 kB\n";
        assert_eq!(kib(&field(text, "MemTotal")), 16);
        assert_eq!(field(text, "model name"), "");
    }
}
