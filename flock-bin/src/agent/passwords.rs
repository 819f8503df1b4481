//! The passwords that the peers of a NodeConfig name, found where they are kept: [`Passwords`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flock_core::node_config::{NodeConfig, Password, PasswordReference};
use flock_k8s::secrets::{Secret, SecretError, Secrets};
use tokio::time::timeout;

use crate::agent::files;

/// How long the API server is waited for.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

const UNKNOWN: &str = "the API server does not answer, and none is remembered; it is asked again";

/// Passwords that were found, by where they are kept.
pub(super) type Known = BTreeMap<PasswordReference, Password>;

/// What the API server says of Secrets, by their names.
type Seen = BTreeMap<String, Result<Secret, SecretError>>;

/// Those that `config` has. Files are on the node, and are read whenever they are needed.
pub(super) fn of_secrets(config: &NodeConfig) -> Known {
    let peers = config.bgp.iter().flat_map(|bgp| &bgp.peers);
    peers
        .filter_map(|peer| Some((peer.password_reference.clone()?, peer.password.clone()?)))
        .filter(|(reference, _)| matches!(reference, PasswordReference::Secret { .. }))
        .collect()
}

/// Finds passwords in Secrets and in files. The API server is asked only where a peer names a Secret.
#[derive(Debug)]
pub(super) struct Passwords {
    secrets: Secrets,
    /// Whether it was said that Secrets can't be looked at.
    is_away: bool,
}

impl Passwords {
    pub(super) fn new(secrets: Secrets) -> Self {
        Self { secrets, is_away: false }
    }

    /// `config` with its peers' passwords as they are now. Where the API server does not answer they
    /// are those of `known`. A peer whose password can't be had is refused.
    pub(super) async fn resolve(&mut self, config: NodeConfig, known: &Known) -> NodeConfig {
        let seen = self.look(&config).await;
        self.give(config, &seen, known)
    }

    /// The same, as if the API server did not answer.
    pub(super) fn recall(&self, config: NodeConfig, known: &Known) -> NodeConfig {
        self.give(config, &Seen::new(), known)
    }

    /// Asks for each Secret once, and for no more of them once there is no answer.
    async fn look(&mut self, config: &NodeConfig) -> Seen {
        let names: BTreeSet<&str> = config
            .password_references()
            .into_iter()
            .filter_map(|reference| match reference {
                PasswordReference::Secret { name, .. } => Some(name.as_str()),
                PasswordReference::File(_) => None,
            })
            .collect();
        let (mut seen, mut away) = (Seen::new(), None);
        for name in &names {
            match self.read(name).await {
                Err(SecretError::Unavailable(reason)) => {
                    away = Some(reason);
                    break;
                }
                read => seen.insert((*name).to_owned(), read),
            };
        }
        if !names.is_empty() {
            self.say(away.as_deref());
        }
        seen
    }

    fn give(&self, config: NodeConfig, seen: &Seen, known: &Known) -> NodeConfig {
        config.with_passwords(|reference| match reference {
            PasswordReference::File(path) => files::password_of(path),
            PasswordReference::Secret { name, key } => match seen.get(name) {
                Some(Ok(secret)) => self.taken(secret, key),
                Some(Err(error)) => Err(error.to_string()),
                // Why not is another thing each time, which is to be no change of the NodeConfig.
                None => known.get(reference).cloned().ok_or_else(|| UNKNOWN.to_owned()),
            },
        })
    }

    async fn read(&self, name: &str) -> Result<Secret, SecretError> {
        let silence = || SecretError::Unavailable(format!("no answer within {} s", ANSWER_WAIT.as_secs()));
        timeout(ANSWER_WAIT, self.secrets.read(name)).await.unwrap_or_else(|_| Err(silence()))
    }

    /// As a value of a Secret is a file where it is mounted, one line's end is cut off here too.
    fn taken(&self, secret: &Secret, key: &str) -> Result<Password, String> {
        let value = secret.value(key).ok_or_else(|| {
            let namespace = self.secrets.namespace();
            format!("the Secret in the namespace {namespace} has no such key; add it, or name another one")
        })?;
        let text = std::str::from_utf8(value).map_err(|_| "it is no text".to_owned())?;
        files::password_in(text)
    }

    /// Once when it begins and once when it ends.
    fn say(&mut self, away: Option<&str>) {
        match away {
            Some(error) if !self.is_away => {
                tracing::warn!(
                    error,
                    "Secrets can't be looked at; BGP peers keep the passwords that they have"
                );
            }
            None if self.is_away => tracing::info!("Secrets can be looked at again"),
            _ => {}
        }
        self.is_away = away.is_some();
    }
}
