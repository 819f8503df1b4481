//! What Secrets hold: [`Secrets`].

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use kube::Client;
use kube::api::GetParams;
use kube::core::Request;
use serde::Deserialize;

use crate::error::words;

/// Reads Secrets of the agent's own namespace, which is that of its service account, or the one of
/// the kubeconfig's context. Made by [`Cluster::secrets`](crate::Cluster::secrets).
///
/// Nothing is asked before somebody asks for it, and nothing is kept.
#[derive(Clone)]
pub struct Secrets {
    client: Client,
}

/// What a Secret holds. It is shown nowhere: `Debug` says only that it is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    values: BTreeMap<String, Vec<u8>>,
}

/// Why a Secret is not known. No message has anything of what a Secret holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The API server has none of this name.
    #[error("there is no such Secret in the namespace {namespace}; create it, or name another one")]
    Missing {
        /// Where it was looked for.
        namespace: String,
    },
    /// The agent may not read it.
    #[error(
        "{answer}; the agent needs the right to get Secrets in the namespace {namespace}: apply the Role \
         flock-agent of deploy/base/rbac.yaml"
    )]
    Forbidden {
        /// What the API server says.
        answer: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// Nothing is known of it: the API server is away, or answers something else.
    #[error("{0}")]
    Unavailable(String),
}

impl Secrets {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Asks the API server for the Secret with this name. Cancel safe.
    pub async fn read(&self, name: &str) -> Result<Secret, SecretError> {
        let namespace = || self.namespace().to_owned();
        // Not parsed by the client, which logs what it can't parse.
        let answer = match self.ask(name).await {
            Ok(answer) => answer,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return Err(SecretError::Missing { namespace: namespace() });
            }
            Err(error) => {
                let answer = words(&error);
                return Err(match error {
                    kube::Error::Api(status) if status.code == 403 => {
                        SecretError::Forbidden { answer, namespace: namespace() }
                    }
                    _ => SecretError::Unavailable(answer),
                });
            }
        };
        let found: Found = serde_json::from_str(&answer)
            .map_err(|_| SecretError::Unavailable("the API server's answer is no Secret".to_owned()))?;
        let values = found.data.unwrap_or_default().into_iter();
        Ok(Secret { values: values.map(|(key, ByteString(value))| (key, value)).collect() })
    }

    async fn ask(&self, name: &str) -> Result<String, kube::Error> {
        let secrets = Request::new(format!("/api/v1/namespaces/{}/secrets", self.namespace()));
        let request = secrets.get(name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
        self.client.request_text(request).await
    }

    /// Where they are.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("namespace", &self.namespace()).finish_non_exhaustive()
    }
}

impl Secret {
    /// What stands under `key`, if something does.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key).map(Vec::as_slice)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A Secret, as much of it as is read.
#[derive(Deserialize)]
struct Found {
    #[serde(rename = "kind")]
    _kind: Kind,
    #[serde(default)]
    data: Option<BTreeMap<String, ByteString>>,
}

/// What answers for the API server, as a proxy may, is not taken for an empty Secret.
#[derive(Deserialize)]
enum Kind {
    Secret,
}
