//! What operators do with groups that are at work, against the real broker.

#![allow(clippy::unwrap_used)]

mod dead_letters;
mod explain;
mod hung_up;
mod leaving;
mod parking;
mod position;
mod setting;
mod unsettled;
