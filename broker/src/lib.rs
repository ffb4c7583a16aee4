//! The broker: one commit log, and what is built on it.
//!
//! Who may use whom: `server -> grpc -> group -> commit -> {log, view}`,
//! `group -> filter`, `{grpc, group} -> flow -> commit`, and `{server, grpc} -> retention -> {commit, log}`. See ARCHITECTURE.md.

/// A place at which a test may have the process kill itself; nothing in a build
/// without the feature `fault-points`.
macro_rules! fault_point {
    ($point:ident) => {
        #[cfg(feature = "fault-points")]
        crate::fault_points::reached(crate::fault_points::Point::$point);
    };
}

/// Does something otherwise where a test has switched a fault on; nothing in a
/// build without the feature `fault-points`.
macro_rules! fault_switch {
    ($switch:ident, $otherwise:expr) => {
        #[cfg(feature = "fault-points")]
        if crate::fault_points::Switch::$switch.is_on() {
            return $otherwise;
        }
    };
}

/// A write or sync of the log's folder, which a test may let fail.
macro_rules! fault_disk {
    ($operation:literal) => {
        #[cfg(feature = "fault-points")]
        crate::fault_points::disk($operation)?;
    };
}

pub mod allocator;
pub mod backup;
pub mod commit;
pub mod config;
pub mod data_dir;
#[cfg(feature = "fault-points")]
pub mod fault_points;
pub mod filter;
pub mod flow;
pub mod group;
mod grpc;
pub mod log;
pub mod retention;
mod server;
pub mod space;
pub mod view;
mod wall_clock;

pub use self::server::{Broker, StartError};
