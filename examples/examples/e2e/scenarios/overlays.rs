//! The overlays of the manifests: on labelled nodes only, and with a startup taint.

use flock_examples::Result;
use flock_examples::cluster::Cluster;
use flock_examples::deadline::{Probe, until};
use flock_examples::screen::Screen;
use serde_json::Value;

use crate::flock::{Part, SOON};
use crate::pod::{END, Pod, Wanted};
use crate::{Lab, Step};

const TAINT: &str = "flock.fritzlab.net/agent-not-ready";
const LABEL: &str = "flock.fritzlab.net/cni";
/// The node that has what the other one has not.
const NODE: &str = "node1";

pub(crate) fn play(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let Lab { cluster, manifests, .. } = lab;
    screen.step("the startup taint", || {
        cluster.kubectl(&["taint", "node", NODE, &format!("{TAINT}=:NoSchedule")])?;
        Wanted::new("early").on(NODE).create(cluster)?;
        until("the scheduler to say that the taint keeps a pod away", SOON, || {
            let pod = cluster.api().get("/api/v1/namespaces/default/pods/early")?;
            let said = pod["status"]["conditions"].to_string();
            Ok(if said.contains(TAINT) { Probe::Done(()) } else { Probe::Waiting(said) })
        })?;
        manifests.kubectl(cluster, "apply", "overlays/startup-taint")?;
        Part::Agent.rolled_out(cluster)?;
        until(&format!("the taint of {NODE} to be gone"), SOON, || {
            let taints = taints(cluster)?.to_string();
            Ok(if taints.contains(TAINT) { Probe::Waiting(taints) } else { Probe::Done(()) })
        })?;
        Pod::ready(cluster, "early")?;
        Ok(((), "overlays/startup-taint: the taint keeps pods away until the agent removes it".to_owned()))
    })?;
    screen.step("labelled nodes", || {
        cluster.kubectl(&["label", "node", NODE, &format!("{LABEL}=flock")])?;
        manifests.kubectl(cluster, "apply", "overlays/node-label")?;
        for part in [Part::Agent, Part::Bird] {
            runs_on(cluster, part, &[NODE])?;
        }
        Ok(((), format!("overlays/node-label: agent and BIRD are on {NODE}, which is labelled, only")))
    })?;
    screen.step("the base again", || {
        manifests.kubectl(cluster, "apply", "base")?;
        for part in [Part::Agent, Part::Bird] {
            runs_on(cluster, part, &["node1", "node2"])?;
            part.rolled_out(cluster)?;
        }
        for kind in ["clusterrolebinding", "clusterrole"] {
            cluster.kubectl(&["delete", kind, "flock-startup-taint"])?;
        }
        cluster.kubectl(&["label", "node", NODE, &format!("{LABEL}-")])?;
        Ok(((), "and with deploy/base on both again".to_owned()))
    })
}

fn taints(cluster: &Cluster) -> Result<Value> {
    Ok(cluster.api().get(&format!("/api/v1/nodes/{NODE}"))?["spec"]["taints"].take())
}

/// Waits until a part is ready on these nodes, and nowhere else.
fn runs_on(cluster: &Cluster, part: Part, nodes: &[&str]) -> Result<()> {
    until(&format!("{} to be on {nodes:?} only", part.daemon_set()), END, || {
        let pods = part.pods(cluster)?;
        let mut found: Vec<&str> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
        found.sort_unstable();
        Ok(if found == nodes { Probe::Done(()) } else { Probe::Waiting(format!("{found:?}")) })
    })?;
    part.ready(cluster, nodes.len())
}
