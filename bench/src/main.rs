//! The load-test bench.
fn main() {}
