//! The domain of Flock, a Kubernetes CNI that routes.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod annotations;
pub mod announcer;
pub mod attachment;
pub mod client;
pub mod clock;
pub mod cni;
pub mod dataplane;
pub mod frame;
pub mod ipam;
pub mod name;
pub mod node_config;
pub mod pods;
pub mod retry;
pub mod server;
pub mod store;
