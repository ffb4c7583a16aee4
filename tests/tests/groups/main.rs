//! What operators do with groups that are at work, against the real broker.

#![allow(clippy::unwrap_used)]

mod position;
mod setting;
