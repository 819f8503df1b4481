//! Anycast addresses follow the readiness of the pods that serve them, under traffic.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::Fabric;
use flock_examples::node::Node;
use flock_examples::readiness::{Served, served_twice};
use flock_examples::{Result, sandbox};

const LIMIT: Duration = Duration::from_secs(30);
/// The promise is 100 ms; this is a debug build beside other tests.
const PROMPT: Duration = Duration::from_secs(2);

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
