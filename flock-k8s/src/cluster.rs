//! The way to the API server, [`Cluster`].

use std::env;
use std::fmt;
use std::time::Duration;

use flock_core::annotations;
use flock_core::name::NodeName;
use kube::Client;
use kube::config::{Config, InClusterError, KubeConfigOptions, KubeconfigError};

use crate::deadline::with_deadline;
use crate::events::Events;
use crate::node::{LeavingWatch, NodeWriter};
use crate::node_config::{NodeConfigWatch, StatusWriter};
use crate::pods::KubePods;
use crate::secrets::Secrets;

/// An address that nobody answers from is given up after this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The API server, as seen by the agent of one node.
///
/// A clone is another handle to the same connections.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    node: NodeName,
}

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// In a pod, but its service account is not there.
    #[error(
        "this pod's service account can't be used: {0}; expected a token and a certificate in \
         /var/run/secrets/kubernetes.io/serviceaccount, see automountServiceAccountToken"
    )]
    ServiceAccount(#[source] InClusterError),
    /// Not in a pod, and no kubeconfig.
    #[error(
        "this is no pod (KUBERNETES_SERVICE_HOST is not set) and the kubeconfig can't be used: {0}; \
         name one with KUBECONFIG"
    )]
    Kubeconfig(#[source] KubeconfigError),
    /// What they say can't be used.
    #[error("no client can be made of the configuration for the API server: {}", crate::error::words(.0))]
    Client(#[source] kube::Error),
}

impl Cluster {
    /// As the service account of the pod that this runs in, or else as the kubeconfig says
    /// (`$KUBECONFIG`, `~/.kube/config`).
    ///
    /// Asks the API server nothing, so it also succeeds while that is away. The service
    /// account's token and the certificate authority are read again at least once a minute,
    /// so both may rotate.
    pub async fn connect(node: NodeName) -> Result<Self, ClusterError> {
        let config = if env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            Config::incluster().map_err(ClusterError::ServiceAccount)?
        } else {
            Config::from_kubeconfig(&KubeConfigOptions::default()).await.map_err(ClusterError::Kubeconfig)?
        };
        Self::configured(config, node)
    }

    /// As `config` says, but for how patient the client is. Must be called within a tokio runtime.
    pub fn configured(mut config: Config, node: NodeName) -> Result<Self, ClusterError> {
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // The client's own way is to try again for minutes and to say nothing meanwhile.
        config.default_retry = false;
        Ok(Self::new(Client::try_from(config).map_err(ClusterError::Client)?, node))
    }

    /// With a client that is there already. It should not repeat requests by itself
    /// ([`Config::default_retry`]), so that whoever waits is told what the API server says. An
    /// answer that is not there in time is given up, whatever the client does.
    ///
    /// Must be called within a tokio runtime.
    pub fn new(client: Client, node: NodeName) -> Self {
        Self { client: with_deadline(client), node }
    }

    /// The pods of this node, with their annotations of Flock and no others.
    ///
    /// Must be called within a tokio runtime: it starts a task, which ends when the
    /// answer is dropped.
    pub fn pods(&self) -> KubePods {
        self.pods_keeping(|key| key.starts_with(annotations::PREFIX))
    }

    /// Like [`pods`](Self::pods), with the annotations whose keys `keep` accepts.
    pub fn pods_keeping(&self, keep: impl Fn(&str) -> bool + Send + 'static) -> KubePods {
        KubePods::start(self.client.clone(), &self.node, Box::new(keep))
    }

    /// The NodeConfig of this node, which is the one that has its name.
    ///
    /// Must be called within a tokio runtime: it starts a task, which ends when the
    /// answer and all its clones are dropped.
    pub fn node_config(&self) -> NodeConfigWatch {
        NodeConfigWatch::start(self.client.clone(), self.node.clone())
    }

    /// Writes the status of the node's NodeConfig.
    ///
    /// Must be called within a tokio runtime: it starts a task, which ends when the
    /// answer and all its clones are dropped. So do [`node`](Self::node) and
    /// [`events`](Self::events). Each of them is to be called once.
    pub fn node_config_status(&self) -> StatusWriter {
        StatusWriter::start(self.client.clone(), &self.node)
    }

    /// Tells the cluster whether the node is ready for pods. The taint with the key
    /// `startup_taint` is removed once it is.
    pub fn node(&self, startup_taint: Option<String>) -> NodeWriter {
        NodeWriter::start(self.client.clone(), &self.node, startup_taint)
    }

    /// Whether the node is cordoned or shut down, as its Node object says.
    ///
    /// Must be called within a tokio runtime: it starts a task, which ends when the
    /// answer and all its clones are dropped.
    pub fn leaving(&self) -> LeavingWatch {
        LeavingWatch::start(self.client.clone(), self.node.clone())
    }

    /// Reads Secrets of the agent's own namespace.
    pub fn secrets(&self) -> Secrets {
        Secrets::new(self.client.clone())
    }

    /// Says what happened to pods and to the NodeConfig.
    pub fn events(&self) -> Events {
        Events::start(self.client.clone(), self.node.clone())
    }

    /// The node's name.
    pub fn node_name(&self) -> &NodeName {
        &self.node
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("node", &self.node).finish_non_exhaustive()
    }
}
