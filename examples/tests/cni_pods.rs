//! What pods ask for in their annotations, and what they get.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::net::IpAddr;
use std::time::Duration;

use flock_examples::fabric::Fabric;
use flock_examples::node::Node;
use flock_examples::runtime::Container;
use flock_examples::{Result, sandbox};
use serde_json::json;

const AT_ONCE: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(30);

fn start() -> Result<Node> {
    let mut node = Node::alone("node", &json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24"}))?;
    node.start_agent()?;
    node.wait_ready()?;
    Ok(node)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_pod_gets_what_its_manifest_asks_for() -> Result<()> {
    sandbox::within("a_pod_gets_what_its_manifest_asks_for", |_| {
        let node = start()?;
        let fixed = node.add_pod("fixed", &[("ipv6", "2001:db8:1::53"), ("ipv4", "10.0.1.53")])?;
        assert_eq!(fixed.addresses, [address("2001:db8:1::53"), address("10.0.1.53")]);
        let pooled =
            node.add_pod("pooled", &[("cidr6", "2001:db8:1:0:5::/80"), ("cidr4", "10.0.1.64/26")])?;
        let [IpAddr::V6(ipv6), IpAddr::V4(ipv4)] = pooled.addresses[..] else { panic!("{pooled:?}") };
        assert_eq!(ipv6.segments()[..5], [0x2001, 0xdb8, 1, 0, 5]);
        assert!((64..128).contains(&ipv4.octets()[3]), "{ipv4}");
        let only6 = node.add_pod("only6", &[("ipv4", "false")])?;
        assert!(matches!(only6.addresses[..], [IpAddr::V6(_)]), "{only6:?}");
        assert!(!only6.netns().ip(&["-4", "route"])?.contains("default"));
        let only4 = node.add_pod("only4", &[("ipv6", "false")])?;
        assert!(matches!(only4.addresses[..], [IpAddr::V4(_)]), "{only4:?}");
        let to = [(&pooled, &fixed), (&only6, &fixed), (&only4, &fixed)];
        for (from, to) in to {
            for target in &to.addresses {
                if from.addresses.iter().any(|own| own.is_ipv4() == target.is_ipv4()) {
                    from.netns().must_ping(*target, AT_ONCE)?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_stable_pod_gets_its_addresses_back() -> Result<()> {
    sandbox::within("a_stable_pod_gets_its_addresses_back", |_| {
        let node = start()?;
        let stable = [("ip-algo", "stable")];
        let first = node.add_pod("web-0", &stable)?;
        let other = node.add_pod("web-1", &stable)?;
        assert!(first.addresses.iter().all(|own| !other.addresses.contains(own)));
        node.delete_pod(&first)?;
        node.add_pod("unrelated", &[])?;
        // As a StatefulSet does it: the same name, another sandbox.
        let mut again = node.make_container("web-0", &stable)?;
        again.id = "another-sandbox".to_owned();
        assert_eq!(node.runtime()?.add(&again)?, first.addresses);
        Ok(())
    })
}

#[test]
fn what_the_runtime_hands_over_wins_over_the_manifest() -> Result<()> {
    sandbox::within("what_the_runtime_hands_over_wins_over_the_manifest", |_| {
        let node = start()?;
        let add = |container: &Container, annotations| {
            let config = json!({"io.kubernetes.cri.pod-annotations": annotations});
            let call = node.runtime()?.prepare("ADD", container).config("runtimeConfig", config);
            Ok::<_, flock_examples::LabError>(call.make()?.success()?["ips"].clone())
        };
        let container = node.make_container("web", &[("ipv4", "10.0.1.9")])?;
        let handed = json!({"flock.fritzlab.net/ipv4": "10.0.1.7", "prometheus.io/scrape": "true"});
        let ips = add(&container, handed)?;
        assert_eq!(ips[1]["address"], "10.0.1.7/32");
        // Told that there are none is told.
        let container = node.make_container("plain", &[("ipv4", "10.0.1.9")])?;
        let ips = add(&container, json!({}))?;
        assert_eq!(ips[1]["address"], "10.0.1.1/32");
        // Not told: the manifest counts.
        let ips = node.add_pod("manifest", &[("ipv4", "10.0.1.9")])?.addresses;
        assert_eq!(ips[1], address("10.0.1.9"));
        Ok(())
    })
}

#[test]
fn an_anycast_address_is_served_as_long_as_a_pod_serves_it() -> Result<()> {
    sandbox::within("an_anycast_address_is_served_as_long_as_a_pod_serves_it", |_| {
        let mut fabric = Fabric::build(1)?;
        fabric.nodes[0].start()?;
        fabric.router.bird.established(2, LIMIT)?;
        let node = &fabric.nodes[0];
        let served = [address("2001:db8:a::53"), address("198.51.100.53")];
        let annotation = [("anycast", "2001:db8:a::53,198.51.100.53")];
        let one = node.add_pod("one", &annotation)?;
        let two = node.add_pod("two", &annotation)?;
        let client = node.add_pod("client", &[])?;
        assert!(one.addresses.iter().all(|own| !served.contains(own)), "it has its own beside them");
        for target in served {
            client.netns().must_ping(target, AT_ONCE)?;
            fabric.router.netns.reach(target, LIMIT)?;
        }
        node.delete_pod(&one)?;
        for target in served {
            client.netns().must_ping(target, AT_ONCE)?;
            fabric.router.netns.must_ping(target, AT_ONCE)?;
        }
        node.delete_pod(&two)?;
        for target in served {
            let route = node.netns.ip(&["route", "show", &target.to_string()])?;
            assert_eq!(route, "", "{target}");
        }
        Ok(())
    })
}
