//! `sluice serve`: settings from flags, environment and file, in this order.

use std::{fs, io::Write, net::SocketAddr, path::PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use sluice_broker::{
    Broker,
    allocator::keep_freed_memory,
    config::{Config, Limits},
    filter::EVALUATION_STACK_BYTES,
    log::WriteChoice,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Runs a broker until it gets SIGTERM or SIGINT.
///
/// When it serves it prints one line on standard output, `sluice listening on
/// ADDRESS`. Its log goes to standard error.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:7070].
    #[arg(long, value_name = "ADDRESS", env = "SLUICE_LISTEN")]
    listen: Option<SocketAddr>,
    /// Listen beyond loopback although there is neither TLS nor authentication:
    /// anybody who reaches the port may do anything.
    #[arg(long, env = "SLUICE_INSECURE_LISTEN")]
    insecure_listen: bool,
    /// Where the data is; made if it is not there [default: ./sluice-data].
    #[arg(long, value_name = "FOLDER", env = "SLUICE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// How the commit log is written: `direct` goes past the page cache, `buffered`
    /// through it, `auto` is direct where the file system has it [default: auto].
    #[arg(long, value_name = "WAY", env = "SLUICE_LOG_WRITER", value_parser = log_writer)]
    log_writer: Option<WriteChoice>,
    /// A TOML file with any of `listen`, `insecure_listen`, `data_dir`,
    /// `log_writer`, `log_format`, and a table `[limits]`.
    #[arg(long, value_name = "FILE", env = "SLUICE_CONFIG")]
    config: Option<PathBuf>,
    /// How the log is written [default: text].
    #[arg(long, value_enum, env = "SLUICE_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged, as in RUST_LOG.
    #[arg(
        long,
        value_name = "FILTER",
        env = "SLUICE_LOG",
        default_value = "info"
    )]
    log: String,
    /// One of the limits, for example `event_bytes_max=2097152`; may be
    /// repeated. README.md lists them.
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    limits: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ConfigFile {
    listen: Option<SocketAddr>,
    insecure_listen: bool,
    data_dir: Option<PathBuf>,
    log_writer: Option<WriteChoice>,
    log_format: Option<LogFormat>,
    limits: toml::Table,
}

pub(super) fn run(serve: Serve) -> anyhow::Result<()> {
    let (config, log_format) = settings(&serve)?;
    start_log(&serve.log, log_format)?;
    keep_freed_memory();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(EVALUATION_STACK_BYTES)
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let broker = Broker::start(config).await?;
        println!("sluice listening on {}", broker.addr());
        std::io::stdout().flush()?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        broker.shut_down().await;
        anyhow::Ok(())
    })
}

fn settings(serve: &Serve) -> anyhow::Result<(Config, LogFormat)> {
    let file = match &serve.config {
        None => ConfigFile::default(),
        Some(path) => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            toml::from_str(&text)
                .with_context(|| format!("{} is no configuration", path.display()))?
        }
    };
    let mut limits = file.limits;
    for limit in &serve.limits {
        let Some((name, value)) = limit.split_once('=') else {
            bail!("--limit {limit}: it must be NAME=VALUE");
        };
        let value: i64 = value
            .parse()
            .with_context(|| format!("--limit {limit}: {value:?} is no whole number"))?;
        limits.insert(name.to_owned(), toml::Value::Integer(value));
    }
    let limits: Limits = limits.try_into().context("limits")?;
    let config = Config {
        listen: serve
            .listen
            .or(file.listen)
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7070))),
        insecure_listen: serve.insecure_listen || file.insecure_listen,
        data_dir: serve
            .data_dir
            .clone()
            .or(file.data_dir)
            .unwrap_or_else(|| "sluice-data".into()),
        log_writer: serve.log_writer.or(file.log_writer).unwrap_or_default(),
        limits,
    };
    config.validate()?;
    let log_format = serve.log_format.or(file.log_format).unwrap_or_default();
    Ok((config, log_format))
}

fn log_writer(text: &str) -> Result<WriteChoice, String> {
    match text {
        "auto" => Ok(WriteChoice::Auto),
        "direct" => Ok(WriteChoice::Direct),
        "buffered" => Ok(WriteChoice::Buffered),
        _ => Err("it must be auto, direct or buffered".into()),
    }
}

fn start_log(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).context("--log")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
