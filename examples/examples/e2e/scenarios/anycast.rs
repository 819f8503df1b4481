//! An address that pods on both nodes serve: the router has two ways to it, and one is
//! left where one of the pods goes.

use std::net::IpAddr;

use flock_examples::Result;
use flock_examples::cluster::Cluster;
use flock_examples::deadline::{Probe, until};
use flock_examples::process::run;
use flock_examples::screen::Screen;

use crate::flock::SOON;
use crate::pod::{Wanted, served_name};
use crate::{Lab, Step};

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
