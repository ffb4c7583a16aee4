//! The command line. It talks to a broker as any other client does; only
//! `serve` is one, and `check` and `dump` look at the data of one that is stopped.

mod backlog;
mod backup;
mod broker;
mod check;
mod dead_letters;
mod dump;
mod filter;
mod flow;
mod group;
mod group_change;
mod group_describe;
mod lag;
mod output;
mod publish;
mod retention;
mod serve;
mod tail;
mod topic;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, error::ErrorKind};
use sluice_client::{Client, Error, pb::ErrorReason};

/// An event broker for AI pipelines.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a broker.
    Serve(serve::Serve),
    /// Tells how a broker is.
    Status(broker::Status),
    /// Makes, lists, describes and deletes topics.
    #[command(subcommand)]
    Topic(topic::Topic),
    /// Makes, lists, describes and deletes consumer groups.
    #[command(subcommand)]
    Group(group::Group),
    /// Draws how events flow from topic to topic, and who slows whom.
    Flow(flow::Flow),
    /// Publishes one event from flags, or many from standard input.
    Publish(publish::Publish),
    /// Prints the events of a topic, and goes on with new ones.
    Tail(tail::Tail),
    /// Tries filters, and tells why an event reached a group or did not.
    #[command(subcommand)]
    Filter(filter::Filter),
    /// Copies the data of a running broker.
    Backup(backup::Backup),
    /// Verifies the data folder of a stopped broker.
    Check(check::Check),
    /// Prints the blocks and frames of a stopped broker's log.
    Dump(dump::Dump),
    /// Looks after the events that a group could not handle.
    #[command(subcommand)]
    Dlq(dead_letters::Dlq),
}

/// Where the broker is, and how to print.
#[derive(Clone, Debug, Args)]
struct Common {
    /// The broker.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "SLUICE_BROKER",
        default_value = "http://127.0.0.1:7070"
    )]
    broker: String,
    /// Prints JSON, for scripts.
    #[arg(long, global = true)]
    json: bool,
}

impl Common {
    async fn connect(&self) -> anyhow::Result<Client> {
        let connected = Client::connect(&self.broker).await;
        connected.map_err(|error| {
            if error.is_retryable() {
                anyhow::anyhow!(
                    "{error}; start one with `sluice serve`, or name another by --broker"
                )
            } else {
                error.into()
            }
        })
    }
}

/// Runs what the command line says.
pub(crate) fn run() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return explain(&error),
    };
    exit(match command {
        Command::Serve(serve) => serve::run(serve),
        Command::Check(check) => match check.run() {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Dump(dump) => dump.run(),
        command => block_on(run_client(command)),
    })
}

fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(command);
    // Not waiting for a read of standard input, which may never end.
    runtime.shutdown_background();
    result
}

/// Help is printed as it is; what is wrong with the words goes into one line, as
/// all errors do.
fn explain(error: &clap::Error) -> ExitCode {
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if is_help || !error.use_stderr() {
        // There is nobody to tell that standard output is closed.
        let _ = error.print();
    } else {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        eprintln!("sluice: {}", lines.collect::<Vec<_>>().join(" "));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
}

async fn run_client(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(_) | Command::Check(_) | Command::Dump(_) => {
            unreachable!("run has taken it")
        }
        Command::Status(status) => status.run().await,
        Command::Topic(topic) => topic.run().await,
        Command::Group(group) => group.run().await,
        Command::Flow(flow) => flow.run().await,
        Command::Publish(publish) => publish.run().await,
        Command::Tail(tail) => tail.run().await,
        Command::Filter(filter) => filter.run().await,
        Command::Backup(backup) => backup.run().await,
        Command::Dlq(dlq) => dlq.run().await,
    }
}

fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // `sluice tail | head` has done what it was asked.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, with everything that led to it.
            let text = output::plain(&format!("{error:#}"));
            eprintln!("sluice: {text}{}", what_to_do(&error));
            ExitCode::FAILURE
        }
    }
}

/// What helps against an error of the broker, where its message does not say.
fn what_to_do(error: &anyhow::Error) -> &'static str {
    let reason = error.downcast_ref::<Error>().map(Error::reason);
    match reason {
        Some(ErrorReason::UnknownTopic) => {
            "; `sluice topic list` shows those that there are, `sluice topic create` makes one"
        }
        Some(ErrorReason::UnknownGroup) => {
            "; `sluice group list` shows those that there are, `sluice group create` makes one"
        }
        Some(ErrorReason::UnknownDeadLetter) => "; `sluice dlq list` shows those that there are",
        _ => "",
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
