//! The command line. It talks to a broker as any other client does; only
//! `serve` is one.

mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
}

/// Runs what the command line says.
pub(crate) fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(serve) => serve::run(serve),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, with everything that led to it.
            eprintln!("sluice: {error:#}");
            ExitCode::FAILURE
        }
    }
}
