//! The NodeConfig that was in force last, kept for a start while the API server is away.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use flock_core::name::NodeName;
use flock_core::node_config::{Manifest, NodeConfig};
use tempfile::NamedTempFile;

/// A file in the run directory. What goes wrong with it is logged and costs nothing else.
#[derive(Debug)]
pub(super) struct Remembered {
    path: PathBuf,
}

impl Remembered {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self { path: run_dir.join("node-config.json") }
    }

    /// What was written last, if it is this node's.
    pub(super) async fn read(&self, node: &NodeName) -> Option<NodeConfig> {
        let text = tokio::fs::read_to_string(&self.path).await.ok()?;
        match NodeConfig::from_yaml(&text, &self.path.display().to_string()) {
            Ok(config) => Some(config).filter(|config| config.name == *node),
            Err(error) => {
                tracing::warn!(%error, "the NodeConfig that was in force last can't be read");
                None
            }
        }
    }

    /// Old or new, never half: the file is replaced.
    pub(super) async fn write(&self, config: &NodeConfig) {
        let (path, manifest) = (self.path.clone(), Manifest::from(config));
        let written = tokio::task::spawn_blocking(move || replace(&path, &manifest)).await;
        if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::warn!(
                path = %self.path.display(), %error,
                "the NodeConfig can't be kept for a start while the API server is away"
            );
        }
    }
}

fn replace(path: &Path, manifest: &Manifest) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    serde_json::to_writer_pretty(&mut file, manifest)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str) -> NodeConfig {
        let manifest = format!(
            "{{apiVersion: flock.fritzlab.net/v1alpha1, kind: NodeConfig, metadata: {{name: {name}}}, \
             spec: {{cidr4: 10.0.1.0/24}}}}"
        );
        NodeConfig::from_yaml(&manifest, "test").unwrap()
    }

    #[tokio::test]
    async fn what_was_written_last_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let remembered = Remembered::new(directory.path());
        let node = NodeName::new("host001").unwrap();
        assert_eq!(remembered.read(&node).await, None);
        remembered.write(&config("host001")).await;
        assert_eq!(remembered.read(&node).await, Some(config("host001")));
        assert_eq!(directory.path().read_dir().unwrap().count(), 1, "something else was left there");
    }

    #[tokio::test]
    async fn what_is_another_nodes_or_damaged_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let remembered = Remembered::new(directory.path());
        let node = NodeName::new("host001").unwrap();
        remembered.write(&config("host002")).await;
        assert_eq!(remembered.read(&node).await, None);
        std::fs::write(&remembered.path, "{").unwrap();
        assert_eq!(remembered.read(&node).await, None);
    }
}
