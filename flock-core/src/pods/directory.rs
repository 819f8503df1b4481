//! A directory of manifests.

/// A directory of manifests.
#[derive(Debug)]
pub struct PodDirectory;
