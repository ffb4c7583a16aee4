//! Events of memory topics: a [`Ring`] per partition, and the [`Room`] that all
//! of them share. Nothing of it is ever written.
//!
//! ```text
//!  append ─> chunks ─> Room: who must drop its oldest chunk so that this one fits?
//!                        └─> Ring: drop those, push this one
//! ```
//!
//! A chunk is one piece of memory of at most 64 KiB, or one larger event: what a
//! ring drops is really given back, as soon as nobody reads it any more.
//!
//! Pure: it knows neither the log nor who reads.

mod ring;
mod room;
#[cfg(test)]
mod tests;

pub(super) use self::{
    ring::{Chunk, Ring},
    room::Room,
};
