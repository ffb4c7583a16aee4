//! Servers of other brokers: started on a free loopback port over a temporary
//! folder, and stopped by their process.

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

/// A server; killed when this is dropped, and its folder removed.
pub(crate) struct PeerProcess {
    program: String,
    child: Child,
    _dir: tempfile::TempDir,
}

impl PeerProcess {
    /// Starts `program` with `args`, the last of which takes the folder, and
    /// waits until something listens on the port.
    pub(crate) fn start(
        program: &str,
        args: &[&str],
        dir: tempfile::TempDir,
        port: u16,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(args).arg(dir.path());
        Self::spawn(program, command, dir, port)
    }

    /// As [`PeerProcess::start`], with a file of settings.
    pub(crate) fn start_with_file(
        program: &str,
        flag: &str,
        file: &Path,
        dir: tempfile::TempDir,
        port: u16,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.arg(flag).arg(file);
        Self::spawn(program, command, dir, port)
    }

    fn spawn(
        program: &str,
        mut command: Command,
        dir: tempfile::TempDir,
        port: u16,
    ) -> anyhow::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{program} cannot be started; is it installed?"))?;
        let mut peer = Self {
            program: program.to_owned(),
            child,
            _dir: dir,
        };
        let give_up = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = peer.child.try_wait()? {
                anyhow::bail!("{program} has ended at once: {status}");
            }
            anyhow::ensure!(Instant::now() < give_up, "{program} does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(peer)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the program calls itself.
    pub(crate) fn version(&self) -> String {
        version(&self.program).unwrap_or_default()
    }
}

impl Drop for PeerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program calls itself; `None` when it cannot be found.
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
