//! The `sluice` program with fault points, for tests.
//! `sluice-fault-points fault-points` prints their names.

mod cli;

use std::process::ExitCode;

use sluice_broker::fault_points::Point;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("fault-points") {
        for point in Point::ALL {
            println!("{}", point.name());
        }
        return ExitCode::SUCCESS;
    }
    cli::run()
}
