//! The `sluice` program: the broker, and the command line for it.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
