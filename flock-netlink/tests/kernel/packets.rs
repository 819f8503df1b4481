//! Packets pass as soon as `attach` has returned.

use flock_core::attachment::{Attachment, GATEWAY_V4, GATEWAY_V6};
use flock_core::dataplane::Dataplane;
use flock_core::dataplane::conformance::{attached, sibling, wanted};

use crate::lab::{Lab, first_packet, in_pod, run, set_in_pod};

/// Each packet is the first one of a new attachment: nothing before it has
/// resolved a neighbour or waited for a carrier.
#[tokio::test]
async fn the_first_packet_to_the_gateway_is_answered() {
    let lab = prepared(Lab::new()).await;
    for number in 0..10 {
        let pod = attached(&lab, number).await;
        if number % 2 == 0 {
            first_packet(Some(&pod), &format!("{GATEWAY_V6}%eth0"));
        } else {
            first_packet(Some(&pod), &GATEWAY_V4.to_string());
        }
    }
}

#[tokio::test]
async fn the_first_packet_from_a_node_without_addresses_is_answered() {
    let lab = prepared(Lab::new()).await;
    for number in 0..4 {
        let pod = attached(&lab, number).await;
        first_packet(None, &own(&pod)[usize::from(number % 2)]);
    }
}

#[tokio::test]
async fn the_first_packets_between_node_and_pod_are_answered() {
    let lab = prepared(Lab::with_addresses()).await;
    for number in 0..4 {
        let pod = attached(&lab, number).await;
        first_packet(None, &own(&pod)[usize::from(number % 2)]);
    }
    for (number, node) in (4..8).zip(["2001:db8:ffff::1", "192.0.2.1"].repeat(2)) {
        let pod = attached(&lab, number).await;
        first_packet(Some(&pod), node);
    }
}

#[tokio::test]
async fn the_first_packet_between_pods_is_answered() {
    let lab = prepared(Lab::new()).await;
    for number in 0..4 {
        let (one, other) = (attached(&lab, 2 * number).await, attached(&lab, 2 * number + 1).await);
        first_packet(Some(&one), &own(&other)[usize::from(number % 2)]);
    }
}

#[tokio::test]
async fn the_node_uses_its_own_address_where_it_has_one() {
    let lab = prepared(Lab::with_addresses()).await;
    let pod = attached(&lab, 1).await;
    let route = run(&["ip", "route", "get", &own(&pod)[1]]);
    assert!(route.contains("src 192.0.2.1"), "{route}");
}

#[tokio::test]
async fn no_address_is_ever_tentative() {
    let lab = prepared(Lab::new()).await;
    for number in 0..5 {
        let mut pod = wanted(&lab, number).await;
        pod.anycast = vec!["2001:db8:ffff::53".parse().unwrap()];
        lab.dataplane.attach(&pod).await.unwrap();
        for text in [
            in_pod(&pod.netns.path, &["ip", "-6", "address", "show", "tentative"]),
            run(&["ip", "-6", "address", "show", "tentative"]),
        ] {
            assert!(text.trim().is_empty(), "{text}");
        }
    }
}

/// What the kernel adds by itself would be in nobody's books.
#[tokio::test]
async fn each_side_has_no_other_addresses() {
    let lab = prepared(Lab::new()).await;
    let pod = attached(&lab, 1).await;
    let count = |text: String| text.lines().count();
    let pod_side = in_pod(&pod.netns.path, &["ip", "-o", "address", "show", "dev", "eth0"]);
    assert_eq!(count(pod_side.clone()), 3, "{pod_side}");
    let host_side = run(&["ip", "-o", "address", "show", "dev", pod.host_interface.as_str()]);
    assert_eq!(count(host_side.clone()), 1, "{host_side}");
}

#[tokio::test]
async fn an_anycast_address_is_never_the_source() {
    let lab = prepared(Lab::with_addresses()).await;
    let mut pod = wanted(&lab, 1).await;
    pod.anycast = vec!["2001:db8:1::1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
    lab.dataplane.attach(&pod).await.unwrap();
    for (target, source) in ["2001:db8:1::2", "10.0.0.3"].iter().zip(own(&pod)) {
        let route = in_pod(&pod.netns.path, &["ip", "route", "get", target]);
        assert!(route.contains(&format!("src {source} ")), "{route}");
    }
}

#[tokio::test]
async fn two_attachments_of_one_container_are_both_reachable() {
    let lab = prepared(Lab::new()).await;
    let first = attached(&lab, 1).await;
    let second = sibling(&first, 2);
    lab.dataplane.attach(&second).await.unwrap();
    for address in own(&first).into_iter().chain(own(&second)) {
        first_packet(None, &address);
    }
    lab.dataplane.detach(&second).await.unwrap();
    for address in own(&first) {
        first_packet(None, &address);
    }
}

/// Some runtimes make namespaces so.
#[tokio::test]
async fn a_namespace_with_ipv6_switched_off_gets_ipv6() {
    let lab = prepared(Lab::new()).await;
    let pod = wanted(&lab, 1).await;
    for part in ["all", "default"] {
        set_in_pod(&pod.netns.path, &format!("net.ipv6.conf.{part}.disable_ipv6"), "1");
    }
    lab.dataplane.attach(&pod).await.unwrap();
    assert_eq!(lab.drift(&pod).await, []);
    for address in own(&pod) {
        first_packet(None, &address);
    }
}

/// A spoofed source does not pass.
#[tokio::test]
async fn a_pod_speaks_for_itself_only() {
    let lab = prepared(Lab::with_addresses()).await;
    let pod = attached(&lab, 1).await;
    in_pod(&pod.netns.path, &["ip", "address", "add", "203.0.113.7/32", "dev", "eth0"]);
    let path = format!("--net={}", pod.netns.path.display());
    let spoofed = ["nsenter", &path, "ping", "-c1", "-W0.05", "-I", "203.0.113.7", "192.0.2.1"];
    assert!(!crate::lab::attempt(&spoofed).status.success());
    let dropped = run(&["nstat", "-asz", "TcpExtIPReversePathFilter"]);
    assert!(dropped.contains("IPReversePathFilter") && !dropped.contains(" 0  "), "{dropped}");
}

async fn prepared(lab: Lab) -> Lab {
    lab.dataplane.prepare().await.unwrap();
    lab
}

fn own(attachment: &Attachment) -> Vec<String> {
    attachment.addresses.iter().map(|address| address.to_string()).collect()
}
