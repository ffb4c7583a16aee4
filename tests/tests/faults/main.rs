//! Brokers whose disk fails or is watched, and whose wall clock is set.
//!
//! `cargo test -p sluice-tests --features fault-points --test faults`
//!
//! The broker is built with its faults (`broker/src/fault_points.rs`).

#![allow(clippy::unwrap_used)]

mod channels;
mod clock;
mod disk;
mod lines;
