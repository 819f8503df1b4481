//! An address that pods on both nodes serve: the router has two ways to it, and one is
//! left where one of the pods goes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use flock_examples::Result;
use flock_examples::cluster::Cluster;
use flock_examples::deadline::{Probe, until};
use flock_examples::process::run;
use flock_examples::screen::Screen;
use serde_json::json;

use crate::flock::SOON;
use crate::pod::{PODS, Wanted, served_name};
use crate::{Lab, Step};

/// How often a pod becomes unready.
const ROUNDS: usize = 20;
/// Nothing takes so long but what the kubelet has made undone meanwhile.
const LATE: Duration = Duration::from_secs(5);
const ANYCAST: [&str; 2] = ["2001:db8:a::80", "198.51.100.80"];

pub(crate) fn play(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let cluster = &lab.cluster;
    let targets: Vec<IpAddr> = ANYCAST.iter().filter_map(|text| text.parse().ok()).collect();
    let pods = screen.step("pods that serve it", || {
        for family in ["ipv4", "ipv6"] {
            // By ports too: the router's own connections differ in nothing else.
            let setting = format!("net.{family}.fib_multipath_hash_policy=1");
            run(cluster.router.netns.command("sysctl").args(["-q", "-w", &setting]))?;
        }
        let wanted = |name, node| Wanted::new(name).on(node).annotation("anycast", &ANYCAST.join(","));
        let pods = [wanted("any-1", "node1").start(cluster)?, wanted("any-2", "node2").start(cluster)?];
        Ok((pods, format!("two pods serve {}, one on each node", ANYCAST.join(" and "))))
    })?;
    screen.step("the router's ways to it", || {
        for target in &targets {
            next_hops(cluster, *target, &["node1", "node2"])?;
            for pod in ["any-1", "any-2"] {
                served_by(cluster, *target, pod)?;
            }
        }
        Ok(((), "the router has both nodes as next hops, and gets answers from both pods".to_owned()))
    })?;
    let times = screen.step("one that is not ready for a while", || {
        let times = (0..ROUNDS).map(|_| round(cluster, &targets)).collect::<Result<Vec<_>>>()?;
        Ok((times, format!("{ROUNDS} times one of them is not ready: the other's node is the only way")))
    })?;
    lab.measured.add_times("a pod not ready, to the router's other way", times);
    let cluster = &lab.cluster;
    screen.step("one of the pods goes", || {
        let [_, second] = &pods;
        second.delete(cluster)?;
        for target in &targets {
            next_hops(cluster, *target, &["node1"])?;
            served_by(cluster, *target, "any-1")?;
        }
        Ok(((), "with one pod deleted, the other's node is the only way, and answers".to_owned()))
    })?;
    screen.step("the other one goes", || {
        let [first, _] = &pods;
        first.delete(cluster)?;
        for target in &targets {
            next_hops(cluster, *target, &[])?;
        }
        Ok(((), "with both deleted, nobody announces it any more".to_owned()))
    })
}

/// Has the first pod not be ready, then ready again. Returns how long it took from the API server's
/// answer until the kernel of the router has the other way alone.
fn round(cluster: &Cluster, targets: &[IpAddr]) -> Result<Duration> {
    loop {
        set_ready(cluster, "any-1", false)?;
        let begin = Instant::now();
        let left = until_or_late(cluster, targets, &["node2"]);
        let took = begin.elapsed();
        set_ready(cluster, "any-1", true)?;
        for target in targets {
            next_hops(cluster, *target, &["node1", "node2"])?;
        }
        // The kubelet, which looks now and then, says that it is ready all the time.
        if left {
            return Ok(took);
        }
    }
}

/// Whether it comes to that soon.
fn until_or_late(cluster: &Cluster, targets: &[IpAddr], nodes: &[&str]) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < LATE {
        let mut found = targets.iter().map(|target| cluster.router.next_hops(*target));
        if found.all(|found| found.is_ok_and(|found| found == nodes)) {
            return true;
        }
    }
    false
}

fn set_ready(cluster: &Cluster, pod: &str, ready: bool) -> Result<()> {
    let path = format!("{PODS}/{pod}");
    let mut object = cluster.api().get(&path)?;
    for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
        if condition["type"] == "Ready" {
            condition["status"] = if ready { "True" } else { "False" }.into();
        }
    }
    let change = json!({"status": {"conditions": object["status"]["conditions"]}});
    cluster.api().patch(&format!("{path}/status"), &change).map(drop)
}

fn next_hops(cluster: &Cluster, target: IpAddr, nodes: &[&str]) -> Result<()> {
    until(&format!("ways of the router to {target} by {nodes:?}"), SOON, || {
        let found = cluster.router.next_hops(target)?;
        Ok(if found == nodes { Probe::Done(()) } else { Probe::Waiting(format!("{found:?}")) })
    })
}

/// This one answers at the address; where several do, each connection may lead to another one.
fn served_by(cluster: &Cluster, target: IpAddr, pod: &str) -> Result<()> {
    until(&format!("{pod} to answer at {target}"), SOON, || {
        let name = served_name(&cluster.router.netns, target, 80)?;
        Ok(if name == pod { Probe::Done(()) } else { Probe::Waiting(format!("{name} answers")) })
    })
}
