//! The `regguf` command.
fn main() {}
