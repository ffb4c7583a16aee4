//! The load-test bench: what a broker does on this machine, beside what the
//! machine itself can do, in the same run.
//!
//! Figures of one run compare with each other and with nothing else.

mod api;
mod bare;
mod bare_consume;
mod consume;
mod events;
mod filter_suite;
mod flow_suite;
mod group_suite;
mod load;
mod log_suite;
mod preload;
mod process;
mod raw_disk;
mod report;
mod server;
mod suite;
mod targets;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Load tests of the broker.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The commit log: durable publishing and the way to a consumer, beside the
    /// same path without a broker.
    Log(log_suite::Log),
    /// Consumer groups: working events off with an ack for each, beside a bare
    /// stream with the same messages.
    Groups(group_suite::Groups),
    /// Filters: one beside none and beside the cel crate as it comes, and many
    /// groups whose filters ask for a type each.
    Filters(filter_suite::Filters),
    /// Flow control: a slow last stage, consumers that never read, producers that
    /// ask for too much.
    Flow(flow_suite::Flow),
    /// Named loads on Sluice: throughput, latency, fan-out and more.
    Run(suite::Run),
    /// A short look at every load, in less than two minutes.
    Quick,
    /// The same loads on Sluice and other brokers, in turn. Which ones it knows
    /// is chosen by features (`nats`, `redis`, `rabbitmq`, `kafka`, `iggy`) when it
    /// is built.
    Compare(suite::Compare),
    /// One report of several runs on one machine.
    Report(suite::Report),
    /// A broker on a free port; the bench starts it.
    #[command(hide = true)]
    Broker {
        data_dir: PathBuf,
        /// Limits, as NAME=VALUE.
        limits: Vec<String>,
    },
    /// The bare path on a free port; the bench starts it.
    #[command(hide = true)]
    Bare {
        file: Option<PathBuf>,
        /// The file's blocks are allocated and were never written.
        #[arg(long)]
        new_blocks: bool,
    },
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            result = run(Cli::parse().command) => result,
            // What is dropped with it kills its servers.
            () = stopped() => anyhow::bail!("stopped"),
        }
    })
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Log(log) => log_suite::run(log).await,
        Command::Filters(filters) => filter_suite::run(filters).await,
        Command::Flow(flow) => flow_suite::run(flow).await,
        Command::Groups(groups) => group_suite::run(groups).await,
        Command::Run(run) => suite::run(run).await,
        Command::Quick => suite::quick().await,
        Command::Compare(compare) => suite::compare(compare).await,
        Command::Report(report) => suite::report(&report),
        Command::Broker { data_dir, limits } => server::broker(&data_dir, &limits).await,
        Command::Bare { file, new_blocks } => {
            let blocks = match new_blocks {
                true => raw_disk::Blocks::Allocated,
                false => raw_disk::Blocks::Written,
            };
            bare::serve(file.as_deref(), blocks).await
        }
    }
}

/// Waits for a signal to stop.
async fn stopped() {
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(_) => return std::future::pending().await,
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
