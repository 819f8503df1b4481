//! The NodeConfig that was in force last and the passwords in it, kept for a start while the API
//! server is away.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use flock_core::name::NodeName;
use flock_core::node_config::{Manifest, NodeConfig, Password, PasswordReference};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::agent::passwords::{Known, of_secrets};

/// Two files in the run directory, which its owner alone can read. What goes wrong with them is logged
/// and costs nothing else.
///
/// A NodeConfig as it is written says only where passwords are kept, so these have a file of their
/// own; where there are none, it is not there.
#[derive(Debug)]
pub(super) struct Remembered {
    path: PathBuf,
    passwords: PathBuf,
}

/// A password of a Secret.
#[derive(Serialize, Deserialize)]
struct Kept {
    secret: String,
    key: String,
    password: String,
}

impl Remembered {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self { path: run_dir.join("node-config.json"), passwords: run_dir.join("passwords.json") }
    }

    /// What was written last, if it is this node's, and the passwords that were in it.
    pub(super) async fn read(&self, node: &NodeName) -> Option<(NodeConfig, Known)> {
        let text = tokio::fs::read_to_string(&self.path).await.ok()?;
        match NodeConfig::from_yaml(&text, &self.path.display().to_string()) {
            Ok(config) if config.name == *node => Some((config, self.read_passwords().await)),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "the NodeConfig that was in force last can't be read");
                None
            }
        }
    }

    async fn read_passwords(&self) -> Known {
        let Ok(text) = tokio::fs::read_to_string(&self.passwords).await else { return Known::new() };
        known(&text).unwrap_or_else(|| {
            // What is wrong with it might quote it.
            tracing::warn!(path = %self.passwords.display(), "the passwords that were in force last can't be read");
            Known::new()
        })
    }

    /// Old or new, never half: the files are replaced.
    pub(super) async fn write(&self, config: &NodeConfig) {
        let (manifest, kept) = (Manifest::from(config), kept(&of_secrets(config)));
        let (path, passwords) = (self.path.clone(), self.passwords.clone());
        let write = move || {
            if kept.is_empty() {
                remove(&passwords)?;
            } else {
                replace(&passwords, &kept)?;
            }
            replace(&path, &manifest)
        };
        let written = tokio::task::spawn_blocking(write).await;
        if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::warn!(
                path = %self.path.display(), %error,
                "the NodeConfig can't be kept for a start while the API server is away"
            );
        }
    }
}

fn kept(known: &Known) -> Vec<Kept> {
    let secrets = known.iter().filter_map(|(reference, password)| match reference {
        PasswordReference::Secret { name, key } => Some((name.clone(), key.clone(), password)),
        PasswordReference::File(_) => None,
    });
    secrets
        .map(|(secret, key, password)| Kept { secret, key, password: password.reveal().to_owned() })
        .collect()
}

fn known(text: &str) -> Option<Known> {
    let kept: Vec<Kept> = serde_json::from_str(text).ok()?;
    let known = kept.into_iter().map(|Kept { secret, key, password }| {
        Some((PasswordReference::Secret { name: secret, key }, Password::new(password).ok()?))
    });
    known.collect()
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// With mode 0600, as temporary files have it.
pub(super) fn replace(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(content)?;
    text.push(b'\n');
    replace_by(path, &text)
}

/// The same with what is there already as it is to be written.
pub(super) fn replace_by(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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
        assert_eq!(remembered.read(&node).await, Some((config("host001"), Known::new())));
        assert_eq!(directory.path().read_dir().unwrap().count(), 1, "something else was left there");
    }

    /// With a password of a Secret, and one of a file.
    fn with_passwords() -> NodeConfig {
        let manifest = "{apiVersion: flock.fritzlab.net/v1alpha1, kind: NodeConfig, metadata: {name: host001}, \
            spec: {cidr4: 10.0.1.0/24, bgp: {asn: 64512, peers: [\
            {name: a, address: 192.0.2.1, asn: 64500, passwordSecret: {name: bgp, key: tor}}, \
            {name: b, address: 192.0.2.2, asn: 64500, passwordFile: /password}]}}}";
        NodeConfig::from_yaml(manifest, "test").unwrap()
    }

    #[tokio::test]
    async fn passwords_of_secrets_are_kept_for_the_owner_alone_while_there_are_some() {
        let directory = tempfile::tempdir().unwrap();
        let remembered = Remembered::new(directory.path());
        let node = NodeName::new("host001").unwrap();
        let geheim = Password::new("geheim").unwrap();
        remembered.write(&with_passwords().with_passwords(|_| Ok(geheim.clone()))).await;
        let secret = PasswordReference::Secret { name: "bgp".to_owned(), key: "tor".to_owned() };
        let known = Known::from([(secret, geheim)]);
        assert_eq!(remembered.read(&node).await, Some((with_passwords(), known)));
        let mode = std::fs::metadata(&remembered.passwords).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600, "{mode:o}");
        // As it is, where it is damaged.
        std::fs::write(&remembered.passwords, "[{").unwrap();
        assert_eq!(remembered.read(&node).await, Some((with_passwords(), Known::new())));
        for _ in 0..2 {
            remembered.write(&config("host001")).await;
            assert!(!remembered.passwords.exists());
        }
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
