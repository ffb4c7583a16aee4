//! Kafka's server: one node that is its own controller (KRaft), from the Maven
//! artifacts that `bench/kafka/get` gets.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context;

use crate::targets::peer::{PeerProcess, Start, free_port};

/// A node, and where it listens.
pub(super) struct Node {
    pub(super) process: PeerProcess,
    pub(super) port: u16,
    pub(super) settings: String,
}

/// Where the server's artifacts are; `None` if they, or Java, are not there.
fn artifacts() -> Option<PathBuf> {
    let folder = env::var_os("SLUICE_BENCH_KAFKA").map_or("target/kafka".into(), PathBuf::from);
    let java = Command::new("java")
        .arg("-version")
        .stderr(Stdio::null())
        .status();
    let all = java.is_ok_and(|status| status.success()) && version_of(&folder).is_some();
    all.then(|| folder.canonicalize().ok()).flatten()
}

/// The version that was got; `None` without one.
pub(in crate::targets) fn version() -> Option<String> {
    version_of(&artifacts()?)
}

fn version_of(folder: &Path) -> Option<String> {
    let entries = fs::read_dir(folder).ok()?;
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.find_map(|name| {
        let version = name.strip_prefix("kafka_2.13-")?.strip_suffix(".jar")?;
        Some(version.to_owned())
    })
}

impl Node {
    /// Starts a node that syncs each batch before it acks, or leaves that to the
    /// operating system, which is its default.
    pub(super) fn start(dir: tempfile::TempDir, synced: bool) -> anyhow::Result<Self> {
        let folder = artifacts().context("Kafka is not there; bench/kafka/get gets it")?;
        let (port, controller) = (free_port()?, free_port()?);
        let data = dir.path().join("data");
        let sync = if synced {
            "log.flush.interval.messages=1\n"
        } else {
            ""
        };
        let file = dir.path().join("server.properties");
        let text = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             log.dirs={}\n\
             offsets.topic.replication.factor=1\n\
             log.segment.delete.delay.ms=1000\n\
             {sync}",
            data.display()
        );
        fs::write(&file, text)?;
        let classes = format!("{}/*", folder.display());
        let format = Command::new("java")
            .args(["-cp", &classes, "kafka.tools.StorageTool", "format"])
            .args(["-t", "c2x1aWNlLWJlbmNoLWthZg", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        anyhow::ensure!(format.success(), "the storage cannot be formatted");
        let start = Start {
            program: "java".into(),
            // As its own script has it.
            args: ["-server", "-Xms1G", "-Xmx1G", "-XX:+UseG1GC", "-cp"]
                .map(Into::into)
                .into_iter()
                .chain([classes.into(), "kafka.Kafka".into(), file.into()])
                .collect(),
            variables: Vec::new(),
            port,
        };
        let flush = if synced {
            "log.flush.interval.messages 1"
        } else {
            "every default"
        };
        let version = version_of(&folder).unwrap_or_default();
        Ok(Self {
            process: PeerProcess::start(start, dir)?,
            port,
            settings: format!("Kafka {version}, one node, heap 1 GiB, {flush}"),
        })
    }
}
