//! What the agent of a node does as a member of a cluster, without the network: it follows the
//! NodeConfig and the pods of a node, and says how things are.
//!
//! `KUBECONFIG=… cargo run -p flock-k8s --example member -- NODE [STARTUP-TAINT]`

use std::io::{self, Write};

use flock_core::annotations::Annotations;
use flock_core::name::NodeName;
use flock_core::pods::{PodRef, PodSource, PodState};
use flock_k8s::events::{Event, Severity};
use flock_k8s::node_config::{NodeConfigState, Status};
use flock_k8s::{Cluster, Readiness};
use futures_util::StreamExt;

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let node = std::env::args().nth(1).ok_or("found no argument, expected the name of a node")?;
    let node = NodeName::new(node)?;
    let cluster = Cluster::connect(node.clone()).await?;
    let (mut config, pods, events) = (cluster.node_config(), cluster.pods(), cluster.events());
    let (status, condition) = (cluster.node_config_status(), cluster.node(std::env::args().nth(2)));
    let mut changes = pods.changes();
    loop {
        tokio::select! {
            state = config.changed() => {
                say(format_args!("NodeConfig {node}: {state:?}"))?;
                let (uid, generation, readiness) = match state {
                    NodeConfigState::Valid { uid, generation, .. } => (uid, generation, readiness(true, "InForce", "pods get their addresses")),
                    NodeConfigState::Invalid { uid, generation, error } => {
                        let event = Event { severity: Severity::Warning, reason: "Invalid", message: error.to_string() };
                        events.node_config(&node, &uid, event);
                        (uid, generation, readiness(false, "Invalid", &error.to_string()))
                    }
                    NodeConfigState::Missing | NodeConfigState::Unknown => {
                        condition.publish(readiness(false, "NoNodeConfig", "the node has no NodeConfig"));
                        continue;
                    }
                };
                condition.publish(readiness.clone());
                status.publish(Status { uid, generation, readiness, usage: Vec::new(), bgp: None });
            }
            change = changes.next() => {
                say(format_args!("{change:?}"))?;
                let Some(change) = change.filter(|change| change.state != PodState::Terminating) else { continue };
                let wanted = PodRef { key: change.pod, uid: change.uid };
                let Ok(pod) = pods.pod(&wanted, std::time::Instant::now()).await else { continue };
                if let Err(error) = Annotations::parse(&pod.annotations) {
                    let event = Event { severity: Severity::Warning, reason: "InvalidAnnotation", message: error.to_string() };
                    events.pod(&wanted.key, pod.uid.as_deref(), event);
                }
            }
        }
    }
}

fn readiness(ready: bool, reason: &str, message: &str) -> Readiness {
    Readiness { ready, reason: reason.to_owned(), message: message.to_owned() }
}

fn say(what: std::fmt::Arguments) -> io::Result<()> {
    writeln!(io::stdout(), "{what}")
}
