//! Bad input gets a clear error and changes nothing: what runtimes and pods can get wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;

use flock_examples::fabric::ANYCAST_PREFIXES;
use flock_examples::netns::Netns;
use flock_examples::node::Node;
use flock_examples::runtime::{Call, Container};
use flock_examples::snapshot::Snapshot;
use flock_examples::{Result, sandbox};
use serde_json::{Value, json};

const VERSION: u32 = 1;
const ENVIRONMENT: u32 = 4;
const DECODING: u32 = 6;
const CONFIG: u32 = 7;
const TRY_AGAIN: u32 = 11;
const ADDRESS: u32 = 101;
const DATAPLANE: u32 = 102;
const POD: u32 = 104;

fn start(spec: &Value) -> Result<Node> {
    let mut node = Node::alone("node", spec)?;
    node.start_agent()?;
    node.wait_ready()?;
    Ok(node)
}

fn dual_stack() -> Result<Node> {
    start(&json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24", "anycastPrefixes": ANYCAST_PREFIXES}))
}

/// The call fails with this code, says all of these, and leaves node and pod as they were.
fn refused(node: &Node, pod: &Netns, call: &Call, code: u32, says: &[&str]) -> Result<()> {
    let before = Snapshot::of(node, &[pod])?;
    let failure = call.make()?.failure()?;
    let text = failure.text();
    for part in says {
        assert!(text.contains(part), "expected {part:?} in: {text}");
    }
    assert_eq!(failure.code, code, "{text}");
    assert_eq!(before.difference(&Snapshot::of(node, &[pod])?), "", "after: {text}");
    Ok(())
}

#[test]
fn a_configuration_that_can_not_be_used() -> Result<()> {
    sandbox::within("a_configuration_that_can_not_be_used", |_| {
        let node = dual_stack()?;
        let container = node.make_container("web", &[])?;
        let add = node.runtime()?.prepare("ADD", &container);
        let all = "supported versions: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0";
        for (call, code, says) in [
            (add.clone().input(""), DECODING, vec!["the network configuration is empty", "standard input"]),
            (
                add.clone().input("{\"cniVersion\": "),
                DECODING,
                vec!["is not valid JSON", "line 1 column 15", "/etc/cni/net.d"],
            ),
            (
                add.clone().input("[1, 2]"),
                DECODING,
                vec!["the network configuration is [1,2]", "a JSON object"],
            ),
            (add.clone().input([b'"', 0xff, b'"']), DECODING, vec!["is not valid JSON"]),
            (
                add.clone().config("mtu", "1500"),
                DECODING,
                vec!["\"mtu\" is \"1500\"", "0 (the node's own) or 68 to 65535"],
            ),
            (add.clone().config("mtu", 60), CONFIG, vec!["\"mtu\" is 60", "68 to 65535 bytes"]),
            (add.clone().config("mtu", -1), CONFIG, vec!["\"mtu\" is -1", "68 to 65535 bytes"]),
            (add.clone().config("name", json!([])), DECODING, vec!["\"name\" is []", "a string"]),
            (add.clone().config("name", ".."), CONFIG, vec!["\"..\" is not a valid network name"]),
            (
                add.clone().config("name", Value::Null),
                CONFIG,
                vec!["\"name\"", "is not a valid network name"],
            ),
            (add.clone().config("runDir", 7), DECODING, vec!["\"runDir\" is 7", "a string"]),
            (add.clone().config("runDir", "run"), CONFIG, vec!["\"runDir\" is \"run\"", "\"/run/flock\""]),
            (
                add.clone().config("timeoutSeconds", 0),
                CONFIG,
                vec!["\"timeoutSeconds\" is 0", "a whole number from 1 to"],
            ),
            (
                add.clone().config("timeoutSeconds", 1.5),
                CONFIG,
                vec!["\"timeoutSeconds\" is 1.5", "a whole number from 1 to"],
            ),
            (add.clone().config("cniVersion", 1), DECODING, vec!["\"cniVersion\" is 1", "a string"]),
            (add.clone().config("cniVersion", Value::Null), VERSION, vec!["has no \"cniVersion\"", all]),
            (add.clone().version("0.2.0"), VERSION, vec!["CNI version \"0.2.0\" is not supported", all]),
            (add.clone().version("2.0.0"), VERSION, vec!["CNI version \"2.0.0\" is not supported", all]),
            (add.clone().config("prevResult", "x"), DECODING, vec!["\"prevResult\" is \"x\"", "an object"]),
            (
                add.clone().config("prevResult", json!({"ips": [{"address": "web"}]})),
                DECODING,
                vec!["prevResult", "ips", "\"web\""],
            ),
            (
                add.clone()
                    .config("prevResult", json!({"ips": [{"address": "192.0.2.1/32", "interface": 3}]})),
                CONFIG,
                vec!["prevResult.ips[0].interface is 3", "an index into its 0 interfaces"],
            ),
            (
                add.clone().config("runtimeConfig", json!({"io.kubernetes.cri.pod-annotations": {"a": 1}})),
                DECODING,
                vec!["the annotation \"a\"", "is 1, expected a string"],
            ),
        ] {
            refused(&node, &container.netns, &call, code, &says)?;
        }
        // The same container can still be added, and gets the first address.
        let addresses = node.runtime()?.add(&container)?;
        assert_eq!(
            addresses,
            ["2001:db8:1::1".parse::<std::net::IpAddr>().unwrap(), "10.0.1.1".parse().unwrap()]
        );
        Ok(())
    })
}

#[test]
fn an_environment_that_can_not_be_used() -> Result<()> {
    sandbox::within("an_environment_that_can_not_be_used", |_| {
        let node = dual_stack()?;
        let container = node.make_container("web", &[])?;
        let add = node.runtime()?.prepare("ADD", &container);
        let check = node.runtime()?.prepare("CHECK", &container);
        let del = node.runtime()?.prepare("DEL", &container);
        let nothing = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]
            .iter()
            .fold(add.clone(), |call, name| call.without(name));
        let sets = "the container runtime sets these variables for ADD";
        for (call, says) in [
            (add.clone().without("CNI_COMMAND"), vec!["CNI_COMMAND is missing", "flock --help"]),
            (
                add.clone().variable("CNI_COMMAND", "add"),
                vec!["CNI_COMMAND is \"add\"", "ADD, CHECK, DEL", "in capitals"],
            ),
            (nothing, vec!["CNI_CONTAINERID is missing; CNI_NETNS is missing; CNI_IFNAME is missing", sets]),
            (check.without("CNI_NETNS"), vec!["CNI_NETNS is missing", "for CHECK"]),
            (del.clone().without("CNI_CONTAINERID"), vec!["CNI_CONTAINERID is missing", "for DEL"]),
            (del.without("CNI_IFNAME"), vec!["CNI_IFNAME is missing", "for DEL"]),
            (
                add.clone().variable("CNI_CONTAINERID", "../web"),
                vec!["CNI_CONTAINERID: \"../web\"", "a letter or digit, then"],
            ),
            (
                add.clone().variable("CNI_CONTAINERID", "c".repeat(191)),
                vec!["CNI_CONTAINERID: ", "1 to 190 characters"],
            ),
            (
                add.clone().interface("sixteen-bytes-xx"),
                vec!["CNI_IFNAME: \"sixteen-bytes-xx\"", "1 to 15 printable ASCII characters"],
            ),
            (add.clone().interface("a/b"), vec!["CNI_IFNAME: \"a/b\"", "without '/'"]),
            (add.clone().interface(".."), vec!["CNI_IFNAME: \"..\"", "not '.', '..', 'all' or 'default'"]),
            (
                add.clone().variable("CNI_NETNS", "netns/web"),
                vec!["CNI_NETNS: \"netns/web\"", "absolute path"],
            ),
            (
                add.clone().variable("CNI_ARGS", "K8S_POD_NAME"),
                vec!["CNI_ARGS has \"K8S_POD_NAME\"", "KEY=VALUE"],
            ),
            (
                add.clone().variable("CNI_ARGS", "COLOUR=red"),
                vec!["CNI_ARGS has \"COLOUR\"", "IgnoreUnknown=1"],
            ),
            (
                add.clone().variable("CNI_ARGS", "IgnoreUnknown=maybe"),
                vec!["IgnoreUnknown in CNI_ARGS is \"maybe\"", "1, true, 0 or false"],
            ),
            (
                add.clone().variable("CNI_ARGS", "K8S_POD_NAME=web"),
                vec!["K8S_POD_NAME and no K8S_POD_NAMESPACE"],
            ),
            (
                add.clone().variable("CNI_ARGS", "K8S_POD_NAME=Web;K8S_POD_NAMESPACE=default"),
                vec!["CNI_ARGS: \"Web\" is not a valid pod name"],
            ),
        ] {
            refused(&node, &container.netns, &call, ENVIRONMENT, &says)?;
        }
        // Keys that are for others are no error where the runtime says so.
        let others = add
            .variable("CNI_ARGS", "IgnoreUnknown=true;COLOUR=red;K8S_POD_NAME=web;K8S_POD_NAMESPACE=default");
        others.make()?.success()?;
        Ok(())
    })
}

#[test]
fn annotations_that_can_not_be_met() -> Result<()> {
    sandbox::within("annotations_that_can_not_be_met", |_| {
        let node = dual_stack()?;
        let holder = node.add_pod("holder", &[("ipv4", "10.0.1.9")])?;
        let runtime = node.runtime()?;
        for (index, (annotations, code, says)) in [
            (
                vec![("ipv4", "yes")],
                POD,
                vec!["flock.fritzlab.net/ipv4", "\"yes\"", "true, false or one IPv4 address"],
            ),
            (
                vec![("ipv6", "10.0.1.7")],
                POD,
                vec!["flock.fritzlab.net/ipv6", "\"10.0.1.7\"", "one IPv6 address"],
            ),
            (
                vec![("ip-algo", "lucky"), ("ipv4", "yes")],
                POD,
                vec!["ip-algo", "sequential, random or stable", "\"yes\""],
            ),
            (
                vec![("ip-alog", "stable")],
                POD,
                vec!["flock.fritzlab.net/ip-alog does not exist", "flock.fritzlab.net/ip-algo"],
            ),
            (vec![("cidr4", "10.0.1.64")], POD, vec!["cidr4", "\"10.0.1.64\"", "an IPv4 prefix like"]),
            (vec![("cidr4", "10.0.1.65/26")], POD, vec!["cidr4", "\"10.0.1.65/26\"", "10.0.1.64/26"]),
            (vec![("anycast", "web")], POD, vec!["anycast", "\"web\"", "addresses separated by commas"]),
            (vec![("anycast", "ff02::1")], POD, vec!["anycast", "\"ff02::1\"", "unicast"]),
            (
                vec![("anycast", "10.0.1.77")],
                POD,
                vec!["anycast names 10.0.1.77", "this node's prefix 10.0.1.0/24"],
            ),
            (
                vec![("anycast", "203.0.113.1")],
                POD,
                vec![
                    "anycast names 203.0.113.1",
                    "2001:db8:a::/48 or 198.51.100.0/24",
                    "spec.anycastPrefixes",
                ],
            ),
            (
                vec![("anycast", "198.51.100.1"), ("ipv4", "false")],
                POD,
                vec!["198.51.100.1", "the pod gets no IPv4 address"],
            ),
            (vec![("ipv6", "false"), ("ipv4", "false")], POD, vec!["no address family is left"]),
            (vec![("ipv4", "10.0.2.9")], ADDRESS, vec!["10.0.2.9 is outside this node's prefix 10.0.1.0/24"]),
            (
                vec![("cidr4", "10.0.0.0/16")],
                ADDRESS,
                vec!["10.0.0.0/16 is not part of this node's prefix 10.0.1.0/24"],
            ),
            (vec![("ipv4", "10.0.1.255")], ADDRESS, vec!["10.0.1.255 can't be given to a pod", "broadcast"]),
            (
                vec![("ipv6", "2001:db8:1::")],
                ADDRESS,
                vec!["2001:db8:1:: can't be given to a pod", "anycast"],
            ),
            (
                vec![("ipv4", "10.0.1.9")],
                TRY_AGAIN,
                vec!["10.0.1.9 is already in use by pod default/holder (container node-holder, eth0)"],
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let container = node.make_container(&format!("bad{index}"), &annotations)?;
            refused(&node, &container.netns, &runtime.prepare("ADD", &container), code, &says)?;
        }
        // What the runtime hands over is judged in the same way.
        let container = node.make_container("handed", &[])?;
        let handed = json!({"io.kubernetes.cri.pod-annotations": {"flock.fritzlab.net/ipv4": "maybe"}});
        let call = runtime.prepare("ADD", &container).config("runtimeConfig", handed);
        refused(&node, &container.netns, &call, POD, &["flock.fritzlab.net/ipv4", "\"maybe\""])?;
        // A manifest that nobody can read may be this pod's.
        let broken = node.files().pods.join("broken.yaml");
        fs::write(&broken, "kind: [").unwrap();
        let container = Container { pod_name: "elsewhere".to_owned(), ..container };
        let path = broken.display().to_string();
        refused(
            &node,
            &container.netns,
            &runtime.prepare("ADD", &container),
            POD,
            &[&path, "is not YAML or JSON", "default/elsewhere"],
        )?;
        // Nobody was harmed, and the refused ones hold nothing: the next address is the next one.
        runtime.check(&holder.container)?;
        let next = node.add_pod("next", &[])?;
        assert_eq!(next.addresses[0].to_string(), "2001:db8:1::2");
        Ok(())
    })
}

#[test]
fn an_exhausted_prefix_says_how_full_it_is() -> Result<()> {
    sandbox::within("an_exhausted_prefix_says_how_full_it_is", |_| {
        let node = start(&json!({"cidr4": "10.0.1.0/29"}))?;
        let pods: Vec<_> =
            (0..6).map(|index| node.add_pod(&format!("p{index}"), &[])).collect::<Result<_>>()?;
        let late = node.make_container("late", &[])?;
        let add = node.runtime()?.prepare("ADD", &late);
        let full = "10.0.1.0/29 is exhausted: 6 addresses in all, 6 in use, 0 resting after release";
        refused(&node, &late.netns, &add, TRY_AGAIN, &[full, "delete pods on this node", "a larger prefix"])?;
        let before = Snapshot::of(&node, &[&late.netns])?;
        node.delete_pod(&pods[0])?;
        // The link may still wait for the reaper: then this ADD has it removed, and the address rests.
        let rests = "10.0.1.0/29 is exhausted: 6 addresses in all, 5 in use, 1 resting after release";
        let failure = add.make()?.failure()?;
        assert!(failure.msg.contains(rests), "{}", failure.msg);
        // An operator may ask for the resting address by name.
        let wanted = pods[0].addresses[0].to_string();
        let pod = node.add_pod("operator", &[("ipv4", &wanted)])?;
        assert_eq!(pod.addresses, pods[0].addresses);
        assert_ne!(before.difference(&Snapshot::of(&node, &[&late.netns])?), "");
        let neither = node.make_container("neither", &[("ipv6", "true")])?;
        let call = node.runtime()?.prepare("ADD", &neither);
        refused(&node, &neither.netns, &call, POD, &["this node has no IPv6 prefix", "sets no cidr6"])
    })
}

#[test]
fn a_path_that_is_no_network_namespace() -> Result<()> {
    sandbox::within("a_path_that_is_no_network_namespace", |_| {
        let node = dual_stack()?;
        let container = node.make_container("web", &[])?;
        let add = node.runtime()?.prepare("ADD", &container);
        fs::write("/run/file", "").unwrap();
        for (path, says) in [
            ("/run/netns/missing", "there is no such file"),
            ("/run/file", "not a namespace file"),
            ("/run", "not a namespace file"),
            ("/run/file/netns", "it can't be looked at: Not a directory"),
            ("/proc/self/ns/uts", "a namespace of another kind than network"),
            ("/run/netns/node", "it is the node's own network namespace"),
        ] {
            let call = add.clone().variable("CNI_NETNS", path);
            let says = [&format!("{path} is not a network namespace"), says];
            refused(&node, &container.netns, &call, ENVIRONMENT, &says)?;
        }
        Ok(())
    })
}

#[test]
fn an_interface_name_that_is_taken() -> Result<()> {
    sandbox::within("an_interface_name_that_is_taken", |_| {
        let node = dual_stack()?;
        let runtime = node.runtime()?;
        let foreign = |netns: &Netns, name: &str| -> Result<()> {
            netns.ip(&["link", "add", "name", name, "type", "veth", "peer", "name", "other0"])?;
            netns.ip(&["link", "set", "dev", name, "up"])?;
            netns.address(name, "192.0.2.1/24")
        };
        // In the pod: that interface stays as it is.
        let container = node.make_container("web", &[("ipv4", "10.0.1.50")])?;
        foreign(&container.netns, "eth0")?;
        let path = container.netns.path().display().to_string();
        let says = ["the interface eth0 already exists in", &path, "was not made for this attachment"];
        let add = runtime.prepare("ADD", &container);
        refused(&node, &container.netns, &add, DATAPLANE, &says)?;
        // Another attachment's is not ours either.
        let pod = node.add_pod("pod", &[("ipv4", "10.0.1.50")])?;
        let intruder = Container { id: "intruder".to_owned(), ..pod.container.clone() };
        let says = ["the interface eth0 already exists in"];
        let bare = runtime.prepare("ADD", &intruder).without("CNI_ARGS");
        refused(&node, pod.netns(), &bare, DATAPLANE, &says)?;
        runtime.check(&pod.container)?;

        // On the node there are two names to choose from.
        let wanted = node.make_container("wanted", &[])?;
        let name = |result: &Value| result["interfaces"][0]["name"].as_str().unwrap().to_owned();
        let add = runtime.prepare("ADD", &wanted);
        let before = Snapshot::of(&node, &[])?;
        let first = name(&add.make()?.success()?);
        runtime.delete(&wanted)?;
        before.returns(&node, &[])?;
        foreign(&node.netns, &first)?;
        let before = Snapshot::of(&node, &[])?;
        let second = name(&add.make()?.success()?);
        assert_ne!(first, second);
        runtime.check(&wanted)?;
        runtime.delete(&wanted)?;
        before.returns(&node, &[])?;
        node.netns.ip(&["link", "set", "dev", "other0", "name", &second])?;
        refused(&node, &wanted.netns, &add, DATAPLANE, &[&first, &second, "belong to other"])
    })
}
