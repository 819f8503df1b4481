//! What a pod asks for by annotations is what it gets, or it is told why not.

use std::net::IpAddr;

use flock_examples::cluster::Cluster;
use flock_examples::deadline::{Probe, until};
use flock_examples::screen::Screen;
use flock_examples::{LabError, Result};
use ipnet::IpNet;
use serde_json::json;

use crate::flock::SOON;
use crate::pod::{GROUP, PODS, Pod, Wanted, events_of, spec};
use crate::{Lab, Step};

const STATIC6: &str = "2001:db8:1::cafe";
const STATIC4: &str = "10.0.1.200";
const POOL6: &str = "2001:db8:2:0:1::/80";
const POOL4: &str = "10.0.2.240/29";
const STATEFUL_SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";

pub(crate) fn play(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let cluster = &lab.cluster;
    screen.step("a static address", || {
        let wanted =
            Wanted::new("static").on("node1").annotation("ipv6", STATIC6).annotation("ipv4", STATIC4);
        let pod = wanted.start(cluster)?;
        expect(&pod, &[STATIC6, STATIC4])?;
        for address in &pod.addresses {
            cluster.router.netns.reach(address, SOON)?;
        }
        Ok(((), format!("a pod gets just the addresses that it asks for, {STATIC6} and {STATIC4}")))
    })?;
    screen.step("a pool", || {
        let wanted = Wanted::new("pool").on("node2").annotation("cidr6", POOL6).annotation("cidr4", POOL4);
        let pod = wanted.start(cluster)?;
        for (ipv6, pool) in [(true, POOL6), (false, POOL4)] {
            let address = pod.address(ipv6)?;
            if !pool.parse::<IpNet>().is_ok_and(|pool| pool.contains(&address)) {
                return Err(LabError::Unexpected(format!("{address} is not in {pool}")));
            }
        }
        Ok(((), format!("a pod gets addresses from the pools that it names, {POOL6} and {POOL4}")))
    })?;
    screen.step("one family", || {
        let pod = Wanted::new("only-v6").on("node1").annotation("ipv4", "false").start(cluster)?;
        match pod.addresses[..] {
            [IpAddr::V6(_)] => Ok(((), "a pod that wants no IPv4 has IPv6 only".to_owned())),
            _ => Err(LabError::Unexpected(format!("found {:?}, expected one IPv6 address", pod.addresses))),
        }
    })?;
    screen.step("a StatefulSet with stable addresses", || {
        let (before, after) = recreate_stable(cluster)?;
        if before.uid == after.uid || before.addresses != after.addresses {
            return Err(LabError::Unexpected(format!("it was {before:?} and is {after:?}")));
        }
        for address in &after.addresses {
            cluster.router.netns.reach(address, SOON)?;
        }
        Ok(((), format!("a StatefulSet's pod that is made again gets {} again", after.address(true)?)))
    })?;
    screen.step("a bad value", || {
        bad_value(cluster)?;
        Ok((
            (),
            "a value that is none: an Event says which and what is allowed, as does kubectl describe"
                .to_owned(),
        ))
    })
}

fn expect(pod: &Pod, addresses: &[&str]) -> Result<()> {
    let found: Vec<String> = pod.addresses.iter().map(IpAddr::to_string).collect();
    if found == addresses {
        return Ok(());
    }
    Err(LabError::Unexpected(format!("{} has {found:?}, expected {addresses:?}", pod.name)))
}

/// A pod of a StatefulSet, and the one that is made when it is deleted.
fn recreate_stable(cluster: &Cluster) -> Result<(Pod, Pod)> {
    let mut spec = spec();
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": "node1"});
    let set = json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db"},
        "spec": {
            "serviceName": "db",
            "replicas": 1,
            "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}, "annotations": {format!("{GROUP}/ip-algo"): "stable"}},
                "spec": spec,
            },
        },
    });
    cluster.api().create(STATEFUL_SETS, &set)?;
    let before = Pod::ready(cluster, "db-0")?;
    // Somebody who takes the next address must not get in the way.
    cluster.api().delete(&format!("{PODS}/db-0"))?;
    Wanted::new("other").on("node1").start(cluster)?;
    let api = cluster.api();
    until("another pod db-0", SOON, || {
        let answer = api.request("GET", &format!("{PODS}/db-0"), None)?;
        let uid = answer.body.pointer("/metadata/uid").and_then(|uid| uid.as_str()).unwrap_or_default();
        let other = answer.status == 200 && uid != before.uid;
        Ok(if other { Probe::Done(()) } else { Probe::Waiting(answer.body.to_string()) })
    })?;
    let after = Pod::ready(cluster, "db-0")?;
    api.delete(&format!("{STATEFUL_SETS}/db?propagationPolicy=Foreground"))?;
    Ok((before, after))
}

fn bad_value(cluster: &Cluster) -> Result<()> {
    Wanted::new("bad").on("node1").annotation("ipv4", "bananas").create(cluster)?;
    let api = cluster.api();
    let key = format!("{GROUP}/ipv4");
    let told = |text: &str| [&key, "bananas", "expected"].iter().all(|part| text.contains(part));
    until("an Event of Flock about the bad value", SOON, || {
        let events = api.list(&events_of("bad"))?;
        let ours = events.iter().find(|event| {
            let component = event["source"]["component"].as_str().or(event["reportingComponent"].as_str());
            component.is_some_and(|component| component.starts_with("flock"))
                && event["type"] == "Warning"
                && event["message"].as_str().is_some_and(told)
        });
        let seen = || events.iter().map(|event| event["message"].to_string()).collect::<Vec<_>>().join("\n");
        Ok(if ours.is_some() { Probe::Done(()) } else { Probe::Waiting(seen()) })
    })?;
    let described = cluster.kubectl(&["describe", "pod", "bad"])?;
    // Above its Events stand the pod's annotations.
    let events = described.split_once("\nEvents:").map_or("", |(_, events)| events);
    let ours: Vec<&str> = events.lines().filter(|line| line.contains("flock-agent")).collect();
    if !ours.iter().any(|line| line.contains("FailedAttach") && told(line)) {
        return Err(LabError::Unexpected(format!("kubectl describe says nothing of it: {described}")));
    }
    Ok(())
}
