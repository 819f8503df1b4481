//! Anycast addresses follow the readiness of the pods that serve them, under traffic.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::{Fabric, Plan};
use flock_examples::netns::{Netns, Reply};
use flock_examples::node::Node;
use flock_examples::readiness::{Served, served_twice, server_on};
use flock_examples::{Result, sandbox};

const LIMIT: Duration = Duration::from_secs(30);
/// The promise is 100 ms; this is a debug build beside other tests.
const PROMPT: Duration = Duration::from_secs(2);
/// For how long a node that withdraws an address keeps what routers send it.
const CONVERGENCE_DELAY: Duration = Duration::from_secs(1);

/// Both ways, of the pod that the packets go to at the moment: whoever asks is answered all the
/// time, in the end by the other node.
#[test]
fn no_packet_is_lost_when_a_pod_becomes_unready_and_ready_again() -> Result<()> {
    sandbox::within("no_packet_is_lost_when_a_pod_becomes_unready_and_ready_again", |_| {
        let mut fabric = Fabric::build(2)?;
        let served = served_twice(&mut fabric, 0, LIMIT)?;
        for round in 0..6 {
            let Served { target, withdrawn, taken_over, lost, sent } =
                served.round(&fabric, round, PROMPT)?;
            assert!(withdrawn < PROMPT, "withdrawn after {withdrawn:?}");
            assert!(taken_over < PROMPT, "first packet to the other node after {taken_over:?}");
            assert!(lost.is_empty(), "packets {lost:?} of {sent} to {target} in round {round}");
        }
        Ok(())
    })
}

/// A router may still send packets to a node that has heard from it already of the other node's
/// route. Had the node taken that route, it would send them back, and so on (RFC 8333).
#[test]
fn packets_of_a_router_that_has_not_heard_yet_are_answered() -> Result<()> {
    sandbox::within("packets_of_a_router_that_has_not_heard_yet_are_answered", |_| {
        let mut fabric = Fabric::build(2)?;
        let served = served_twice(&mut fabric, 0, LIMIT)?;
        for (number, node) in (1..).zip(&fabric.nodes) {
            let (link6, link4) = (Plan::new(number).link6().1, Plan::new(number).link4().1);
            for (target, link) in served.addresses().into_iter().zip([link6.into(), link4.into()]) {
                let what = format!("{target} on {}", node.name());
                // On a machine that is busy with something else, the delay may be over too early.
                until(&format!("an answer of {what} in time"), LIMIT, || {
                    until_it_knows_another_way(node, target, false)?;
                    // As long as this is there, the router has not heard.
                    let late = Late { router: &fabric.router.netns, target, node: node.name(), link };
                    late.add()?;
                    let begin = Instant::now();
                    node.set_ready(&server_on(node.name()), false)?;
                    until_it_knows_another_way(node, target, true)?;
                    let asked = begin.elapsed();
                    let reply = fabric.router.netns.ping(target, Duration::from_millis(200))?;
                    let in_time = asked < CONVERGENCE_DELAY / 2;
                    assert!(
                        !in_time || reply != Reply::None,
                        "{what} did not answer {asked:?} after the change"
                    );
                    // The node's own pods do not stay with the one that is not ready.
                    until_it_takes_the_other_way(node, target)?;
                    late.remove()?;
                    node.set_ready(&server_on(node.name()), true)?;
                    served.until_both(&fabric, LIMIT)?;
                    Ok(if in_time {
                        Probe::Done(())
                    } else {
                        Probe::Waiting(format!("asked after {asked:?}"))
                    })
                })?;
            }
        }
        Ok(())
    })
}

/// A route that a router has for longer than BGP says.
struct Late<'a> {
    router: &'a Netns,
    target: IpAddr,
    node: &'a str,
    link: IpAddr,
}

impl Late<'_> {
    fn add(&self) -> Result<()> {
        self.change("add")
    }

    fn remove(&self) -> Result<()> {
        self.change("del")
    }

    fn change(&self, verb: &str) -> Result<()> {
        let [target, link] = [self.target, self.link].map(|address| address.to_string());
        let route = ["via", &link, "dev", self.node, "metric", "1"];
        self.router.ip(&[&["route", verb, &target][..], &route].concat()).map(drop)
    }
}

fn until_it_knows_another_way(node: &Node, target: IpAddr, there: bool) -> Result<()> {
    let family = if target.is_ipv6() { "-6" } else { "-4" };
    until(&format!("a route of BIRD's to {target} on {}: {there}", node.name()), LIMIT, || {
        let found = node.netns.ip(&[family, "route", "show", &target.to_string(), "proto", "bird"])?;
        Ok(if found.is_empty() == there { Probe::Waiting(found) } else { Probe::Done(()) })
    })
}

fn until_it_takes_the_other_way(node: &Node, target: IpAddr) -> Result<()> {
    until(&format!("{} to send packets to {target} to the router", node.name()), LIMIT, || {
        let found = node.netns.ip(&["route", "get", &target.to_string()])?;
        Ok(if found.contains("dev uplink") { Probe::Done(()) } else { Probe::Waiting(found) })
    })
}

/// BIRD takes it from the kernel: nothing of its configuration changes with readiness.
#[test]
fn readiness_is_no_change_of_bird_s_configuration() -> Result<()> {
    sandbox::within("readiness_is_no_change_of_bird_s_configuration", |_| {
        let mut fabric = Fabric::build(1)?;
        let node = &mut fabric.nodes[0];
        node.start()?;
        fabric.router.bird.established(2, LIMIT)?;
        let addresses = ["2001:db8:a::7", "198.51.100.7"].map(|address| address.parse::<IpAddr>().unwrap());
        let node = &fabric.nodes[0];
        node.add_pod("web", &[("anycast", "2001:db8:a::7,198.51.100.7")])?;
        until_announced(&fabric, &addresses, true)?;
        let before = configuration(node);
        for ready in [false, true, false] {
            node.set_ready("web", ready)?;
            until_announced(&fabric, &addresses, ready)?;
            // On the node itself the pod is reached all the time.
            for address in addresses {
                node.netns.must_ping(address, Duration::from_secs(1))?;
            }
            assert_eq!(configuration(node), before);
        }
        Ok(())
    })
}

fn configuration(node: &Node) -> String {
    std::fs::read_to_string(&node.files().bird_config).unwrap()
}

fn until_announced(fabric: &Fabric, addresses: &[IpAddr], announced: bool) -> Result<Duration> {
    let begin = Instant::now();
    until(&format!("{addresses:?} in the router's table: {announced}"), LIMIT, || {
        let table = fabric.router.bird.query("show route")?;
        let here = addresses.iter().filter(|address| table.contains(&format!("{address}/"))).count();
        let wanted = if announced { addresses.len() } else { 0 };
        Ok(if here == wanted { Probe::Done(()) } else { Probe::Waiting(table) })
    })?;
    Ok(begin.elapsed())
}
