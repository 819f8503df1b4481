//! Flock as it is installed on a cluster: its manifests, its pods, its metrics.

use std::path::PathBuf;
use std::time::Duration;

use flock_examples::cluster::Cluster;
use flock_examples::cluster::machine::Machine;
use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::Plan;
use flock_examples::process::run;
use flock_examples::{LabError, Result};
use serde_json::Value;

use crate::http::{self, Answer};
use crate::pod::{condition, is_ready, selector};

/// Where it runs.
pub(crate) const NAMESPACE: &str = "flock-system";
const NODE_CONFIGS: &str = "/apis/flock.fritzlab.net/v1alpha1/nodeconfigs";
/// What the installer writes for the runtime.
pub(crate) const CONFLIST: &str = "/etc/cni/net.d/01-flock.conflist";
/// As BIRD's container has it.
pub(crate) const BIRD_SOCKET: &str = "/run/flock/bird.ctl";
/// Of the agent's probes and metrics.
pub(crate) const PORT: u16 = 9430;
/// For pods of a DaemonSet to be made or replaced on all nodes.
const ROLLOUT: Duration = Duration::from_secs(120);
/// For something that follows in a moment.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// Of the router: one of each family with each node.
pub(crate) const SESSIONS: usize = 4;

/// A part of Flock that is a DaemonSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Agent,
    Bird,
}

impl Part {
    pub(crate) fn daemon_set(self) -> &'static str {
        match self {
            Self::Agent => "flock-agent",
            Self::Bird => "flock-bird",
        }
    }

    fn component(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Bird => "bird",
        }
    }

    /// Its pods, all or those that are ready.
    pub(crate) fn pods(self, cluster: &Cluster) -> Result<Vec<Value>> {
        let labels = [("app.kubernetes.io/component", self.component())];
        cluster.api().list(&format!("/api/v1/namespaces/{NAMESPACE}/pods?{}", selector(&labels)))
    }

    /// The name of its pod on a node.
    pub(crate) fn pod_on(self, cluster: &Cluster, node: &str) -> Result<String> {
        let pods = self.pods(cluster)?;
        let found = pods
            .iter()
            .find(|pod| pod["spec"]["nodeName"] == node && pod["metadata"]["deletionTimestamp"].is_null());
        let name = found.and_then(|pod| pod["metadata"]["name"].as_str()).map(str::to_owned);
        name.ok_or_else(|| {
            LabError::Unexpected(format!("there is no pod of {} on {node}", self.daemon_set()))
        })
    }

    /// Which pods these are and how often their containers were started: the same as long as
    /// none was replaced or restarted.
    pub(crate) fn lives(self, cluster: &Cluster) -> Result<Vec<String>> {
        let pods = self.pods(cluster)?;
        let life = |pod: &Value| {
            let restarts = pod.pointer("/status/containerStatuses/0/restartCount");
            format!("{} {}", pod["metadata"]["uid"], restarts.unwrap_or(&Value::Null))
        };
        let mut lives: Vec<String> = pods.iter().map(life).collect();
        lives.sort();
        Ok(lives)
    }

    /// Waits until it is ready on this many nodes.
    pub(crate) fn ready(self, cluster: &Cluster, count: usize) -> Result<()> {
        until(&format!("{count} ready pods of {}", self.daemon_set()), ROLLOUT, || {
            let pods = self.pods(cluster)?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            let seen = || pods.iter().map(|pod| pod["status"].to_string()).collect::<Vec<_>>().join("\n");
            Ok(if ready == count { Probe::Done(()) } else { Probe::Waiting(seen()) })
        })
    }

    /// Makes its pods anew as for an upgrade, and waits until all are replaced.
    pub(crate) fn restart(self, cluster: &Cluster) -> Result<()> {
        let name = format!("daemonset/{}", self.daemon_set());
        cluster.kubectl(&["-n", NAMESPACE, "rollout", "restart", &name])?;
        self.rolled_out(cluster)
    }

    /// Waits until the pods are those of the DaemonSet as it is now.
    pub(crate) fn rolled_out(self, cluster: &Cluster) -> Result<()> {
        let limit = format!("--timeout={}s", ROLLOUT.as_secs());
        let name = format!("daemonset/{}", self.daemon_set());
        cluster.kubectl(&["-n", NAMESPACE, "rollout", "status", &limit, &name]).map(drop)
    }
}

/// What of Flock there is to be applied.
#[derive(Debug, Clone)]
pub(crate) struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// `kubectl VERB -k` of one of the directories.
    pub(crate) fn kubectl(&self, cluster: &Cluster, verb: &str, directory: &str) -> Result<String> {
        run(cluster.control.kubectl().args(verb.split(' ')).arg("-k").arg(self.dir.join(directory)))
    }
}

/// The NodeConfig of a node, as it is in the API.
pub(crate) fn node_config(cluster: &Cluster, node: &str) -> Result<Value> {
    cluster.api().get(&format!("{NODE_CONFIGS}/{node}"))
}

/// Changes the NodeConfig of a node by a merge patch.
pub(crate) fn patch_node_config(cluster: &Cluster, node: &str, change: &Value) -> Result<Value> {
    cluster.api().patch(&format!("{NODE_CONFIGS}/{node}"), change)
}

/// Applies the NodeConfig that belongs to the network of the cluster.
pub(crate) fn apply_node_config(cluster: &Cluster, plan: Plan) -> Result<()> {
    cluster.control.apply(&plan.node_config()).map(drop)
}

/// Waits until the agent of a node has put the NodeConfig in force as it is now.
pub(crate) fn in_force(cluster: &Cluster, node: &str) -> Result<()> {
    until(&format!("the NodeConfig {node} to be in force"), SOON, || {
        let config = node_config(cluster, node)?;
        let current = config.pointer("/status/observedGeneration") == config.pointer("/metadata/generation");
        let ready = condition(&config, "Ready").is_some_and(|ready| ready["status"] == "True");
        Ok(if current && ready { Probe::Done(()) } else { Probe::Waiting(config.to_string()) })
    })
}

/// What the agent of a node answers at `path`, as seen by the router.
pub(crate) fn ask_agent(cluster: &Cluster, machine: &Machine, path: &str) -> Result<Answer> {
    http::get(&cluster.router.netns, (machine.addresses[0], PORT), path, 5)
}

/// One value of what `/metrics` says, by the name and the labels in their order.
pub(crate) fn metric(text: &str, series: &str) -> Option<f64> {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    values.find_map(|value| value.trim().parse().ok())
}

/// What a node has for its pods: records, links and routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) records: Vec<String>,
    pub(crate) links: Vec<String>,
    pub(crate) routes: Vec<String>,
}

impl Holdings {
    pub(crate) fn of(machine: &Machine) -> Result<Self> {
        let links = machine.netns.ip(&["-brief", "link", "show"])?;
        let routes =
            machine.netns.ip(&["-4", "route", "show"])? + &machine.netns.ip(&["-6", "route", "show"])?;
        // A summary is the node's, and stays.
        let is_pods = |line: &&str| {
            line.contains("flock") || (line.contains("proto 70") && !line.starts_with("blackhole"))
        };
        let pods = |text: &str| -> Vec<String> {
            text.lines().filter(is_pods).map(|line| line.trim().to_owned()).collect()
        };
        Ok(Self {
            records: machine.names("/run/flock/attachments")?,
            links: pods(&links).iter().filter_map(|line| line.split('@').next().map(str::to_owned)).collect(),
            routes: pods(&routes),
        })
    }

    /// Waits until a node has these and no others.
    pub(crate) fn are_those_of(&self, machine: &Machine, limit: Duration) -> Result<()> {
        until(
            &format!("{} to hold these records, links and routes and no others", machine.name()),
            limit,
            || {
                let now = Self::of(machine)?;
                Ok(if now == *self {
                    Probe::Done(())
                } else {
                    Probe::Waiting(format!("{now:?}, expected {self:?}"))
                })
            },
        )
    }
}

/// The router's sessions with the time since which they are up.
pub(crate) fn sessions(cluster: &Cluster) -> Result<Vec<String>> {
    let said = cluster.router.bird.query("show protocols \"node*\"")?;
    let words = said.lines().map(|line| line.split_whitespace().take(6).collect::<Vec<_>>().join(" "));
    Ok(words.filter(|line| line.contains("Established")).collect())
}
