//! What becomes of a NodeConfig that is wrong, and of one that changes while pods run.

use std::net::IpAddr;
use std::time::Duration;

use flock_examples::cluster::Cluster;
use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::Plan;
use flock_examples::screen::Screen;
use flock_examples::{LabError, Result};
use serde_json::{Value, json};

use crate::flock::{BIRD_SOCKET, NAMESPACE, Part, SESSIONS, SOON, node_config, patch_node_config, sessions};
use crate::pod::{Pod, Wanted, condition};
use crate::scenarios::seen::{expect, text};
use crate::{Lab, Step};

const ANSWER: Duration = Duration::from_secs(1);
/// The node that it is about.
const NODE: &str = "node1";
/// IPv6 needs 1280: two values that do not go together, which a schema can't say.
const WRONG_MTU: u32 = 1000;
/// Of a peer that is not there, on the link to the router.
const SPARE_PEER: &str = "2001:db8:ffff:1::99";

pub(crate) fn play(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let cluster = &lab.cluster;
    screen.step("one that the schema refuses", || {
        refused(cluster, &json!({"spec": {"cidr4": "10.0.1.0/64"}}), "spec.cidr4")?;
        refused(cluster, &json!({"spec": {"cidr4": null, "cidr6": null}}), "spec")?;
        Ok(((), "the API server refuses a prefix that is none, and a NodeConfig without any".to_owned()))
    })?;
    screen.step("one that only the agent can refuse", || {
        patch_node_config(cluster, NODE, &json!({"spec": {"mtu": WRONG_MTU}}))?;
        wait_ready(cluster, "False", &["mtu", "1280"])?;
        event(cluster, &["mtu", "1280"])?;
        let pod = Wanted::new("still").on(NODE).start(cluster)?;
        is_from(&pod, true, &Plan::new(1).cidr6())?;
        patch_node_config(cluster, NODE, &json!({"spec": {"mtu": null}}))?;
        wait_ready(cluster, "True", &[])?;
        Ok((
            (),
            "what the schema can't tell: the condition and an Event say it, the last good one stays"
                .to_owned(),
        ))
    })?;
    let old = screen.step("a pod of the old prefixes", || {
        let old = Wanted::new("old").on(NODE).start(cluster)?;
        let far = Wanted::new("far").on("node2").start(cluster)?;
        Ok(([old, far], "a pod with addresses of the old prefixes, and one on the other node".to_owned()))
    })?;
    let plan = Plan::new(1);
    let before = lives_and_sessions(cluster);
    let new = screen.step("other prefixes", || {
        change(cluster, &plan.second_cidr6(), &plan.second_cidr4())?;
        let new = Wanted::new("new").on(NODE).start(cluster)?;
        is_from(&new, true, &plan.second_cidr6())?;
        is_from(&new, false, &plan.second_cidr4())?;
        let told = format!(
            "other prefixes, {} and {}: new pods are in them",
            plan.second_cidr6(),
            plan.second_cidr4()
        );
        Ok((new, told))
    })?;
    screen.step("old and new pods", || {
        let [old, far] = &old;
        for address in old.addresses.iter().chain(&new.addresses) {
            cluster.router.netns.reach(address, SOON)?;
            far.netns(cluster)?.must_ping(address, ANSWER)?;
        }
        for address in &new.addresses {
            old.netns(cluster)?.must_ping(address, ANSWER)?;
        }
        Ok(((), "the old pod keeps its addresses; it and the new one are reached from everywhere".to_owned()))
    })?;
    screen.step("the router's table", || {
        let [old, _] = &old;
        for prefix in [plan.second_cidr6(), plan.second_cidr4()] {
            announced(cluster, &prefix, true)?;
        }
        for address in &old.addresses {
            announced(cluster, &host_prefix(*address), true)?;
        }
        for prefix in [plan.cidr6(), plan.cidr4()] {
            announced(cluster, &prefix, false)?;
        }
        old.delete(cluster)?;
        for address in &old.addresses {
            announced(cluster, &host_prefix(*address), false)?;
        }
        Ok((
            (),
            "the router has the new prefixes, and of the old ones just the old pod, as long as it is there"
                .to_owned(),
        ))
    })?;
    screen.step("back again", || {
        change(cluster, &plan.cidr6(), &plan.cidr4())?;
        for prefix in [plan.cidr6(), plan.cidr4()] {
            announced(cluster, &prefix, true)?;
        }
        for address in &new.addresses {
            cluster.router.netns.reach(address, SOON)?;
        }
        Ok(((), "back to the first prefixes".to_owned()))
    })?;
    screen.step("agents and sessions", || {
        let (before, after) = (before?, lives_and_sessions(cluster)?);
        expect(before == after, || format!("agents and sessions were {before:?} and are {after:?}"))?;
        Ok(((), "all of it without a restart of an agent, nor of a BGP session".to_owned()))
    })?;
    screen.step("a peer more", || {
        with_peers(cluster, plan, 1)?;
        with_peers(cluster, plan, 0)?;
        Ok(((), "a BGP peer comes and goes with the NodeConfig, in BIRD without a restart too".to_owned()))
    })
}

/// What a change of a NodeConfig leaves as it is.
fn lives_and_sessions(cluster: &Cluster) -> Result<(Vec<String>, Vec<String>)> {
    Ok((Part::Agent.lives(cluster)?, sessions(cluster)?))
}

/// Has this many peers more in the NodeConfig, and waits for BIRD to have them.
fn with_peers(cluster: &Cluster, plan: Plan, more: usize) -> Result<()> {
    let mut peers = plan.node_config()["spec"]["bgp"]["peers"].as_array().cloned().unwrap_or_default();
    let ordinary = peers.len();
    // Nobody is there: a session that is tried is all that is to be seen.
    peers.extend((0..more).map(|_| json!({"name": "spare", "address": SPARE_PEER, "asn": 64555})));
    patch_node_config(cluster, NODE, &json!({"spec": {"bgp": {"peers": peers}}}))?;
    wait_ready(cluster, "True", &[])?;
    let bird = Part::Bird.pod_on(cluster, NODE)?;
    let ask = ["-n", NAMESPACE, "exec", &bird, "--", "birdc", "-s", BIRD_SOCKET, "show", "protocols"];
    until(&format!("BIRD of {NODE} to have {} peers", ordinary + more), SOON, || {
        let said = cluster.kubectl(&ask)?;
        let found = said.lines().filter(|line| line.split_whitespace().nth(1) == Some("BGP")).count();
        Ok(if found == ordinary + more { Probe::Done(()) } else { Probe::Waiting(said) })
    })?;
    let up = sessions(cluster)?;
    expect(up.len() == SESSIONS, || format!("the router's sessions are {up:?}, expected {SESSIONS}"))
}

fn change(cluster: &Cluster, cidr6: &str, cidr4: &str) -> Result<()> {
    patch_node_config(cluster, NODE, &json!({"spec": {"cidr6": cidr6, "cidr4": cidr4}}))?;
    wait_ready(cluster, "True", &[])
}

/// The API server says no, and to what.
fn refused(cluster: &Cluster, change: &Value, field: &str) -> Result<()> {
    let change = change.to_string();
    match cluster.kubectl(&["patch", "nodeconfig", NODE, "--type=merge", "-p", &change]) {
        Ok(said) => Err(LabError::Unexpected(format!("{change} was taken: {said}"))),
        Err(LabError::Failed { output, .. }) if output.contains(field) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits for a status that is about the NodeConfig as it is now.
fn wait_ready(cluster: &Cluster, wanted: &str, words: &[&str]) -> Result<()> {
    until(&format!("the NodeConfig {NODE} to be Ready: {wanted}"), SOON, || {
        let config = node_config(cluster, NODE)?;
        let current = config.pointer("/status/observedGeneration") == config.pointer("/metadata/generation");
        let ready = condition(&config, "Ready").cloned().unwrap_or_default();
        let message = text(&ready, "/message");
        let said = words.iter().all(|word| message.contains(word));
        let done = current && ready["status"] == wanted && said;
        Ok(if done { Probe::Done(()) } else { Probe::Waiting(config.to_string()) })
    })
}

/// Waits for a warning about the NodeConfig with these words.
fn event(cluster: &Cluster, words: &[&str]) -> Result<()> {
    let query = format!("fieldSelector=involvedObject.kind=NodeConfig,involvedObject.name={NODE}");
    until("an Event about the NodeConfig", SOON, || {
        let events = cluster.api().list(&format!("/api/v1/events?{query}"))?;
        let messages: Vec<&str> = events
            .iter()
            .filter(|event| event["type"] == "Warning")
            .map(|event| text(event, "/message"))
            .collect();
        let found = messages.iter().any(|message| words.iter().all(|word| message.contains(word)));
        Ok(if found { Probe::Done(()) } else { Probe::Waiting(messages.join("\n")) })
    })
}

fn is_from(pod: &Pod, ipv6: bool, prefix: &str) -> Result<()> {
    let address = pod.address(ipv6)?.to_string();
    // All prefixes of the lab end where the text of an address goes on.
    let start = prefix.split('/').next().unwrap_or_default().trim_end_matches('0');
    expect(address.starts_with(start), || format!("{} has {address}, expected one of {prefix}", pod.name))
}

fn host_prefix(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv6() { 128 } else { 32 })
}

/// Waits until the router has, or has not, a route to just this prefix from BGP.
fn announced(cluster: &Cluster, prefix: &str, wanted: bool) -> Result<()> {
    let state = if wanted { "announced" } else { "withdrawn" };
    until(&format!("{prefix} to be {state}"), SOON, || {
        let routes = cluster.router.bird.query("show route where source = RTS_BGP")?;
        let found = routes.lines().any(|line| line.split_whitespace().next() == Some(prefix));
        Ok(if found == wanted { Probe::Done(()) } else { Probe::Waiting(routes) })
    })
}
