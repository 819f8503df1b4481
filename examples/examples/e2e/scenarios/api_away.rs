//! The API server is away: pods go on, pods can go, and pods can come where the runtime
//! hands over their annotations. Where it does not, ADD says what it waits for.
//!
//! Kubelets make and delete the pods of their directory of manifests without an API
//! server, so all of this is done as the nodes do it.

use std::fs;
use std::net::IpAddr;
use std::time::Instant;

use flock_examples::cluster::machine::{Machine, STATIC_PODS, Task};
use flock_examples::deadline::{Probe, until};
use flock_examples::screen::Screen;
use flock_examples::{LabError, Result};
use serde_json::{Value, json};

use crate::flock::{CONFLIST, Holdings, Part, SOON, ask_agent, in_force, metric, patch_node_config};
use crate::pod::{END, Pod, Wanted, delete_all};
use crate::scenarios::seen::expect;
use crate::traffic::Stream;
use crate::{Lab, Step};

/// Its runtime hands over annotations.
const NODE: &str = "node1";
/// Its runtime does not.
const OLD_NODE: &str = "node2";
const CAPABILITY: &str = "io.kubernetes.cri.pod-annotations";
/// For an ADD on the old node, in seconds.
const TIMEOUT: u32 = 10;
/// What a pod asks for that comes in the meantime.
const WANTED_ADDRESS: &str = "2001:db8:1::abcd";
/// To reach the API server, in the meantime: half a minute at least.
const ATTEMPTS: f64 = 10.0;
/// Pods that are there before and are deleted in the meantime.
const LEAVE: [(&str, &str); 2] = [(NODE, "leaves"), (OLD_NODE, "leaves-too")];

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
    let without = screen.step("static pods", || {
        let cluster = &lab.cluster;
        let without = cluster.machines.iter().map(Holdings::of).collect::<Result<Vec<_>>>()?;
        for (node, name) in LEAVE {
            write_static(cluster.machine(node)?, &Wanted::new(name), name)?;
            Pod::ready(cluster, &format!("{name}-{node}"))?;
        }
        Ok((without, format!("and {} of the directories of manifests", LEAVE.len())))
    })?;
    let conflist = screen.step("an older runtime", || {
        let conflist = without_annotations(lab.cluster.machine(OLD_NODE)?)?;
        Ok((conflist, format!("on {OLD_NODE}, the runtime is not asked for annotations any more")))
    })?;
    let outcome = stop_and_start(screen, lab, &pods, &without);
    screen.step("the end", || {
        let cluster = &lab.cluster;
        for (node, name) in LEAVE.into_iter().chain([(NODE, "comes"), (OLD_NODE, "waits")]) {
            fs::remove_file(cluster.machine(node)?.path(&static_file(name))).ok();
        }
        cluster.machine(OLD_NODE)?.write(CONFLIST, &conflist)?;
        delete_all(cluster)?;
        Ok(((), "all is as it was before".to_owned()))
    })?;
    let (sent, time) = outcome?;
    lab.measured.add("API server away", format!("{time:.0} s, 0 of {sent} packets lost"));
    Ok(())
}

/// How many packets were sent in the meantime, and how many seconds it was away.
fn stop_and_start(screen: &Screen, lab: &mut Lab, pods: &[Pod; 2], without: &[Holdings]) -> Step<(u32, f64)> {
    let streams = screen.step("traffic", || {
        let cluster = &lab.cluster;
        let [stays, far] = pods;
        let ends =
            [(far.netns(cluster)?, stays.address(true)?), (stays.netns(cluster)?, far.address(false)?)];
        let streams = ends.iter().map(|(from, to)| Stream::start(from, *to, &lab.materials.logs));
        Ok((
            streams.collect::<Result<Vec<_>>>()?,
            "pings every 10 ms between the pods of the nodes".to_owned(),
        ))
    })?;
    let start = screen.step("the end of the API server", || {
        lab.cluster.control.stop_api_server()?;
        Ok((Instant::now(), "the API server is stopped".to_owned()))
    })?;
    let away = without_api(screen, lab, without);
    let time = screen.step("the API server again", || {
        lab.cluster.control.start_api_server()?;
        let time = start.elapsed().as_secs_f64();
        Ok((time, format!("the API server is started again, after {time:.0} s")))
    })?;
    away?;
    heal(screen, lab)?;
    screen.step("losses", || {
        let outcomes = streams.into_iter().map(Stream::finish).collect::<Result<Vec<_>>>()?;
        let sent: u32 = outcomes.iter().map(|outcome| outcome.sent).sum();
        Ok(((sent, time), format!("{sent} packets sent in the meantime, none lost")))
    })
}

/// What is to be seen on the nodes in the meantime.
fn without_api(screen: &Screen, lab: &Lab, without: &[Holdings]) -> Step<()> {
    let cluster = &lab.cluster;
    screen.step("an agent's end", || {
        let machine = cluster.machine(NODE)?;
        let before = agent_process(machine)?.ok_or_else(|| no_agent(machine))?;
        before.kill()?;
        until(&format!("another agent on {NODE} to be ready"), END, || {
            let another = agent_process(machine)?.is_some_and(|now| now != before);
            let answer = ask_agent(cluster, machine, "/readyz");
            let ready = answer.as_ref().is_ok_and(|answer| answer.good);
            Ok(if another && ready { Probe::Done(()) } else { Probe::Waiting(format!("{answer:?}")) })
        })?;
        Ok(((), format!("the agent of {NODE} is killed: its next one starts without the API server")))
    })?;
    screen.step("deletions", || {
        for (node, name) in LEAVE {
            let path = cluster.machine(node)?.path(&static_file(name));
            fs::remove_file(&path).map_err(LabError::file("remove", path))?;
        }
        for (machine, without) in cluster.machines.iter().zip(without) {
            without.are_those_of(machine, END)?;
        }
        Ok(((), "pods are deleted on both nodes: their records, links and routes are gone".to_owned()))
    })?;
    screen.step("a new pod", || {
        let machine = cluster.machine(NODE)?;
        write_static(machine, &Wanted::new("comes").annotation("ipv6", WANTED_ADDRESS), "comes")?;
        let addresses = recorded(machine, &format!("comes-{NODE}"))?;
        expect(addresses.iter().any(|address| address.to_string() == WANTED_ADDRESS), || {
            format!("found {addresses:?}, expected {WANTED_ADDRESS} among them")
        })?;
        for address in addresses {
            cluster.router.netns.reach(address, SOON)?;
        }
        Ok(((), "a new pod gets its network, since the runtime hands over its annotations".to_owned()))
    })?;
    screen.step("a new pod under an older runtime", || {
        let machine = cluster.machine(OLD_NODE)?;
        write_static(machine, &Wanted::new("waits"), "waits")?;
        let said = why_it_waits(machine, &format!("waits-{OLD_NODE}"))?;
        Ok(((), format!("where it does not, the ADD says: {said}")))
    })?;
    screen.step("attempts", || {
        let machine = cluster.machine(OLD_NODE)?;
        let limit = SOON * 4;
        until(&format!("{ATTEMPTS} attempts of {OLD_NODE} to watch its pods"), limit, || {
            let metrics = ask_agent(cluster, machine, "/metrics")?.body;
            let count = metric(&metrics, "flock_watch_restarts_total{watch=\"pods\"}").unwrap_or(0.0);
            Ok(if count >= ATTEMPTS { Probe::Done(()) } else { Probe::Waiting(count.to_string()) })
        })?;
        Ok(((), format!("the agents try again: {ATTEMPTS} times by now")))
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
    })?;
    screen.step("a change of the NodeConfigs", || {
        let cluster = &lab.cluster;
        for mtu in [json!(1400), Value::Null] {
            for machine in &cluster.machines {
                patch_node_config(cluster, machine.name(), &json!({"spec": {"mtu": mtu}}))?;
                in_force(cluster, machine.name())?;
            }
        }
        Ok(((), "the agents see changes of their NodeConfigs again".to_owned()))
    })
}

/// The agent of a node, as its runtime has it; none while its container is not running.
fn agent_process(machine: &Machine) -> Result<Option<Task>> {
    machine.task("labels.\"io.kubernetes.container.name\"==agent")
}

fn no_agent(machine: &Machine) -> LabError {
    LabError::Unexpected(format!("found no running agent on {}", machine.name()))
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
fn write_static(machine: &Machine, pod: &Wanted, name: &str) -> Result<()> {
    let aside = format!("{STATIC_PODS}/.{name}");
    machine.write(&aside, &pod.manifest().to_string())?;
    let (from, to) = (machine.path(&aside), machine.path(&static_file(name)));
    fs::rename(&from, to).map_err(LabError::file("rename", from))
}

fn static_file(name: &str) -> String {
    format!("{STATIC_PODS}/{name}.json")
}
