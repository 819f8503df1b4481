//! One file per attachment.

/// One file per attachment.
#[derive(Debug)]
pub struct FileStore;
