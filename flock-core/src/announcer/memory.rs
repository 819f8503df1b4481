//! In memory.

/// In memory.
#[derive(Debug)]
pub struct MemoryAnnouncer;
