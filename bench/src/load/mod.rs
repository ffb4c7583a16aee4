//! Loads, and running them on a broker, whichever it is.

pub(crate) mod engine;
pub(crate) mod payload;
pub(crate) mod target;
pub(crate) mod workload;
