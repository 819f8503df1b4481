//! The lab itself, without Flock: a BIRD with a configuration written by hand
//! plays the node.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it should be"
)]

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use flock_examples::bird::Bird;
use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::{Fabric, Plan};
use flock_examples::{Result, sandbox};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn the_router_takes_the_routes_it_should_and_no_others() -> Result<()> {
    sandbox::within("the_router_takes_the_routes_it_should_and_no_others", |_| {
        let fabric = Fabric::build(1)?;
        let node = &fabric.nodes[0];
        let plan = Plan::new(1);
        let files = node.files();
        let config = format!(
            "router id 192.0.2.6;
            protocol device {{}}
            protocol kernel {{ ipv6 {{ import none; export all; }}; }}
            protocol static {{ ipv6; route 2001:db8:1::/64 blackhole; route 2001:db8:bad::/64 blackhole; }}
            protocol bgp tor {{
              local as {}; neighbor {} as 64500; direct; connect delay time 1;
              ipv6 {{ import all; export all; }};
            }}",
            plan.asn(),
            plan.link6().0,
        );
        fs::write(&files.bird_config, config).unwrap();
        let _speaker = Bird::start(&node.netns, &files.bird_config, &files.bird_socket, &files.bird_log)?;
        fabric.router.bird.established(1, LIMIT)?;
        let routes = until("the node's prefix on the router", LIMIT, || {
            let routes = fabric.router.netns.ip(&["-6", "route", "show", "proto", "bird"])?;
            Ok(if routes.contains("2001:db8:1::/64") { Probe::Done(routes) } else { Probe::Waiting(routes) })
        })?;
        let prefixes: BTreeSet<&str> =
            routes.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert!(!prefixes.contains("2001:db8:bad::/64"), "{routes}");
        assert_eq!(fabric.router.next_hops("2001:db8:1::7".parse().unwrap())?, Vec::<String>::new());
        assert_eq!(fabric.router.next_hop("2001:db8:1::7".parse().unwrap())?, "node1");
        node.netns.reach(fabric.router.ipv6, LIMIT)?;
        Ok(())
    })
}
