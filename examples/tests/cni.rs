//! The plugin and the agent as a container runtime sees them: the verbs, in every
//! version of the specification, in the orders that runtimes are known for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use flock_examples::fabric::ANYCAST_PREFIXES;
use flock_examples::netns::Netns;
use flock_examples::node::Node;
use flock_examples::runtime::{Container, Runtime};
use flock_examples::snapshot::Snapshot;
use flock_examples::{Result, programs, sandbox};
use serde_json::{Value, json};

const AT_ONCE: Duration = Duration::from_millis(50);
const CODE_VERSION: u32 = 1;
const CODE_UNKNOWN: u32 = 3;

fn start() -> Result<Node> {
    let mut node = Node::alone("node", &json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24"}))?;
    node.start_agent()?;
    node.wait_ready()?;
    Ok(node)
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap();
    let address = |ip: &Value| ip["address"].as_str().unwrap().split_once('/').unwrap().0.parse().unwrap();
    ips.iter().map(address).collect()
}

fn host_interface(result: &Value) -> String {
    result["interfaces"][0]["name"].as_str().unwrap().to_owned()
}

fn del(runtime: &Runtime, container: &Container) -> Result<()> {
    let answer = runtime.prepare("DEL", container).make()?;
    assert_eq!(answer.success()?, Value::Null);
    Ok(())
}

#[test]
fn version_needs_neither_an_agent_nor_input() -> Result<()> {
    sandbox::within("version_needs_neither_an_agent_nor_input", |_| {
        let node = Node::alone("node", &json!({}))?;
        let container = node.make_container("web", &[])?;
        let call = node.runtime()?.prepare("VERSION", &container);
        let call = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"]
            .iter()
            .fold(call, |call, name| call.without(name));
        let supported = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        for (input, version) in [("", "1.1.0"), (r#"{"cniVersion": "0.4.0"}"#, "0.4.0")] {
            let info = call.clone().input(input).make()?.success()?;
            assert_eq!(info, json!({"cniVersion": version, "supportedVersions": supported}), "{input}");
        }
        Ok(())
    })
}

#[test]
fn each_version_gets_a_result_of_its_own_shape() -> Result<()> {
    sandbox::within("each_version_gets_a_result_of_its_own_shape", |_| {
        let node = start()?;
        let runtime = node.runtime()?;
        for (version, has_family, has_mtu, has_check) in [
            ("0.3.0", true, false, false),
            ("0.3.1", true, false, false),
            ("0.4.0", true, false, true),
            ("1.0.0", false, false, true),
            ("1.1.0", false, true, true),
        ] {
            let container = node.make_container(&format!("v{}", version.replace('.', "")), &[])?;
            let before = Snapshot::of(&node, &[&container.netns])?;
            let call = |verb| runtime.prepare(verb, &container).version(version);
            let result = call("ADD").make()?.success()?;

            assert_eq!(result["cniVersion"], version);
            assert_eq!(result.get("dns"), None, "{version}: an empty dns is left out");
            let [host, pod] = &result["interfaces"].as_array().unwrap()[..] else { panic!("{result}") };
            assert_eq!(host.get("sandbox"), None, "{version}");
            assert_eq!(pod["name"], "eth0", "{version}");
            assert_eq!(pod["sandbox"], container.netns.path().display().to_string(), "{version}");
            assert_eq!(pod.get("mtu").is_some(), has_mtu, "{version}: {pod}");
            let ips = result["ips"].as_array().unwrap();
            for (ip, family, length, gateway) in
                [(&ips[0], "6", "/128", "fe80::1"), (&ips[1], "4", "/32", "169.254.1.1")]
            {
                let expected = if has_family { json!(family) } else { Value::Null };
                assert_eq!(ip["version"], expected, "{version}: {ip}");
                assert_eq!(ip["interface"], 1, "{version}: {ip}");
                assert_eq!(ip["gateway"], gateway, "{version}: {ip}");
                assert!(ip["address"].as_str().unwrap().ends_with(length), "{version}: {ip}");
            }
            let default =
                json!([{"dst": "::/0", "gw": "fe80::1"}, {"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]);
            assert_eq!(result["routes"], default, "{version}");
            for address in addresses(&result) {
                node.netns.must_ping(address, AT_ONCE)?;
            }

            let added = Snapshot::of(&node, &[&container.netns])?;
            assert_eq!(call("ADD").make()?.success()?, result, "{version}: ADD again");
            let check = call("CHECK").config("prevResult", result.clone()).make()?;
            if has_check {
                assert_eq!(check.success()?, Value::Null);
            } else {
                let failure = check.failure()?;
                assert_eq!((failure.code, failure.cni_version.as_str()), (CODE_VERSION, version));
                assert!(failure.msg.contains("CHECK needs CNI version 0.4.0"), "{}", failure.msg);
            }
            assert_eq!(added.difference(&Snapshot::of(&node, &[&container.netns])?), "", "{version}");
            let deleted = call("DEL").config("prevResult", result).make()?;
            assert_eq!(deleted.success()?, Value::Null);
            before.returns(&node, &[&container.netns])?;
        }
        Ok(())
    })
}

#[test]
fn every_del_succeeds_and_touches_nobody_else() -> Result<()> {
    sandbox::within("every_del_succeeds_and_touches_nobody_else", |_| {
        let node = start()?;
        let runtime = node.runtime()?;
        let kept = node.add_pod("kept", &[])?;
        let before = Snapshot::of(&node, &[kept.netns()])?;
        let check_nothing_else_happened = || before.returns(&node, &[kept.netns()]);

        let unknown = node.make_container("unknown", &[])?;
        del(&runtime, &unknown)?;
        assert_eq!(before.difference(&Snapshot::of(&node, &[kept.netns()])?), "");

        let twice = node.add_pod("twice", &[])?;
        let call = runtime.prepare("DEL", &twice.container);
        call.make()?.success()?;
        call.make()?.success()?;
        check_nothing_else_happened()?;
        // Also when nothing is known of it any more.
        call.make()?.success()?;
        let failure = runtime.prepare("CHECK", &twice.container).make()?.failure()?;
        assert_eq!(failure.code, CODE_UNKNOWN);

        let nameless = node.add_pod("nameless", &[])?;
        let call = runtime.prepare("DEL", &nameless.container);
        call.clone().without("CNI_NETNS").make()?.success()?;
        call.variable("CNI_NETNS", "").make()?.success()?;
        check_nothing_else_happened()?;

        let gone = node.add_pod("gone", &[])?;
        gone.netns().delete()?;
        del(&runtime, &gone.container)?;
        check_nothing_else_happened()?;

        // What DEL does not need can't make it fail.
        let odd = node.add_pod("odd", &[])?;
        let call = runtime.prepare("DEL", &odd.container).variable("CNI_ARGS", "no pairs");
        call.config("prevResult", "nonsense").config("mtu", -1).make()?.success()?;
        check_nothing_else_happened()
    })
}

/// Runtimes keep paths, and a path may be another container's by now (cri-o#2849).
#[test]
fn a_del_with_the_path_of_another_container_spares_that_one() -> Result<()> {
    sandbox::within("a_del_with_the_path_of_another_container_spares_that_one", |_| {
        let node = start()?;
        let runtime = node.runtime()?;
        let old = node.add_pod("path", &[])?;
        old.netns().delete()?;
        // The same name again: another namespace under the same path.
        let mut new = node.make_container("path", &[])?;
        new.id = "another-container".to_owned();
        let added = addresses(&runtime.prepare("ADD", &new).make()?.success()?);
        assert!(added.iter().all(|address| !old.addresses.contains(address)), "{added:?}");
        let inside = Snapshot::of(&node, &[&new.netns])?;

        // CHECK of the old one does not mistake the new one for it.
        let failure = runtime.prepare("CHECK", &old.container).make()?.failure()?;
        assert!(failure.msg.contains("another network namespace"), "{}", failure.msg);
        del(&runtime, &old.container)?;
        runtime.check(&new)?;
        for address in &added {
            node.netns.must_ping(*address, AT_ONCE)?;
        }
        del(&runtime, &new)?;
        let difference = inside.difference(&Snapshot::of(&node, &[&new.netns])?);
        assert!(difference.contains("another-container"), "{difference}");
        Ok(())
    })
}

#[test]
fn what_was_just_deleted_can_be_added_again_at_once() -> Result<()> {
    sandbox::within("what_was_just_deleted_can_be_added_again_at_once", |_| {
        let node = start()?;
        let runtime = node.runtime()?;
        let container = node.make_container("quick", &[])?;
        let before = Snapshot::of(&node, &[&container.netns])?;
        for _ in 0..3 {
            for address in runtime.add(&container)? {
                node.netns.must_ping(address, AT_ONCE)?;
            }
            del(&runtime, &container)?;
        }
        // A new sandbox in the same namespace, whose interface may still wait for the reaper.
        for round in 0..3 {
            let next = Container { id: format!("{}-{round}", container.id), ..container.clone() };
            for address in runtime.add(&next)? {
                node.netns.must_ping(address, AT_ONCE)?;
            }
            runtime.check(&next)?;
            del(&runtime, &next)?;
        }
        before.returns(&node, &[&container.netns])
    })
}

#[test]
fn a_chain_is_passed_on_and_extended() -> Result<()> {
    sandbox::within("a_chain_is_passed_on_and_extended", |_| {
        let node = start()?;
        let container = node.make_container("chained", &[])?;
        let call = |verb| node.runtime().unwrap().prepare(verb, &container);
        let sandbox = container.netns.path().display().to_string();
        let previous = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "first0", "sandbox": sandbox}],
            "ips": [{"address": "192.0.2.7/24", "gateway": "192.0.2.1", "interface": 0}],
            "routes": [{"dst": "198.51.100.0/24", "gw": "192.0.2.1"}],
            "dns": {"nameservers": ["192.0.2.53"]},
        });
        let result = call("ADD").config("prevResult", previous.clone()).make()?.success()?;
        assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
        assert_eq!(result["interfaces"][2]["name"], "eth0");
        assert_eq!(result["ips"][0], previous["ips"][0]);
        assert_eq!(result["ips"][1]["interface"], 2, "Flock's addresses are on its own interface");
        assert_eq!(result["routes"].as_array().unwrap().len(), 3);
        assert_eq!(result["dns"], previous["dns"]);
        assert_eq!(call("ADD").config("prevResult", previous).make()?.success()?, result);

        let check = |result: &Value| call("CHECK").config("prevResult", result.clone()).make();
        check(&result)?.success()?;
        let mut extended = result.clone();
        extended["interfaces"].as_array_mut().unwrap().push(json!({"name": "last0"}));
        extended["ips"].as_array_mut().unwrap().push(json!({"address": "203.0.113.1/32"}));
        check(&extended)?.success()?;
        for (list, index, named) in [
            ("interfaces", 2, "interface eth0"),
            ("ips", 1, "address 2001:db8:1::"),
            ("routes", 2, "route 0.0.0.0/0"),
        ] {
            let mut cut = result.clone();
            cut[list].as_array_mut().unwrap().remove(index);
            if list == "interfaces" {
                cut["ips"].as_array_mut().unwrap().iter_mut().for_each(|ip| ip["interface"] = json!(0));
            }
            let failure = check(&cut)?.failure()?;
            assert!(failure.msg.contains("prevResult") && failure.msg.contains(named), "{}", failure.msg);
        }
        Ok(())
    })
}

#[test]
fn two_interfaces_of_one_container_are_two_attachments() -> Result<()> {
    sandbox::within("two_interfaces_of_one_container_are_two_attachments", |_| {
        let node = start()?;
        let container = node.make_container("dual", &[])?;
        let before = Snapshot::of(&node, &[&container.netns])?;
        let call = |verb, interface| node.runtime().unwrap().prepare(verb, &container).interface(interface);
        let first = call("ADD", "eth0").make()?.success()?;
        let with_one = Snapshot::of(&node, &[&container.netns])?;
        let second = call("ADD", "net1").make()?.success()?;
        assert_ne!(host_interface(&first), host_interface(&second));
        assert_eq!(second["interfaces"][1]["name"], "net1");
        let ping = |result: &Value| -> Result<()> {
            addresses(result).into_iter().try_for_each(|to| node.netns.must_ping(to, AT_ONCE).map(drop))
        };
        ping(&first)?;
        ping(&second)?;
        for interface in ["eth0", "net1"] {
            call("CHECK", interface).make()?.success()?;
        }
        call("DEL", "net1").make()?.success()?;
        with_one.returns(&node, &[&container.netns])?;
        ping(&first)?;

        // And the other way round: the first one goes, the second one stays.
        let second = call("ADD", "net1").make()?.success()?;
        call("DEL", "eth0").make()?.success()?;
        ping(&second)?;
        call("CHECK", "net1").make()?.success()?;
        let first = call("ADD", "eth0").make()?.success()?;
        ping(&first)?;
        ping(&second)?;
        call("DEL", "eth0").make()?.success()?;
        call("DEL", "net1").make()?.success()?;
        before.returns(&node, &[&container.netns])
    })
}

#[test]
fn check_says_what_is_not_as_it_should_be() -> Result<()> {
    sandbox::within("check_says_what_is_not_as_it_should_be", |_| {
        // An agent that leaves on the node what it would else put right within a moment.
        let prefixes =
            json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24", "anycastPrefixes": ANYCAST_PREFIXES});
        let mut node = Node::alone("node", &prefixes)?;
        let mut command = node.command_of(&programs::example("mortal")?, "bird");
        command.env("MORTAL_DEAF", "1");
        node.start_agent_as(command)?;
        node.wait_ready()?;
        let runtime = node.runtime()?;
        let (anycast6, anycast4) = ("2001:db8:a::1", "198.51.100.1");
        let served = format!("{anycast6}, {anycast4}");
        let container = node.make_container("drifting", &[("anycast", &served)])?;
        let result = runtime.prepare("ADD", &container).make()?.success()?;
        let [ipv6, ipv4] = addresses(&result)[..] else { panic!("{result}") };
        let host = host_interface(&result);
        let (pod, outside): (&Netns, &Netns) = (&container.netns, &node.netns);
        for (netns, change, expected) in [
            (
                pod,
                format!("address del {ipv6}/128 dev eth0"),
                format!("pod side: the address {ipv6} is missing"),
            ),
            (
                pod,
                format!("address del {ipv4}/32 dev eth0"),
                format!("pod side: the address {ipv4} is missing"),
            ),
            (
                pod,
                "-4 route del default".to_owned(),
                "pod side: the route to 0.0.0.0/0 is missing".to_owned(),
            ),
            (pod, "-6 route del default".to_owned(), "pod side: the route to ::/0 is missing".to_owned()),
            (
                pod,
                "neigh del fe80::1 dev eth0".to_owned(),
                "pod side: the neighbour entry of fe80::1".to_owned(),
            ),
            (
                pod,
                "neigh del 169.254.1.1 dev eth0".to_owned(),
                "pod side: the neighbour entry of 169.254.1.1".to_owned(),
            ),
            (
                pod,
                "neigh flush dev eth0 nud permanent".to_owned(),
                "pod side: the neighbour entry of fe80::1".to_owned(),
            ),
            (pod, "link set eth0 mtu 1400".to_owned(), "pod side: the MTU is 1400, expected 1500".to_owned()),
            (pod, "link set eth0 down".to_owned(), "pod side: the interface is down".to_owned()),
            (pod, "link set eth0 down name eth9".to_owned(), "pod side: the interface is missing".to_owned()),
            (
                outside,
                format!("-4 route del {ipv4}"),
                format!("host side: the route to {ipv4}/32 is missing"),
            ),
            (
                outside,
                format!("-6 route del {ipv6}"),
                format!("host side: the route to {ipv6}/128 is missing"),
            ),
            (
                outside,
                format!("-4 route del {anycast4}"),
                format!("host side: the route to {anycast4}/32 is missing"),
            ),
            (
                outside,
                format!("-6 route del {anycast6}"),
                format!("host side: the route to {anycast6}/128 is missing"),
            ),
            (
                pod,
                format!("address del {anycast6}/128 dev eth0"),
                format!("pod side: the address {anycast6} is missing"),
            ),
            (
                pod,
                format!("address del {anycast4}/32 dev eth0"),
                format!("pod side: the address {anycast4} is missing"),
            ),
            (
                outside,
                format!("address del fe80::1/64 dev {host}"),
                "host side: the address fe80::1 is missing".to_owned(),
            ),
            (
                outside,
                format!("neigh del {ipv6} dev {host}"),
                format!("host side: the neighbour entry of {ipv6} is missing"),
            ),
            (
                outside,
                format!("neigh del {ipv4} dev {host}"),
                format!("host side: the neighbour entry of {ipv4} is missing"),
            ),
            (
                outside,
                format!("link set {host} mtu 1400"),
                "host side: the MTU is 1400, expected 1500".to_owned(),
            ),
            (outside, format!("link set {host} down"), "host side: the interface is down".to_owned()),
            (outside, format!("link del {host}"), "host side: the interface is missing".to_owned()),
        ] {
            runtime.check(&container)?;
            netns.ip(&change.split(' ').collect::<Vec<_>>())?;
            let failure = runtime.prepare("CHECK", &container).make()?.failure()?;
            assert_eq!(failure.code, 106, "{change}: {}", failure.msg);
            assert!(failure.msg.contains(&expected), "{change}: {}", failure.msg);
            // A repeated ADD mends it.
            assert_eq!(runtime.prepare("ADD", &container).make()?.success()?, result, "{change}");
            for address in [ipv6, ipv4] {
                node.netns.must_ping(address, AT_ONCE)?;
            }
        }
        runtime.check(&container)
    })
}

/// With the record everything is gone that CHECK could compare with.
#[test]
fn check_of_an_attachment_without_a_record_says_so() -> Result<()> {
    sandbox::within("check_of_an_attachment_without_a_record_says_so", |_| {
        let mut node = start()?;
        let pod = node.add_pod("recorded", &[])?;
        let kept = node.add_pod("kept", &[])?;
        node.agent().unwrap().kill()?;
        let records = node.files().run.join("attachments");
        std::fs::remove_file(records.join(format!("{}@eth0.json", pod.container.id))).unwrap();
        node.start_agent()?;
        node.wait_ready()?;
        let runtime = node.runtime()?;
        let failure = runtime.prepare("CHECK", &pod.container).make()?.failure()?;
        assert_eq!(failure.code, CODE_UNKNOWN, "{}", failure.msg);
        assert!(failure.msg.contains("there is no attachment"), "{}", failure.msg);
        runtime.check(&kept.container)
    })
}

#[test]
fn forty_at_once_get_forty_addresses_and_leave_nothing() -> Result<()> {
    const COUNT: usize = 40;
    sandbox::within("forty_at_once_get_forty_addresses_and_leave_nothing", |_| {
        let node = start()?;
        let runtime = node.runtime()?;
        let containers: Vec<Container> =
            (0..COUNT).map(|index| node.make_container(&format!("p{index}"), &[])).collect::<Result<_>>()?;
        let before = Snapshot::of(&node, &[])?;
        let at_once = |verb: &str| -> Result<Vec<Value>> {
            thread::scope(|scope| {
                let calls: Vec<_> = containers
                    .iter()
                    .map(|container| scope.spawn(|| runtime.prepare(verb, container).make()?.success()))
                    .collect();
                calls.into_iter().map(|call| call.join().unwrap()).collect()
            })
        };
        let results = at_once("ADD")?;
        let mut given: Vec<IpAddr> = results.iter().flat_map(addresses).collect();
        assert_eq!(given.len(), 2 * COUNT);
        given.sort();
        given.dedup();
        assert_eq!(given.len(), 2 * COUNT, "an address was given twice: {results:?}");
        for address in given {
            node.netns.must_ping(address, Duration::from_secs(1))?;
        }
        at_once("DEL")?;
        before.returns(&node, &[])
    })
}
