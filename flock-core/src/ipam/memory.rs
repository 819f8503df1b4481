//! The allocator.

/// The allocator.
#[derive(Debug)]
pub struct MemoryIpam;
