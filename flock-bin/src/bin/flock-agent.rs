//! flock-agent
fn main() {}
