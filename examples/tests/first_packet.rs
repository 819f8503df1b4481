//! The first packet arrives: right after ADD returns, one ping of each family with a
//! timeout of 50 ms and no second try.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it should be"
)]

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use flock_core::attachment::{GATEWAY_V4, GATEWAY_V6};
use flock_examples::fabric::{DIR, Fabric, Plan};
use flock_examples::netns::Netns;
use flock_examples::node::{Node, Pod};
use flock_examples::process::run;
use flock_examples::runtime::INTERFACE;
use flock_examples::{Result, sandbox};
use serde_json::json;

const AT_ONCE: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(30);

/// The gateway of each family. A link-local address needs its interface.
fn ping_gateways(pod: &Pod) -> Result<()> {
    pod.netns().must_ping(GATEWAY_V4, AT_ONCE)?;
    let scoped = format!("{GATEWAY_V6}%{INTERFACE}");
    run(pod.netns().command("ping").args(["-n", "-c", "1", "-W", "0.05", &scoped])).map(drop)
}

#[test]
fn the_first_packet_reaches_gateway_node_and_a_pod_on_the_other_node() -> Result<()> {
    sandbox::within("the_first_packet_reaches_gateway_node_and_a_pod_on_the_other_node", |_| {
        let mut fabric = Fabric::build(2)?;
        for node in &mut fabric.nodes {
            node.start()?;
        }
        fabric.router.bird.established(4, LIMIT)?;
        let [node1, node2] = &fabric.nodes[..] else { unreachable!() };
        let plan = Plan::new(1);
        // The summaries must have arrived on all sides: that is BGP's time, not the pods'.
        let probes = [node1.add_pod("probe1", &[])?, node2.add_pod("probe2", &[])?];
        for (from, to) in [(&probes[0], &probes[1]), (&probes[1], &probes[0])] {
            for address in &to.addresses {
                from.netns().reach(*address, LIMIT)?;
            }
        }
        for round in 0..5 {
            let far = node2.add_pod(&format!("far{round}"), &[])?;
            let near = node1.add_pod(&format!("near{round}"), &[])?;
            for address in &far.addresses {
                near.netns().must_ping(*address, AT_ONCE)?;
            }
            let fresh = node1.add_pod(&format!("fresh{round}"), &[])?;
            ping_gateways(&fresh)?;
            for address in [IpAddr::V6(plan.link6().1), IpAddr::V4(plan.link4().1)] {
                fresh.netns().must_ping(address, AT_ONCE)?;
            }
            let reverse = node1.add_pod(&format!("reverse{round}"), &[])?;
            for address in &reverse.addresses {
                node1.netns.must_ping(*address, AT_ONCE)?;
            }
        }
        Ok(())
    })
}

/// A node with nothing but a loopback interface: no default route, and for IPv4 no
/// address of its own, so that proxy ARP alone would not answer for the gateway.
#[test]
fn the_first_packet_arrives_on_a_node_without_any_default_route() -> Result<()> {
    sandbox::within("the_first_packet_arrives_on_a_node_without_any_default_route", |_| {
        let config = json!({
            "apiVersion": "flock.fritzlab.net/v1alpha1",
            "kind": "NodeConfig",
            "metadata": {"name": "lonely"},
            "spec": {"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24"},
        });
        let netns = Netns::create("lonely")?;
        let mut node = Node::create(netns, &Path::new(DIR).join("lonely"), &config)?;
        node.start_agent()?;
        node.wait_ready()?;
        let own = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
        node.netns.address("lo", &format!("{own}/128"))?;
        for round in 0..5 {
            let first = node.add_pod(&format!("first{round}"), &[])?;
            ping_gateways(&first)?;
            let second = node.add_pod(&format!("second{round}"), &[])?;
            for address in &first.addresses {
                second.netns().must_ping(*address, AT_ONCE)?;
            }
            let third = node.add_pod(&format!("third{round}"), &[])?;
            third.netns().must_ping(own, AT_ONCE)?;
        }
        Ok(())
    })
}
