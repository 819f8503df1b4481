//! What the node is found to be, and made to be.

use std::path::Path;
use std::time::Duration;

use flock_core::dataplane::conformance::{DataplaneHarness, attached, wanted};
use flock_core::dataplane::{Dataplane, DataplaneError};
use flock_netlink::NetlinkDataplane;

use crate::lab::{Lab, in_pod, run};

#[tokio::test]
async fn a_bare_node_has_no_default_mtu_and_no_global_address() {
    let lab = Lab::new();
    let facts = lab.dataplane.prepare().await.unwrap();
    assert_eq!((facts.default_mtu, facts.first_global_ipv4), (None, None));
    for name in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.default.forwarding"] {
        assert_eq!(run(&["sysctl", "-n", name]).trim(), "1", "{name}");
    }
}

#[tokio::test]
async fn the_mtu_is_that_of_the_default_route_with_the_lowest_metric() {
    let lab = Lab::with_addresses();
    run(&["ip", "link", "add", "second", "mtu", "1300", "type", "bridge"]);
    run(&["ip", "link", "set", "second", "up"]);
    run(&["ip", "link", "set", "uplink", "mtu", "1400"]);
    run(&["ip", "route", "add", "default", "dev", "second"]);
    assert_eq!(lab.dataplane.prepare().await.unwrap().default_mtu, Some(1300));
    run(&["ip", "-6", "route", "add", "default", "dev", "second", "metric", "2000"]);
    run(&["ip", "-6", "route", "add", "default", "dev", "uplink", "metric", "100"]);
    assert_eq!(lab.dataplane.prepare().await.unwrap().default_mtu, Some(1400));
}

#[tokio::test]
async fn the_nodes_addresses_are_the_global_ones_and_the_gateways() {
    let lab = Lab::with_addresses();
    let facts = lab.dataplane.prepare().await.unwrap();
    let mut shown: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
    shown.sort();
    assert_eq!(shown, ["169.254.1.1", "192.0.2.1", "2001:db8:ffff::1", "fe80::1"]);
    assert_eq!(facts.first_global_ipv4, Some("192.0.2.1".parse().unwrap()));
}

/// A router refuses advertisements, unless it is told otherwise: the route would be lost.
#[tokio::test]
async fn a_default_route_from_a_router_advertisement_stays() {
    let lab = Lab::with_addresses();
    run(&["ip", "-6", "route", "add", "default", "via", "fe80::99", "dev", "uplink", "proto", "ra"]);
    run(&["sysctl", "-q", "-w", "net.ipv6.conf.uplink.accept_ra=1"]);
    lab.dataplane.prepare().await.unwrap();
    assert_eq!(run(&["sysctl", "-n", "net.ipv6.conf.uplink.accept_ra"]).trim(), "2");
    assert!(run(&["ip", "-6", "route", "show", "default"]).contains("fe80::99"));
    let pod = attached(&lab, 1).await;
    let name = format!("net.ipv6.conf.{}.accept_ra", pod.host_interface);
    assert_eq!(run(&["sysctl", "-n", &name]).trim(), "0");
}

#[tokio::test]
async fn an_interface_without_such_a_route_keeps_its_setting() {
    let lab = Lab::with_addresses();
    run(&["sysctl", "-q", "-w", "net.ipv6.conf.uplink.accept_ra=1"]);
    lab.dataplane.prepare().await.unwrap();
    assert_eq!(run(&["sysctl", "-n", "net.ipv6.conf.uplink.accept_ra"]).trim(), "1");
}

#[tokio::test]
async fn a_setting_that_cannot_be_written_is_named() {
    let lab = Lab::new();
    run(&["mount", "--bind", "-o", "ro", "/proc/sys", "/proc/sys"]);
    let error = lab.dataplane.prepare().await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, DataplaneError::Setting { .. }), "{text}");
    assert!(text.starts_with("can't set net.ipv4.ip_forward to 1: "), "{text}");
    run(&["umount", "/proc/sys"]);
    for name in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.default.forwarding"] {
        run(&["sysctl", "-q", "-w", &format!("{name}=1")]);
    }
    run(&["mount", "--bind", "-o", "ro", "/proc/sys", "/proc/sys"]);
    lab.dataplane.prepare().await.unwrap();
}

#[tokio::test]
async fn what_is_no_pods_namespace_is_refused_with_a_reason() {
    let lab = Lab::new();
    for (path, reason) in [
        ("/proc/self/status", "it is not a namespace file, but one of another file system"),
        ("/proc/thread-self/ns/uts", "it is a namespace of another kind than network"),
        ("/nowhere", "there is no such file"),
    ] {
        let error = lab.dataplane.identify(Path::new(path)).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{path} is not a network namespace: {reason}"));
    }
    // The threads that look are in the same namespace as this one.
    let own = lab.dataplane.identify(Path::new("/proc/thread-self/ns/net")).await.unwrap_err();
    assert!(own.to_string().ends_with("it is the node's own network namespace"), "{own}");
}

/// Opening a pipe waits for somebody who writes into it: for ever, on a thread that all need.
#[tokio::test]
async fn a_pipe_in_the_place_of_a_namespace_holds_nobody_up() {
    let lab = Lab::new();
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    run(&["mkfifo", pipe.to_str().unwrap()]);
    let looked = tokio::time::timeout(Duration::from_secs(10), lab.dataplane.identify(&pipe)).await;
    let error = looked.unwrap_or_else(|_| panic!("identify waits for the pipe")).unwrap_err();
    assert!(error.to_string().ends_with("it is not a namespace file, but one of another file system"));
}

/// The threads come home from every namespace that they enter.
#[tokio::test]
async fn the_node_stays_the_node() {
    let lab = Lab::new();
    lab.dataplane.prepare().await.unwrap();
    for number in 0..8 {
        let pod = wanted(&lab, number).await;
        lab.dataplane.attach(&pod).await.unwrap();
        assert!(lab.has_host_interface(&pod.host_interface).await);
        assert!(in_pod(&pod.netns.path, &["ip", "-br", "link"]).contains("eth0"));
    }
    assert_eq!(lab.dataplane.list().await.unwrap().len(), 8);
}

/// As in a container that is not privileged.
#[tokio::test]
async fn settings_are_made_through_another_mount_of_proc() {
    let lab = Lab::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let path = elsewhere.path().to_str().unwrap();
    run(&["mount", "--bind", "/proc", path]);
    run(&["mount", "--bind", "/proc/sys", "/proc/sys"]);
    run(&["mount", "--options", "remount,bind,ro", "/proc/sys"]);
    let error = lab.dataplane.prepare().await.unwrap_err();
    assert!(
        matches!(&error, DataplaneError::Setting { name, .. } if name == "net.ipv4.ip_forward"),
        "{error}"
    );
    let through = NetlinkDataplane::with_proc(elsewhere.path()).unwrap();
    through.prepare().await.unwrap();
    assert_eq!(run(&["sysctl", "-n", "net.ipv4.ip_forward"]).trim(), "1");
    run(&["umount", path]);
}
