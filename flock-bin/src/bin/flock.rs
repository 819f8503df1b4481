//! flock
fn main() {}
