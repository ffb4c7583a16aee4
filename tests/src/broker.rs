//! A broker of a test's own: the real program, on a free port, over a folder
//! that goes away with it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// What the broker prints on standard output when it serves, before its address.
const READY: &str = "sluice listening on ";
const ANY_PORT: &str = "127.0.0.1:0";
/// Far longer than a start or an end takes: only a broker that hangs gets here.
const HANGS: Duration = Duration::from_secs(120);
/// Lines of the broker's log that a failing test shows.
const LOG_LINES_SHOWN: usize = 200;

/// A broker process and its data.
///
/// Dropping it kills the process, and shows its log when the test is failing.
#[derive(Debug)]
pub struct TestBroker {
    program: &'static Path,
    /// Where it kills itself, see `broker/src/fault_points.rs`.
    fault_point: Option<String>,
    /// Faults that it has from its start, see there.
    fault_switches: String,
    /// Other faults, see there: variables and their values.
    faults: Vec<(String, String)>,
    folder: TempDir,
    data: PathBuf,
    listen: String,
    args: Vec<String>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    url: String,
}

impl TestBroker {
    /// Starts a broker with an empty data folder, and waits until it serves.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a broker with more arguments for `sluice serve`.
    #[must_use]
    pub fn start_with(args: &[&str]) -> Self {
        Self::start_program(program(), args)
    }

    /// As [`TestBroker::start_with`], of the program that can be told to kill
    /// itself between two steps, by [`TestBroker::restart_to_end_at`], and has other
    /// faults, by [`TestBroker::set_fault`].
    #[must_use]
    pub fn start_with_fault_points(args: &[&str]) -> Self {
        Self::start_program(program_with_fault_points(), args)
    }

    /// As [`TestBroker::try_start_over`], of the program with faults, of which these
    /// are switched on.
    ///
    /// # Errors
    /// How it ended, and what it said.
    pub fn try_start_over_with_faults(
        data: &Path,
        args: &[&str],
        switches: &[&str],
    ) -> Result<Self, (ExitStatus, String)> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let program = program_with_fault_points();
        let mut broker = Self::in_folder(program, folder, data.to_owned(), args);
        broker.fault_switches = switches.join(",");
        match broker.try_start() {
            Ok(()) => Ok(broker),
            Err(status) => Err((status, broker.log())),
        }
    }

    fn start_program(program: &'static Path, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let data = folder.path().join("data");
        Self::start_in(program, folder, data, args)
    }

    /// As [`TestBroker::start_with`], but with its data in this folder, which
    /// stays.
    #[must_use]
    pub fn start_over(data: &Path, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self::start_in(program(), folder, data.to_owned(), args)
    }

    /// As [`TestBroker::start_over`], where the broker may refuse to.
    ///
    /// # Errors
    /// How it ended, and what it said.
    pub fn try_start_over(data: &Path, args: &[&str]) -> Result<Self, (ExitStatus, String)> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut broker = Self::in_folder(program(), folder, data.to_owned(), args);
        match broker.try_start() {
            Ok(()) => Ok(broker),
            Err(status) => Err((status, broker.log())),
        }
    }

    fn start_in(program: &'static Path, folder: TempDir, data: PathBuf, args: &[&str]) -> Self {
        let mut broker = Self::in_folder(program, folder, data, args);
        broker.restart();
        broker
    }

    fn in_folder(program: &'static Path, folder: TempDir, data: PathBuf, args: &[&str]) -> Self {
        Self {
            program,
            fault_point: None,
            fault_switches: String::new(),
            faults: Vec::new(),
            folder,
            data,
            listen: ANY_PORT.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            running: None,
        }
    }

    /// Where it serves, such as `http://127.0.0.1:40123`. Another one after each
    /// restart.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.running.as_ref().expect("the broker runs").url
    }

    /// The same as a socket address.
    #[must_use]
    pub fn address(&self) -> &str {
        self.url().trim_start_matches("http://")
    }

    /// The memory that it takes (its resident set), in bytes. Linux only.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let running = self.running.as_ref().expect("the broker runs");
        let status = fs::read_to_string(format!("/proc/{}/status", running.child.id()));
        let status = status.expect("the status of our own child can be read");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        let kib: u64 = kib
            .and_then(|kib| kib.parse().ok())
            .expect("it has a resident set");
        kib << 10
    }

    /// Where its data is.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data.clone()
    }

    /// Bytes of memory that it has, as the system counts them.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let running = self.running.as_ref().expect("the broker runs");
        let status = fs::read_to_string(format!("/proc/{}/status", running.child.id()));
        let status = status.expect("our own child has a status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        kib.expect("a status has VmRSS in KiB") * 1024
    }

    /// Ends it at once, as a crash does (SIGKILL). Does nothing when it does not
    /// run.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.child.kill().expect("our own child can be killed");
            running.child.wait().expect("our own child can be awaited");
        }
    }

    /// Starts it again over the same data; kills it first if it runs.
    pub fn restart(&mut self) {
        self.kill();
        if let Err(status) = self.try_start() {
            panic!("the broker does not come up: {status}");
        }
    }

    /// Starts it again over the same data, to kill itself when it comes to the
    /// fault point `name` for the time number `time`, as `NAME:TIME`; with an empty
    /// text it only tells of the points in its log. False when it has ended before
    /// it served. The next start is an ordinary one.
    pub fn restart_to_end_at(&mut self, name_and_time: &str) -> bool {
        self.kill();
        self.fault_point = Some(name_and_time.to_owned());
        let serves = self.try_start().is_ok();
        self.fault_point = None;
        serves
    }

    /// From the next start on, it has this fault of `broker/src/fault_points.rs`; an
    /// empty value takes it away.
    pub fn set_fault(&mut self, variable: &str, value: &str) {
        self.faults.retain(|(name, _)| name != variable);
        if !value.is_empty() {
            self.faults.push((variable.to_owned(), value.to_owned()));
        }
    }

    /// As [`TestBroker::restart`]; false when it has ended before it served.
    pub fn try_restart(&mut self) -> bool {
        self.kill();
        self.try_start().is_ok()
    }

    /// Starts it again over the same data where it was, at `address`; kills it
    /// first if it runs.
    ///
    /// # Panics
    /// When somebody else keeps the port that it had.
    pub fn restart_at(&mut self, address: &str) {
        self.kill();
        address.clone_into(&mut self.listen);
        let since = Instant::now();
        // A connection of somebody else's may have taken the port meanwhile.
        while let Err(status) = self.try_start() {
            let waits = since.elapsed() < HANGS;
            assert!(waits, "the broker does not come up at {address}: {status}");
            thread::sleep(Duration::from_millis(100));
        }
        ANY_PORT.clone_into(&mut self.listen);
    }

    /// Says how it ended if it did not come up.
    fn try_start(&mut self) -> Result<(), ExitStatus> {
        let mut child = self.spawn();
        let stdout = child.stdout.take().expect("standard output is piped");
        if let Some(address) = wait_until_ready(stdout) {
            let url = format!("http://{address}");
            self.running = Some(Running { child, url });
            return Ok(());
        }
        let _ = child.kill();
        Err(child.wait().expect("our own child can be awaited"))
    }

    /// Starts it over the same data and kills it so much later, whether it
    /// serves by then or not.
    pub fn start_and_kill_after(&mut self, after: Duration) {
        self.kill();
        let mut child = self.spawn();
        thread::sleep(after);
        child.kill().expect("our own child can be killed");
        child.wait().expect("our own child can be awaited");
    }

    /// Ends it as a supervisor does (SIGTERM), and waits for it.
    ///
    /// # Panics
    /// When it does not run, or does not end.
    pub fn stop(&mut self) -> ExitStatus {
        self.stop_by(Signal::TERM)
    }

    /// Ends it as whoever started it at a terminal does (SIGINT), and waits for
    /// it.
    ///
    /// # Panics
    /// As [`TestBroker::stop`].
    pub fn interrupt(&mut self) -> ExitStatus {
        self.stop_by(Signal::INT)
    }

    fn stop_by(&mut self, signal: Signal) -> ExitStatus {
        let mut running = self.running.take().expect("the broker runs");
        let pid = Pid::from_child(&running.child);
        kill_process(pid, signal).expect("our own child takes a signal");
        let since = Instant::now();
        loop {
            if let Some(status) = running.child.try_wait().expect("it is our own child") {
                return status;
            }
            if since.elapsed() > HANGS {
                let _ = running.child.kill();
                let _ = running.child.wait();
                panic!("the broker does not end {HANGS:?} after {signal:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts a second broker over the same data, which must not come up. Returns
    /// what it says.
    ///
    /// # Panics
    /// When it comes up.
    #[must_use]
    pub fn second_over_the_same_data(&self) -> String {
        let mut child = self.spawn_with(Stdio::piped());
        let stdout = child.stdout.take().expect("standard output is piped");
        let address = wait_until_ready(stdout);
        let _ = child.kill();
        let output = child.wait_with_output().expect("it is our own child");
        assert_eq!(address, None, "a second broker serves the same data");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// What it has written to its log, over all its runs.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("stderr")
    }

    fn spawn(&self) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("a file in our own folder can be written");
        self.spawn_with(log.into())
    }

    fn spawn_with(&self, stderr: Stdio) -> Child {
        let mut command = Command::new(self.program);
        command
            .args(["serve", "--listen", &self.listen, "--data-dir"])
            .arg(self.data_dir())
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        // What is set for a broker of the developer's own is not for this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SLUICE_") {
                command.env_remove(name);
            }
        }
        if let Some(name_and_time) = &self.fault_point {
            command.env("SLUICE_FAULT_POINT", name_and_time);
        }
        if !self.fault_switches.is_empty() {
            command.env("SLUICE_FAULT_SWITCHES", &self.fault_switches);
        }
        command.envs(self.faults.iter().map(|(name, value)| (name, value)));
        command.spawn().expect("the broker's program can be run")
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- the broker's log\n{}\n---", shown.join("\n"));
        }
    }
}

/// The address that the broker prints when it serves; `None` when it ends or
/// hangs before.
fn wait_until_ready(stdout: ChildStdout) -> Option<String> {
    let (sender, ready) = mpsc::channel();
    // Reads on to the end, so that the broker never waits for its output.
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(address) = line.strip_prefix(READY) {
                let _ = sender.send(address.trim().to_owned());
            }
        }
    });
    ready.recv_timeout(HANGS).ok()
}

/// The broker's program, built once per test process in the profile of the
/// tests.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn program() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build(&["--bin"], "sluice"))
}

/// The same with fault points, which no other build has.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn program_with_fault_points() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let feature = ["--features", "sluice-broker/fault-points", "--bin"];
    BINARY.get_or_init(|| build(&feature, "sluice-fault-points"))
}

/// Names of all the fault points that the broker has.
///
/// # Panics
/// When it does not tell.
#[must_use]
pub fn fault_points() -> Vec<String> {
    let mut command = Command::new(program_with_fault_points());
    let output = command.arg("fault-points").output();
    let output = output.expect("the broker's program can be run");
    assert!(output.status.success(), "it names its fault points");
    let names = String::from_utf8(output.stdout).expect("names are text");
    names.lines().map(str::to_owned).collect()
}

/// An example's program, built in the profile of the tests.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    build(&["--example"], name)
}

fn build(what: &[&str], name: &str) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    // The whole workspace, so that features, and with them what is compiled
    // already, are those of `cargo test --workspace`.
    cargo
        .args(["build", "--workspace"])
        .args(what)
        .arg(name)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.output().expect("cargo can be run");
    assert!(output.status.success(), "{name} cannot be built");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the program that it has built")
}
