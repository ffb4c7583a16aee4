//! The broker: one commit log, and what is built on it.
//!
//! Who may use whom: `server -> grpc -> group -> commit -> {log, view}`,
//! `group -> filter`, and `{server, grpc} -> retention -> {commit, log}`. See ARCHITECTURE.md.

pub mod commit;
pub mod config;
pub mod filter;
pub mod group;
mod grpc;
pub mod log;
pub mod retention;
mod server;
pub mod space;
pub mod view;

pub use self::server::{Broker, StartError};
