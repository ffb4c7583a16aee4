//! Docflow.
fn main() {}
