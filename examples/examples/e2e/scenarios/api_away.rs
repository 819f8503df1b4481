//! The API server is away: pods go on, pods can go, and pods can come where the runtime
//! hands over their annotations. Where it does not, ADD says what it waits for.
//!
//! Kubelets make and delete the pods of their directory of manifests without an API
//! server, so all of this is done as the nodes do it.

use std::fs;
use std::net::IpAddr;

use flock_examples::cluster::machine::{Machine, STATIC_PODS};
use flock_examples::deadline::{Probe, until};
use flock_examples::screen::Screen;
use flock_examples::{LabError, Result};
use serde_json::{Value, json};

use crate::flock::{CONFLIST, Holdings, Part, SOON};
use crate::pod::{END, Pod, Wanted, delete_all};
use crate::traffic::Stream;
use crate::{Lab, Step};

/// Its runtime hands over annotations.
const NODE: &str = "node1";
/// Its runtime does not.
const OLD_NODE: &str = "node2";
const CAPABILITY: &str = "io.kubernetes.cri.pod-annotations";
/// For an ADD on the old node, in seconds.
const TIMEOUT: u32 = 10;

pub(crate) fn play(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let pods = screen.step("pods", || {
        let cluster = &lab.cluster;
        let pods =
            [Wanted::new("stays").on(NODE).start(cluster)?, Wanted::new("far").on(OLD_NODE).start(cluster)?];
        for address in pods.iter().flat_map(|pod| &pod.addresses) {
            cluster.router.netns.reach(address, SOON)?;
        }
        Ok((pods, "a pod on each node".to_owned()))
    })?;
    let without = screen.step("a static pod", || {
        let machine = lab.cluster.machine(NODE)?;
        let without = Holdings::of(machine)?;
        write_static(machine, "leaves")?;
        Pod::ready(&lab.cluster, &format!("leaves-{NODE}"))?;
        Ok((without, format!("and one of the directory of manifests of {NODE}")))
    })?;
    let conflist = screen.step("an older runtime", || {
        let conflist = without_annotations(lab.cluster.machine(OLD_NODE)?)?;
        Ok((conflist, format!("on {OLD_NODE}, the runtime is not asked for annotations any more")))
    })?;
    let streams = screen.step("traffic", || {
        let cluster = &lab.cluster;
        let [stays, far] = &pods;
        let ends =
            [(far.netns(cluster)?, stays.address(true)?), (stays.netns(cluster)?, far.address(false)?)];
        let streams = ends.iter().map(|(from, to)| Stream::start(from, *to, &lab.materials.logs));
        Ok((
            streams.collect::<Result<Vec<_>>>()?,
            "pings every 10 ms between the pods of the nodes".to_owned(),
        ))
    })?;
    screen.step("the end of the API server", || {
        lab.cluster.control.stop_api_server()?;
        Ok(((), "the API server is stopped".to_owned()))
    })?;
    let away = without_api(screen, lab, &without);
    screen.step("the API server again", || {
        lab.cluster.control.start_api_server()?;
        Ok(((), "the API server is started again".to_owned()))
    })?;
    let healed = away.and_then(|()| heal(screen, lab));
    screen.step("the end", || {
        let cluster = &lab.cluster;
        for (node, name) in [(NODE, "leaves"), (NODE, "comes"), (OLD_NODE, "waits")] {
            fs::remove_file(cluster.machine(node)?.path(&static_file(name))).ok();
        }
        cluster.machine(OLD_NODE)?.write(CONFLIST, &conflist)?;
        Ok(((), "all is as it was before".to_owned()))
    })?;
    healed?;
    let sent = screen.step("losses", || {
        let outcomes = streams.into_iter().map(Stream::finish).collect::<Result<Vec<_>>>()?;
        let sent: u32 = outcomes.iter().map(|outcome| outcome.sent).sum();
        delete_all(&lab.cluster)?;
        Ok((sent, format!("{sent} packets sent in the meantime, none lost")))
    })?;
    lab.measured.add("API server away", format!("0 of {sent} packets lost"));
    Ok(())
}

/// What is to be seen on the nodes in the meantime.
fn without_api(screen: &Screen, lab: &Lab, without: &Holdings) -> Step<()> {
    let cluster = &lab.cluster;
    screen.step("a deletion", || {
        let machine = cluster.machine(NODE)?;
        remove_static(machine, "leaves")?;
        without.are_those_of(machine, END)?;
        Ok(((), "a pod is deleted: its record, link and routes are gone".to_owned()))
    })?;
    screen.step("a new pod", || {
        let machine = cluster.machine(NODE)?;
        write_static(machine, "comes")?;
        for address in recorded(machine, &format!("comes-{NODE}"))? {
            cluster.router.netns.reach(address, SOON)?;
        }
        Ok(((), "a new pod gets its network, since the runtime hands over its annotations".to_owned()))
    })?;
    screen.step("a new pod under an older runtime", || {
        let machine = cluster.machine(OLD_NODE)?;
        write_static(machine, "waits")?;
        let said = why_it_waits(machine, &format!("waits-{OLD_NODE}"))?;
        Ok(((), format!("where it does not, the ADD says: {said}")))
    })
}

fn heal(screen: &Screen, lab: &Lab) -> Step<()> {
    screen.step("what heals", || {
        let cluster = &lab.cluster;
        for name in [format!("comes-{NODE}"), format!("waits-{OLD_NODE}")] {
            let pod = Pod::ready(cluster, &name)?;
            for address in &pod.addresses {
                cluster.router.netns.reach(address, SOON)?;
            }
        }
        let new = Wanted::new("afterwards").on(OLD_NODE).start(cluster)?;
        for address in &new.addresses {
            cluster.router.netns.reach(address, SOON)?;
        }
        Part::Agent.ready(cluster, cluster.machines.len())?;
        Ok(((), "the waiting pod runs, as does a new one, and the agents are ready".to_owned()))
    })
}

/// Takes the capability from the installed configuration, and gives back what it was.
fn without_annotations(machine: &Machine) -> Result<String> {
    let path = machine.path(CONFLIST);
    let before = fs::read_to_string(&path).map_err(LabError::file("read", &path))?;
    let mut list: Value = serde_json::from_str(&before)
        .map_err(|error| LabError::Unexpected(format!("{} is not JSON: {error}", path.display())))?;
    let plugin = &mut list["plugins"][0];
    if plugin["capabilities"].as_object_mut().and_then(|all| all.remove(CAPABILITY)).is_none() {
        return Err(LabError::Unexpected(format!("found no {CAPABILITY} in {before}")));
    }
    plugin["timeoutSeconds"] = json!(TIMEOUT);
    machine.write(CONFLIST, &list.to_string())?;
    Ok(before)
}

/// The addresses of a pod by the node's own record, which is there without an API server.
fn recorded(machine: &Machine, pod: &str) -> Result<Vec<IpAddr>> {
    const RECORDS: &str = "/run/flock/attachments";
    until(&format!("a record of {pod}"), SOON, || {
        for name in machine.names(RECORDS)? {
            let text = fs::read_to_string(machine.path(&format!("{RECORDS}/{name}"))).unwrap_or_default();
            let file: Value = serde_json::from_str(&text).unwrap_or_default();
            let record = &file["attachment"];
            if record["pod"]["name"] == pod && record["state"] == "committed" {
                let addresses =
                    ["ipv6", "ipv4"].map(|family| record["addresses"][family].as_str()?.parse().ok());
                return Ok(Probe::Done(addresses.into_iter().flatten().collect()));
            }
        }
        Ok(Probe::Waiting("none that is committed".to_owned()))
    })
}

/// From the kubelet's log: what the plugin answered for the pod.
fn why_it_waits(machine: &Machine, pod: &str) -> Result<String> {
    let log = machine.log("kubelet");
    until(&format!("the kubelet of {} to say why {pod} waits", machine.name()), END * 2, || {
        let text = fs::read_to_string(&log).map_err(LabError::file("read", &log))?;
        let mut lines =
            text.lines().filter(|line| line.contains("CreatePodSandbox for pod") && line.contains(pod));
        let said = lines.find_map(|line| Some(line.split_once("plugin type=\"flock\" failed (add): ")?.1));
        Ok(match said {
            Some(said) if said.contains("the API server") => Probe::Done(said.to_owned()),
            said => Probe::Waiting(said.unwrap_or("nothing yet").to_owned()),
        })
    })
}

/// The kubelet must not see half of it, and looks at no names that begin with a dot.
fn write_static(machine: &Machine, name: &str) -> Result<()> {
    let aside = format!("{STATIC_PODS}/.{name}");
    machine.write(&aside, &Wanted::new(name).manifest().to_string())?;
    let (from, to) = (machine.path(&aside), machine.path(&static_file(name)));
    fs::rename(&from, to).map_err(LabError::file("rename", from))
}

fn remove_static(machine: &Machine, name: &str) -> Result<()> {
    let path = machine.path(&static_file(name));
    fs::remove_file(&path).map_err(LabError::file("remove", path))
}

fn static_file(name: &str) -> String {
    format!("{STATIC_PODS}/{name}.json")
}
