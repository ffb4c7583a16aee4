//! RabbitMQ's server, as one node on the loopback.

pub(super) mod quorum;
pub(super) mod stream;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;

use super::peer::{PeerProcess, Start, free_port};
use crate::process::Killed;

/// The script that becomes the server, unlike the one in the path of Debian,
/// which changes to another user.
const SCRIPT: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// Where the versions are that are installed.
const LIBRARY: &str = "/usr/lib/rabbitmq/lib";

/// A node, and where it listens.
pub(super) struct Server {
    // The node goes before its name server.
    node: PeerProcess,
    _name_server: Killed,
    port: u16,
}

/// How a node is spoken to.
#[derive(Clone, Copy, Debug)]
enum Protocol {
    /// AMQP 0.9.1.
    Amqp,
    /// That of streams.
    Stream,
}

/// The version that is installed; `None` without one.
pub(super) fn version() -> Option<String> {
    fs::metadata(SCRIPT).ok()?;
    let entries = fs::read_dir(LIBRARY).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter_map(|name| Some(name.strip_prefix("rabbitmq_server-")?.to_owned()))
        .max()
}

impl Server {
    fn start(dir: tempfile::TempDir, protocol: Protocol) -> anyhow::Result<Self> {
        let [name_port, node_port, port] = [free_port()?, free_port()?, free_port()?];
        let settings = dir.path().join("rabbitmq.conf");
        let (enabled, listener) = match protocol {
            Protocol::Amqp => ("", format!("listeners.tcp.default = 127.0.0.1:{port}\n")),
            Protocol::Stream => (
                "rabbitmq_stream",
                format!(
                    "listeners.tcp = none\n\
                     stream.listeners.tcp.default = 127.0.0.1:{port}\n\
                     stream.tcp_listen_options.nodelay = true\n"
                ),
            ),
        };
        let text = format!("{listener}tcp_listen_options.nodelay = true\n");
        fs::write(&settings, text)?;
        let plugins = dir.path().join("enabled_plugins");
        fs::write(&plugins, format!("[{enabled}].\n"))?;
        let name_port_text = name_port.to_string();
        let name_server = Command::new("epmd")
            .args(["-port", &name_port_text, "-address", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let name_server = Killed(name_server.context("epmd cannot be started")?);
        let at = |name: &str| dir.path().join(name).into_os_string();
        let variables = vec![
            ("ERL_EPMD_PORT", name_port_text.into()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            ("HOME", dir.path().into()),
            ("RABBITMQ_NODENAME", "bench@localhost".into()),
            ("RABBITMQ_MNESIA_BASE", at("data")),
            ("RABBITMQ_LOG_BASE", at("log")),
            ("RABBITMQ_CONFIG_FILE", settings.into()),
            ("RABBITMQ_CONF_ENV_FILE", PathBuf::from("/dev/null").into()),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", plugins.into()),
            ("RABBITMQ_DIST_PORT", node_port.to_string().into()),
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}".into(),
            ),
            // Then the script becomes the server, and does not wait for it.
            ("RUNNING_UNDER_SYSTEMD", "true".into()),
        ];
        let start = Start {
            program: SCRIPT.into(),
            args: Vec::new(),
            variables,
            port,
        };
        Ok(Self {
            node: PeerProcess::start(start, dir)?,
            _name_server: name_server,
            port,
        })
    }
}

/// Tries until it is done; after its start a node listens before it has opened
/// what it has stored.
async fn until_it_is_there<T, F>(mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let give_up = Instant::now() + Duration::from_secs(20);
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > give_up => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
