//! Flock as a member of a Kubernetes cluster: what the agent of a node reads from the API server,
//! and what it writes there.
//!
//! Everything begins with a [`Cluster`].
//!
//! | | |
//! |---|---|
//! | [`Cluster::pods`] | a [`PodSource`](flock_core::pods::PodSource): the annotations of the node's pods, waiting for one that is not there yet, and their changes |
//! | [`Cluster::node_config`] | the NodeConfig of the node as it is now, [validated](flock_core::node_config::NodeConfig::from_manifest) |
//! | [`Cluster::node_config_status`] | what became of it, for people: conditions and addresses in use |
//! | [`Cluster::node`] | the node's condition `NetworkUnavailable`, and its startup taint |
//! | [`Cluster::leaving`] | whether the node is cordoned or shut down |
//! | [`Cluster::secrets`] | Secrets of the agent's own namespace |
//! | [`Cluster::events`] | what went wrong, where `kubectl describe` shows it |
//! | [`node_config::definition`] | the custom resource definition |
//!
//! # Example
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use flock_core::name::{NodeName, PodKey};
//! use flock_core::pods::{PodRef, PodSource};
//! use flock_k8s::Cluster;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # // An API server that has one pod, of which nothing changes.
//! # let client = kube::Client::new(tower::service_fn(|request: http::Request<kube::client::Body>| async move {
//! #     if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
//! #         std::future::pending::<()>().await;
//! #     }
//! #     let list = r#"{"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [{
//! #         "metadata": {"namespace": "default", "name": "web-0", "uid": "1", "resourceVersion": "1",
//! #             "annotations": {"flock.fritzlab.net/anycast": "2001:db8::53", "example.com/a": "b"}},
//! #         "spec": {"nodeName": "host001"}
//! #     }]}"#;
//! #     Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(list.as_bytes().to_vec())))
//! # }), "default");
//! let node = NodeName::new("host001")?;
//! // An agent: Cluster::connect(node).await?
//! let cluster = Cluster::new(client, node);
//! let pods = cluster.pods();
//! let wanted = PodRef { key: PodKey::new("default", "web-0")?, uid: None };
//! let pod = pods.pod(&wanted, Instant::now() + Duration::from_secs(30)).await?;
//! assert_eq!(pod.annotations["flock.fritzlab.net/anycast"], "2001:db8::53");
//! assert!(pods.health().synced);
//! # Ok(())
//! # }
//! ```
//!
//! # While the API server is away
//!
//! Nothing here ends or forgets. What was read stays known, what is to be written is kept (the
//! last status, the last condition, events for ten minutes), and attempts go on with pauses of up
//! to five seconds. What can't be answered says since when and why; [`WatchHealth`] says it too.
//! Each thing is logged once when it begins to fail and once when it works again.
//!
//! An answer that is not complete within 15 seconds is given up, and so is a watch whose connection
//! has gone dead, after about a minute. A watch goes on from where it was; everything is
//! listed again only where the API server no longer knows what happened since.
//!
//! The client of [`Cluster::connect`] repeats no request by itself. kube's own layers log each
//! failed request as an error: a program that logs should turn its targets `kube_client`,
//! `kube_runtime` and `tower` down.
//!
//! # Rights
//!
//! | API group | resource | verbs | for |
//! |---|---|---|---|
//! | | pods | list, watch | [`Cluster::pods`] |
//! | flock.fritzlab.net | nodeconfigs | list, watch | [`Cluster::node_config`], [`Cluster::node_config_status`] |
//! | flock.fritzlab.net | nodeconfigs/status | patch | [`Cluster::node_config_status`] |
//! | | nodes | get | [`Cluster::node`] |
//! | | nodes | list, watch | [`Cluster::leaving`] |
//! | | nodes/status | patch | [`Cluster::node`] |
//! | | nodes | patch | [`Cluster::node`], only with a startup taint |
//! | | secrets | get | [`Cluster::secrets`], in the agent's own namespace |
//! | | events | create, patch | [`Cluster::events`], in all namespaces |

mod backoff;
mod cluster;
mod deadline;
mod error;
pub mod events;
pub mod node;
pub mod node_config;
pub mod pods;
mod publisher;
mod readiness;
pub mod secrets;
mod task;
mod watch;

pub use cluster::{Cluster, ClusterError};
pub use readiness::Readiness;
pub use watch::WatchHealth;
