//! NodeConfig and pods from files on this machine.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flock_core::handler::Handler;
use flock_core::name::NodeName;
use flock_core::node_config::{NodeConfig, Password, PasswordReference};
use flock_core::pods::{PodDirectory, PodSource};
use tokio::time::{MissedTickBehavior, interval};

use crate::agent::pods::PlainPods;
use crate::agent::{AgentError, NODE_CONFIG_WAIT};

/// How often it is looked whether the file is there.
const POLL: Duration = Duration::from_millis(200);

/// How often it is looked whether the file, or a password that it names, has changed.
const FOLLOW: Duration = Duration::from_secs(1);

/// Reads the NodeConfig of `node`, waiting for the file to appear.
pub(super) async fn node_config(node: &NodeName, path: &Path) -> Result<NodeConfig, AgentError> {
    let deadline = tokio::time::Instant::now() + NODE_CONFIG_WAIT;
    let mut told = false;
    let text = loop {
        match tokio::fs::read_to_string(path).await {
            Ok(text) => break text,
            Err(reason) if tokio::time::Instant::now() >= deadline => {
                return Err(AgentError::NoNodeConfig { node: node.clone(), path: path.to_owned(), reason });
            }
            Err(error) => {
                if !told {
                    tracing::warn!(path = %path.display(), %error, "waiting for the NodeConfig");
                    told = true;
                }
                tokio::time::sleep(POLL).await;
            }
        }
    };
    read(node, path, &text)
}

/// Puts each change of the file in force, for ever. One that can't be used changes nothing, nor does
/// a file that is away.
pub(super) async fn follow(node: NodeName, path: PathBuf, handler: Arc<Handler>) {
    let mut told = None;
    // One that is only half in force is tried again.
    let mut half = false;
    let mut round = interval(FOLLOW);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        round.tick().await;
        let problem = look(&node, &path, &handler, &mut half).await.err();
        if let Some(error) = problem.as_ref().filter(|_| problem != told) {
            tracing::error!(error, "the changed NodeConfig is not in force; what was in force stays");
        }
        told = problem;
    }
}

async fn look(node: &NodeName, path: &Path, handler: &Handler, half: &mut bool) -> Result<(), String> {
    let text = tokio::fs::read_to_string(path).await;
    let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
    let config = read(node, path, &text).map_err(|error| error.to_string())?;
    if *half || config != handler.node_config() {
        *half = true;
        handler.reconfigure(config).await.map_err(|error| error.to_string())?;
        *half = false;
        tracing::info!("the changed NodeConfig is in force");
    }
    Ok(())
}

fn read(node: &NodeName, path: &Path, text: &str) -> Result<NodeConfig, AgentError> {
    let config = NodeConfig::from_yaml(text, &path.display().to_string())?;
    if config.name != *node {
        return Err(AgentError::OtherNode {
            expected: node.clone(),
            found: config.name,
            path: path.to_owned(),
        });
    }
    Ok(config.with_passwords(password))
}

fn password(reference: &PasswordReference) -> Result<Password, String> {
    match reference {
        PasswordReference::File(path) => password_of(path),
        PasswordReference::Secret { .. } => {
            Err("with --source files there is no cluster to ask; set passwordFile instead".to_owned())
        }
    }
}

/// What a file holds that a NodeConfig names.
pub(super) fn password_of(path: &Path) -> Result<Password, String> {
    // Looked at first, since opening a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(|error| error.to_string())?.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mode = file.metadata().map_err(|error| error.to_string())?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "its mode is {mode:04o}, so that others than its owner can read or change it; `chmod 0600` it, \
             and take another password if somebody may have seen this one"
        ));
    }
    let mut text = String::new();
    // More than any password has, and not more than that of what was named by mistake.
    file.take(1_024).read_to_string(&mut text).map_err(|error| error.to_string())?;
    password_in(&text)
}

/// With one line's end cut off, as editors leave it.
pub(super) fn password_in(text: &str) -> Result<Password, String> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    Password::new(line).map_err(|error| error.to_string())
}

/// The pods of a directory of manifests, or such without annotations.
pub(super) fn pods(directory: Option<&Path>) -> Arc<dyn PodSource> {
    match directory {
        Some(directory) => Arc::new(PodDirectory::new(directory)),
        None => Arc::new(PlainPods),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use flock_core::clock::ManualClock;
    use flock_core::dataplane::MemoryDataplane;
    use flock_core::handler::{Backends, Settings};

    use super::*;
    use crate::agent::in_memory;

    /// What is read of a file with this content and mode.
    fn read(content: &[u8], mode: u32) -> Result<Password, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        password(&PasswordReference::File(path))
    }

    #[test]
    fn one_end_of_a_line_is_no_part_of_a_password() {
        for (content, expected) in [("geheim", "geheim"), ("geheim\n", "geheim"), (" a b \n", " a b ")] {
            for mode in [0o600, 0o400] {
                assert_eq!(read(content.as_bytes(), mode).unwrap().reveal(), expected);
            }
        }
        assert!(read(b"geheim\n\n", 0o600).unwrap_err().contains("character 7"));
        assert!(read(b"", 0o600).unwrap_err().contains("empty"));
        assert!(read(&[b'x'; 2_000], 0o600).unwrap_err().contains("at most 80"));
        assert!(read(&[0xff], 0o600).is_err());
    }

    #[test]
    fn what_others_can_read_is_no_password() {
        for mode in [0o640, 0o604, 0o620, 0o601] {
            let refused = read(b"geheim", mode).unwrap_err();
            assert!(
                refused.contains(&format!("its mode is 0{mode:o}")) && refused.contains("chmod 0600"),
                "{refused}"
            );
            assert!(!refused.contains("geheim"), "{refused}");
        }
    }

    #[test]
    fn what_is_not_there_is_said_with_what_to_do() {
        let file = |path: &str| password(&PasswordReference::File(path.into()));
        assert!(file("/nonexistent/password").unwrap_err().contains("No such file"));
        assert_eq!(file("/").unwrap_err(), "it is no regular file");
        let secret = PasswordReference::Secret { name: "bgp".to_owned(), key: "tor".to_owned() };
        assert!(password(&secret).unwrap_err().contains("set passwordFile instead"));
    }

    #[tokio::test]
    async fn a_peer_whose_password_is_missing_is_refused_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.yaml");
        fs::write(
            &path,
            "apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: {name: host001}
spec:
  cidr4: 10.0.1.0/24
  bgp:
    asn: 64512
    peers:
    - {name: tor1, address: 192.0.2.1, asn: 64500, passwordFile: /nonexistent}
    - {name: tor2, address: 192.0.2.2, asn: 64500}
",
        )
        .unwrap();
        let config = node_config(&NodeName::new("host001").unwrap(), &path).await.unwrap();
        let bgp = config.bgp.unwrap();
        assert_eq!(bgp.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["tor2"]);
        assert!(bgp.refused[0].to_string().starts_with("peer tor1: the password can't be had from the file"));
    }

    /// A node whose kernel refuses something in the middle of it.
    #[tokio::test(start_paused = true)]
    async fn a_changed_nodeconfig_that_is_half_in_force_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.yaml");
        let node = NodeName::new("host001").unwrap();
        let write = |cidr| {
            let text = format!(
                "{{apiVersion: flock.fritzlab.net/v1alpha1, kind: NodeConfig, metadata: {{name: host001}}, \
                 spec: {{cidr4: {cidr}}}}}"
            );
            fs::write(&path, text).unwrap();
        };
        write("10.0.1.0/24");
        let dataplane = Arc::new(MemoryDataplane::new());
        let in_memory = in_memory::backends(Arc::new(ManualClock::new()));
        let backends = Backends { dataplane: dataplane.clone(), ..in_memory };
        let config = node_config(&node, &path).await.unwrap();
        let handler = Arc::new(Handler::new(backends, config, Settings::new("boot-1")));
        handler.recover(&[]).await.unwrap();
        handler.publish().await.unwrap();
        write("10.0.2.0/24");
        // The settings are made, the summaries are not.
        dataplane.fail_call(2);
        let summaries = BTreeSet::from(["10.0.2.0/24".parse().unwrap()]);
        let reached = async {
            while dataplane.summaries() != summaries {
                tokio::time::sleep(FOLLOW).await;
            }
        };
        tokio::select! {
            () = reached => {}
            () = follow(node, path.clone(), Arc::clone(&handler)) => unreachable!("it never ends"),
            () = tokio::time::sleep(Duration::from_secs(60)) => {
                panic!("{:?} are there, expected {summaries:?}", dataplane.summaries());
            }
        }
    }
}
