//! The broker: one commit log, and what is built on it.
//!
//! Who may use whom: `server -> grpc -> group -> commit -> {log, view}`, and
//! `group -> filter`. See ARCHITECTURE.md.

pub mod commit;
pub mod filter;
pub mod group;
pub mod log;
pub mod view;
