//! A fixed set.

/// A fixed set.
#[derive(Debug)]
pub struct FixedPods;
