//! What each channel of a topic promises. The README's table of channels cites
//! these tests by name.

#![allow(clippy::unwrap_used)]

mod buffered;
mod commits;
mod fsync;
mod memory;
mod memory_groups;
mod place;
mod sequences;
