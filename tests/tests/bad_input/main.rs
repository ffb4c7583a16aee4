//! What is wrong is refused with a status that names the field and the limit,
//! and the broker goes on: each table below publishes between its cases, and
//! reads everything back at its end.

#![allow(clippy::unwrap_used)]

mod bench;
mod connections;
mod consume;
mod definitions;
mod expected;
mod producers;
mod publish;
