//! Every difference is found, and a second `attach` repairs it.

use std::net::IpAddr;

use flock_core::attachment::{Attachment, GATEWAY_V4, GATEWAY_V6};
use flock_core::dataplane::conformance::{anycast_v4, anycast_v6, wanted};
use flock_core::dataplane::{Dataplane, Drift, Side};
use ipnet::IpNet;

use crate::lab::{Lab, first_packet, in_pod, run};

/// Where a disturbance happens.
#[derive(Debug, Clone, Copy)]
enum At {
    Node,
    Pod,
}

#[tokio::test]
async fn every_difference_is_found_and_repaired() {
    let lab = Lab::new();
    lab.dataplane.prepare().await.unwrap();
    let mut pod = wanted(&lab, 1).await;
    pod.anycast = vec![anycast_v6(), anycast_v4()];
    lab.dataplane.attach(&pod).await.unwrap();
    let macs = pod.key.mac_addresses();
    let host = pod.host_interface.to_string();
    let [v6, v4] = own(&pod);
    let local = IpAddr::V6(macs.pod.link_local());
    let setting = |name: String, expected: &str, found: &str| Drift::Setting {
        name,
        expected: expected.to_owned(),
        found: found.to_owned(),
    };
    let conf = |family: &str, name: &str| format!("net.{family}.conf.{host}.{name}");

    let mut cases: Vec<(At, String, Vec<Drift>)> = vec![
        (At::Node, format!("ip link set {host} mtu 1400"), vec![mtu(Side::Host, 1400)]),
        (At::Pod, "ip link set eth0 mtu 1400".into(), vec![mtu(Side::Pod, 1400)]),
        (
            At::Node,
            format!("ip link set {host} address 02:00:00:00:00:99"),
            vec![setting(format!("{host} address"), &macs.host.to_string(), "02:00:00:00:00:99")],
        ),
        (
            At::Pod,
            "ip link set eth0 address 02:00:00:00:00:99".into(),
            vec![setting("eth0 address".into(), &macs.pod.to_string(), "02:00:00:00:00:99")],
        ),
        (
            At::Node,
            format!("ip link set {host} group 7"),
            vec![setting(format!("{host} group"), &flock_netlink::LINK_GROUP.to_string(), "7")],
        ),
        (
            At::Node,
            format!("ip link set {host} addrgenmode eui64"),
            vec![setting(format!("{host} addrgenmode"), "none", "Eui64")],
        ),
        (
            At::Node,
            format!("ip address del fe80::1/64 dev {host}"),
            vec![Drift::AddressMissing(Side::Host, IpAddr::V6(GATEWAY_V6))],
        ),
        (
            At::Node,
            format!("ip route del {v4} dev {host}"),
            vec![Drift::RouteMissing(Side::Host, IpNet::from(v4))],
        ),
        (
            At::Node,
            format!("ip -6 route del {v6} dev {host}"),
            vec![Drift::RouteMissing(Side::Host, IpNet::from(v6))],
        ),
        (
            At::Pod,
            "ip route del default dev eth0".into(),
            vec![Drift::RouteMissing(Side::Pod, "0.0.0.0/0".parse().unwrap())],
        ),
        (
            At::Pod,
            "ip -6 route del default dev eth0".into(),
            vec![Drift::RouteMissing(Side::Pod, "::/0".parse().unwrap())],
        ),
    ];
    for (family, name, expected, found) in [
        ("ipv4", "forwarding", "1", "0"),
        ("ipv4", "proxy_arp", "1", "0"),
        ("ipv4", "rp_filter", "1", "2"),
        ("ipv6", "forwarding", "1", "0"),
        ("ipv6", "accept_ra", "0", "2"),
    ] {
        let command = format!("sysctl -q -w net/{family}/conf/{host}/{name}={found}");
        cases.push((At::Node, command, vec![setting(conf(family, name), expected, found)]));
    }
    for address in [v6, v4, local, anycast_v6(), anycast_v4()] {
        let command = format!("ip neighbour del {address} dev {host}");
        cases.push((At::Node, command, vec![Drift::NeighbourMissing(Side::Host, address)]));
        let length = if address == local { 64 } else { IpNet::from(address).prefix_len() };
        let command = format!("ip address del {address}/{length} dev eth0");
        cases.push((At::Pod, command, vec![Drift::AddressMissing(Side::Pod, address)]));
    }
    for gateway in [IpAddr::V6(GATEWAY_V6), IpAddr::V4(GATEWAY_V4)] {
        let command = format!("ip neighbour del {gateway} dev eth0");
        cases.push((At::Pod, command, vec![Drift::NeighbourMissing(Side::Pod, gateway)]));
        let command = format!("ip neighbour change {gateway} dev eth0 lladdr 02:00:00:00:00:99");
        cases.push((At::Pod, command, vec![Drift::NeighbourMissing(Side::Pod, gateway)]));
    }

    for (at, command, expected) in cases {
        let words: Vec<&str> = command.split(' ').collect();
        match at {
            At::Node => run(&words),
            At::Pod => in_pod(&pod.netns.path, &words),
        };
        let found = lab.drift(&pod).await;
        for drift in expected {
            assert!(found.contains(&drift), "{command}: {drift:?} is not in {found:?}");
        }
        lab.dataplane.attach(&pod).await.unwrap();
        assert_eq!(lab.drift(&pod).await, [], "after {command}");
        for address in own(&pod) {
            first_packet(None, &address.to_string());
        }
    }
}

/// A link that goes down loses its IPv6 addresses and its routes.
#[tokio::test]
async fn a_link_that_is_down_is_found_and_repaired() {
    let lab = Lab::new();
    lab.dataplane.prepare().await.unwrap();
    let pod = wanted(&lab, 1).await;
    for side in [Side::Host, Side::Pod] {
        lab.dataplane.attach(&pod).await.unwrap();
        match side {
            Side::Host => run(&["ip", "link", "set", pod.host_interface.as_str(), "down"]),
            Side::Pod => in_pod(&pod.netns.path, &["ip", "link", "set", "eth0", "down"]),
        };
        let found = lab.drift(&pod).await;
        assert!(found.contains(&Drift::LinkDown(side)), "{side}: {found:?}");
        lab.dataplane.attach(&pod).await.unwrap();
        assert_eq!(lab.drift(&pod).await, [], "{side}");
        for address in own(&pod) {
            first_packet(None, &address.to_string());
        }
    }
}

/// The interface in the pod has another name: it serves nobody.
#[tokio::test]
async fn a_pod_side_that_was_renamed_is_found_and_made_anew() {
    let lab = Lab::new();
    lab.dataplane.prepare().await.unwrap();
    let pod = wanted(&lab, 1).await;
    lab.dataplane.attach(&pod).await.unwrap();
    in_pod(&pod.netns.path, &["ip", "link", "set", "eth0", "down"]);
    in_pod(&pod.netns.path, &["ip", "link", "set", "eth0", "name", "other"]);
    assert_eq!(lab.drift(&pod).await, [Drift::LinkMissing(Side::Pod)]);
    lab.dataplane.attach(&pod).await.unwrap();
    assert_eq!(lab.drift(&pod).await, []);
    assert_eq!(crate::lab::pod_interfaces(&pod.netns.path), ["eth0"]);
}

/// Somebody put another interface under the name.
#[tokio::test]
async fn a_pod_side_that_is_somebody_elses_is_found_and_left_alone() {
    let lab = Lab::new();
    lab.dataplane.prepare().await.unwrap();
    let pod = wanted(&lab, 1).await;
    lab.dataplane.attach(&pod).await.unwrap();
    in_pod(&pod.netns.path, &["ip", "link", "delete", "eth0"]);
    in_pod(&pod.netns.path, &["ip", "link", "add", "eth0", "type", "bridge"]);
    let found = lab.drift(&pod).await;
    assert_eq!(found, [Drift::LinkMissing(Side::Host), Drift::LinkForeign(Side::Pod)]);
    let error = lab.dataplane.attach(&pod).await.unwrap_err();
    assert!(error.to_string().contains("was not made for this attachment"), "{error}");
    assert_eq!(crate::lab::pod_interfaces(&pod.netns.path), ["eth0"]);
}

fn mtu(side: Side, found: u32) -> Drift {
    Drift::Mtu { side, expected: 1500, found }
}

fn own(attachment: &Attachment) -> [IpAddr; 2] {
    [attachment.addresses.ipv6.unwrap().into(), attachment.addresses.ipv4.unwrap().into()]
}
