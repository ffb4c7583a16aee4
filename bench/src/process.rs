//! A server in a process of its own, and what it has used.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;

/// A process that is killed when this is dropped.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder in `dir`, or where the system has its own; it goes when it is dropped.
pub(crate) fn temporary_folder(dir: Option<&Path>) -> anyhow::Result<tempfile::TempDir> {
    let folder = match dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    folder.context("no temporary folder can be made")
}

/// This program as a server, in a process that is killed when this is dropped.
pub(crate) struct ServerProcess {
    args: Vec<OsString>,
    running: Mutex<Running>,
}

struct Running {
    process: Killed,
    addr: SocketAddr,
}

/// What a process has used since its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// Bytes that it caused to be written to the device.
    pub(crate) written: u64,
    /// Bytes that it caused to be read from the device.
    pub(crate) read: u64,
    /// The most memory that it had, in bytes.
    pub(crate) peak_memory: u64,
}

impl ServerProcess {
    /// Runs this program with `args`, and waits until it says where it listens.
    pub(crate) fn start(args: &[&OsStr]) -> anyhow::Result<Self> {
        let args: Vec<OsString> = args.iter().map(|arg| arg.to_os_string()).collect();
        let running = Mutex::new(Running::start(&args)?);
        Ok(Self { args, running })
    }

    /// Kills it and runs it again; tells when it was started. It listens on
    /// another port then.
    pub(crate) fn restart(&self) -> anyhow::Result<Instant> {
        let mut running = self.running();
        let _ = running.process.0.kill();
        running.process.0.wait()?;
        let started = Instant::now();
        *running = Running::start(&self.args)?;
        Ok(started)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.running().addr
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running().process.0.id()
    }

    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        usage(&self.pid().to_string())
    }

    /// Bytes of memory that it has now.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        memory(self.pid())
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn start(args: &[OsString]) -> anyhow::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut process = Killed(child);
        let stdout = process.0.stdout.take().context("it has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let addr = line
            .trim()
            .strip_prefix("listening on ")
            .and_then(|addr| addr.parse().ok());
        let addr = addr.context("the server did not start")?;
        Ok(Self { process, addr })
    }
}

impl Usage {
    /// What was used since an earlier look; the peak is the peak.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            written: self.written.saturating_sub(before.written),
            read: self.read.saturating_sub(before.read),
            peak_memory: self.peak_memory,
        }
    }
}

/// What a process, by its number or `self`, has used.
pub(crate) fn usage(process: &str) -> anyhow::Result<Usage> {
    let of = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}"));
    let stat = of("stat")?;
    // After the name, which may hold spaces: state is field 3, user and system
    // time are 14 and 15, in ticks, of which Linux shows 100 a second.
    let after_name = stat.rsplit_once(')').context("stat has no name")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Usage {
        cpu: Duration::from_millis(ticks * 10),
        written: number(&of("io")?, "write_bytes:")?,
        read: number(&of("io")?, "read_bytes:")?,
        peak_memory: number(&of("status")?, "VmHWM:")? * 1024,
    })
}

/// From now on its peak is the most memory that it will have had since.
pub(crate) fn forget_peak_memory(pid: u32) -> anyhow::Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// Bytes of memory that a process has now.
pub(crate) fn memory(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(number(&status, "VmRSS:")? * 1024)
}

fn number(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    Ok(word.with_context(|| format!("no {name}"))?.parse()?)
}
