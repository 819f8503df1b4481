//! The NodeConfig custom resource: its definition, the watch of one of them, and its status.

mod bgp;
mod resource;
mod sessions;
mod status;
mod watch;

pub use self::bgp::{
    AttributesSpec, BfdSpec, BgpSpec, ExportSpec, GracefulRestartSpec, LongLivedSpec, MaxPrefixesSpec,
    PasswordSecret, PeerEntry, PeerSpec,
};
pub use self::resource::{AddressesStatus, NodeConfig, NodeConfigSpec, NodeConfigStatus, PrefixStatus};
pub use self::sessions::{BgpStatus, DrainStatus, PeerStatus, RoutesStatus};
pub use self::status::{Status, StatusWriter};
pub use self::watch::{NodeConfigState, NodeConfigWatch};

/// Where the API server has them.
const PATH: &str = "/apis/flock.fritzlab.net/v1alpha1/nodeconfigs";

/// The definition of the custom resource, to be applied to a cluster before everything else.
///
/// Kubernetes 1.20 and later take it: it has no rules in CEL, which came later.
pub fn definition()
-> k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition {
    <NodeConfig as kube::CustomResourceExt>::crd()
}
