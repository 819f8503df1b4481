//! A node that leaves the network in order: by a cordon, and when it shuts down.

use std::fs;

use flock_examples::Result;
use flock_examples::cluster::Cluster;
use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::Plan;
use flock_examples::screen::Screen;
use serde_json::{Value, json};

use crate::flock::{NAMESPACE, Part, SESSIONS, SOON, node_config, patch_node_config, sessions};
use crate::scenarios::seen::expect;
use crate::{Lab, Step};

/// The node that it is about.
const NODE: &str = "node1";
const NODE_PATH: &str = "/api/v1/nodes/node1";
const DRAIN_TIME: u32 = 3;

pub(crate) fn play(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let cluster = &lab.cluster;
    let before = sessions(cluster);
    screen.step("a cordon without more", || {
        patch_node_config(cluster, NODE, &json!({"spec": {"bgp": {"drainTime": DRAIN_TIME}}}))?;
        cluster.kubectl(&["cordon", NODE])?;
        cluster.kubectl(&["annotate", "node", NODE, "flock.fritzlab.net/drain-on-cordon=true"])?;
        until_seen(cluster, Seen::Marked, || Ok(()))?;
        until_state(cluster, &json!({"state": "Marked", "reasons": ["Cordon"]}))?;
        Ok(((), "cordoned, with the annotation: its routes carry GRACEFUL_SHUTDOWN".to_owned()))
    })?;
    screen.step("the time of the drain", || {
        until_seen(cluster, Seen::Nothing, || Ok(()))?;
        until_state(cluster, &json!({"state": "Withdrawn", "reasons": ["Cordon"]}))?;
        Ok(((), format!("after {DRAIN_TIME} s the router has nothing of it; the status says Withdrawn")))
    })?;
    screen.step("the end of the cordon", || {
        cluster.kubectl(&["uncordon", NODE])?;
        until_seen(cluster, Seen::Usual, || Ok(()))?;
        until_state(cluster, &Value::Null)?;
        let (before, after) = (before?, sessions(cluster)?);
        expect(before == after && after.len() == SESSIONS, || {
            format!("the sessions were {before:?} and are {after:?}")
        })?;
        Ok(((), "uncordoned: everything is announced, all without a restart of a session".to_owned()))
    })?;
    screen.step("BIRD's pod ends while the node shuts down", || {
        let (pod, goodbyes) = (Part::Bird.pod_on(cluster, NODE)?, goodbyes(cluster)?);
        // The kubelet, which knows better, says otherwise every ten seconds.
        shut_down(cluster)?;
        cluster.kubectl(&["-n", NAMESPACE, "delete", "pod", &pod, "--wait=false"])?;
        until_seen(cluster, Seen::Marked, || shut_down(cluster))?;
        let at_mark = self::goodbyes(cluster)?;
        expect(at_mark == goodbyes, || "BIRD said goodbye before everything was withdrawn".to_owned())?;
        until_seen(cluster, Seen::Nothing, || shut_down(cluster))?;
        until("BIRD's goodbye", SOON, || {
            shut_down(cluster)?;
            let now = self::goodbyes(cluster)?;
            Ok(if now > goodbyes {
                Probe::Done(())
            } else {
                Probe::Waiting(format!("{now}, before {goodbyes}"))
            })
        })?;
        Ok(((), "as it shuts down: marked, withdrawn, and only then does its BIRD say goodbye".to_owned()))
    })?;
    screen.step("a shutdown that was called off", || {
        until_seen(cluster, Seen::Usual, || Ok(()))?;
        Part::Bird.ready(cluster, cluster.machines.len())?;
        cluster.kubectl(&["annotate", "node", NODE, "flock.fritzlab.net/drain-on-cordon-"])?;
        patch_node_config(cluster, NODE, &json!({"spec": {"bgp": {"drainTime": null}}}))?;
        Ok(((), "the kubelet says that it is ready: everything is announced again".to_owned()))
    })
}

/// What the router's table has of the node's summaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Usual,
    Marked,
    Nothing,
}

fn until_seen(cluster: &Cluster, expected: Seen, mut meanwhile: impl FnMut() -> Result<()>) -> Result<()> {
    let plan = Plan::new(1);
    until(&format!("{expected:?} of {NODE} in the router's table"), SOON, || {
        meanwhile()?;
        let all = cluster.router.bird.query("show route")?;
        let marked = cluster.router.bird.query("show route where bgp_community ~ [(65535, 0)]")?;
        let has = |table: &str| [plan.cidr6(), plan.cidr4()].map(|prefix| table.contains(&prefix));
        let seen = match (has(&all), has(&marked)) {
            ([false, false], _) => Some(Seen::Nothing),
            ([true, true], [true, true]) => Some(Seen::Marked),
            ([true, true], [false, false]) => Some(Seen::Usual),
            _ => None,
        };
        Ok(if seen == Some(expected) { Probe::Done(()) } else { Probe::Waiting(all) })
    })
}

/// Waits until the status of the NodeConfig says this of the drain, beside since when it is.
fn until_state(cluster: &Cluster, expected: &Value) -> Result<()> {
    until(&format!("the drain {expected} in the status"), SOON, || {
        let mut drain = node_config(cluster, NODE)?.pointer("/status/bgp/drain").cloned().unwrap_or_default();
        if let Some(drain) = drain.as_object_mut() {
            drain.remove("since");
        }
        Ok(if drain == *expected { Probe::Done(()) } else { Probe::Waiting(drain.to_string()) })
    })
}

/// How often the node's BIRD has ended a session in the router's log.
fn goodbyes(cluster: &Cluster) -> Result<usize> {
    let log = cluster.router.bird.log();
    let text = fs::read_to_string(log).map_err(flock_examples::LabError::file("read", log))?;
    Ok(text.lines().filter(|line| line.contains("node1_v6: Received:")).count())
}

/// Says of the node what its kubelet says while it shuts down.
fn shut_down(cluster: &Cluster) -> Result<()> {
    let mut node = cluster.api().get(NODE_PATH)?;
    for condition in node["status"]["conditions"].as_array_mut().into_iter().flatten() {
        if condition["type"] == "Ready" {
            if condition["status"] == "False" {
                return Ok(());
            }
            condition["status"] = "False".into();
            condition["reason"] = "KubeletNotReady".into();
            condition["message"] = "node is shutting down".into();
        }
    }
    let change = json!({"status": {"conditions": node["status"]["conditions"]}});
    cluster.api().patch(&format!("{NODE_PATH}/status"), &change).map(drop)
}
