//! From a cluster without a CNI to nodes that are ready for pods: what an operator does,
//! and what the operator is told where the NodeConfigs are forgotten.

use std::time::{Duration, Instant};

use flock_examples::Result;
use flock_examples::cluster::Cluster;
use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::Plan;
use flock_examples::screen::Screen;

use crate::flock::{Part, SESSIONS, SOON, apply_node_config, ask_agent};
use crate::pod::condition;
use crate::scenarios::seen::text;
use crate::{Lab, Step};

/// For images to be unpacked and daemons to start.
const START: Duration = Duration::from_secs(90);

pub(crate) fn play(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let Lab { cluster, manifests, measured, .. } = lab;
    screen.step("nodes without a network", || {
        for machine in &cluster.machines {
            node_condition(cluster, machine.name(), "Ready", ["False", "KubeletNotReady"])?;
        }
        Ok(((), "without a CNI the nodes are not Ready".to_owned()))
    })?;
    let start = Instant::now();
    screen.step("kubectl apply -k deploy/base", || {
        manifests.kubectl(cluster, "apply", "base")?;
        Ok(((), "kubectl apply -k deploy/base".to_owned()))
    })?;
    screen.step("what an agent without a NodeConfig says", || {
        Part::Bird.ready(cluster, 2)?;
        for machine in &cluster.machines {
            let wanted = machine.name();
            until(&format!("{wanted} to say that its NodeConfig is missing"), START, || {
                let answer = match ask_agent(cluster, machine, "/readyz") {
                    Ok(answer) => answer,
                    Err(error) => return Ok(Probe::Waiting(error.to_string())),
                };
                let named = answer.body.contains(&format!("NodeConfig {wanted}"));
                Ok(if !answer.good && named { Probe::Done(()) } else { Probe::Waiting(answer.body) })
            })?;
            let pod = Part::Agent.pod_on(cluster, wanted)?;
            until(&format!("the log of {pod} to name the NodeConfig {wanted}"), START, || {
                let said = cluster.kubectl(&["-n", "flock-system", "logs", &pod, "-c", "agent"])?;
                let named = said.lines().any(|line| line.contains("NodeConfig") && line.contains(wanted));
                Ok(if named { Probe::Done(()) } else { Probe::Waiting(said) })
            })?;
            node_condition(cluster, wanted, "NetworkUnavailable", ["True", "NodeConfigMissing"])?;
        }
        Ok(((), "without NodeConfigs the agents are not ready, and say which one is missing".to_owned()))
    })?;
    let applied = screen.step("NodeConfigs", || {
        let applied = Instant::now();
        for number in [1, 2] {
            apply_node_config(cluster, Plan::new(number))?;
        }
        Part::Agent.ready(cluster, 2)?;
        Ok((applied, "with them, the agents are ready for pods".to_owned()))
    })?;
    measured.add("NodeConfig applied to agents ready", format!("{:.1} s", applied.elapsed().as_secs_f64()));
    screen.step("nodes", || {
        cluster.ready(SOON)?;
        Ok(((), "both nodes are Ready".to_owned()))
    })?;
    screen.step("BGP sessions", || {
        cluster.router.bird.established(SESSIONS, SOON)?;
        Ok(((), format!("{SESSIONS} BGP sessions established, one of each family with each node")))
    })?;
    measured.add("manifests applied to BGP sessions up", format!("{:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

/// Waits until a node has a condition with this status and reason.
fn node_condition(cluster: &Cluster, node: &str, kind: &str, wanted: [&str; 2]) -> Result<()> {
    until(&format!("{node} to be {kind}: {wanted:?}"), SOON, || {
        let node = cluster.api().get(&format!("/api/v1/nodes/{node}"))?;
        let found = condition(&node, kind).cloned().unwrap_or_default();
        let same = ["/status", "/reason"].map(|part| text(&found, part)) == wanted;
        Ok(if same { Probe::Done(()) } else { Probe::Waiting(found.to_string()) })
    })
}
