//! Servers of other brokers: started on a free loopback port over a temporary
//! folder, and stopped by their process.

use std::{
    ffi::OsString,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::process::Killed;

/// How long a server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a server is started.
pub(crate) struct Start {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) variables: Vec<(&'static str, OsString)>,
    /// Where it listens, when it is ready.
    pub(crate) port: u16,
}

/// A server; killed when this is dropped, and its folder removed.
pub(crate) struct PeerProcess {
    start: Start,
    running: Mutex<Killed>,
    dir: tempfile::TempDir,
}

impl PeerProcess {
    /// Starts the program, and waits until something listens on its port.
    pub(crate) fn start(start: Start, dir: tempfile::TempDir) -> anyhow::Result<Self> {
        let running = Mutex::new(start.run(dir.path())?);
        Ok(Self {
            start,
            running,
            dir,
        })
    }

    /// Kills it and starts it again; tells when it was started.
    pub(crate) fn restart(&self) -> anyhow::Result<Instant> {
        let mut running = self.running();
        let _ = running.0.kill();
        running.0.wait()?;
        let started = Instant::now();
        *running = self.start.run(self.dir.path())?;
        Ok(started)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running().0.id()
    }

    fn running(&self) -> MutexGuard<'_, Killed> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Start {
    fn run(&self, dir: &Path) -> anyhow::Result<Killed> {
        let program = self.program.to_string_lossy();
        let child = Command::new(&self.program)
            .args(&self.args)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{program} cannot be started; is it installed?"))?;
        let mut process = Killed(child);
        let give_up = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = process.0.try_wait()? {
                anyhow::bail!("{program} has ended at once: {status}");
            }
            anyhow::ensure!(Instant::now() < give_up, "{program} does not listen");
            thread::sleep(Duration::from_millis(2));
        }
        Ok(process)
    }
}

/// What a program calls itself; `None` when it cannot be found.
#[cfg(any(feature = "nats", feature = "redis"))]
pub(crate) fn version(program: &str) -> Option<String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// A port of the loopback that was free a moment ago.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
