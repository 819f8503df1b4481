//! Links and routes that are not ours, and many links at once.

use std::time::{Duration, Instant};

use flock_core::dataplane::conformance::{attached, wanted};
use flock_core::dataplane::{Dataplane, DataplaneError, Link};
use flock_netlink::LINK_GROUP;

use crate::lab::{Lab, run};

/// The point of removing them together. Ratios, since machines differ.
#[tokio::test]
async fn fifty_links_are_removed_faster_than_five_one_by_one() {
    let lab = Lab::new();
    let mut links = Vec::new();
    for number in 0..55 {
        links.push(Link::of(&attached(&lab, number).await));
    }
    let mut singly = Duration::ZERO;
    for link in links.drain(..5) {
        let start = Instant::now();
        lab.dataplane.reap(&[link]).await.unwrap();
        singly += start.elapsed();
    }
    let start = Instant::now();
    lab.dataplane.reap(&links).await.unwrap();
    let together = start.elapsed();
    assert_eq!(lab.dataplane.list().await.unwrap(), []);
    assert!(together < singly, "fifty together took {together:?}, five one by one {singly:?}");
}

#[tokio::test]
async fn links_of_others_are_not_listed_and_not_removed() {
    let lab = Lab::new();
    run(&["ip", "link", "add", "flock0badcafe", "type", "veth", "peer", "name", "other"]);
    assert_eq!(lab.dataplane.list().await.unwrap(), []);
    let stranger = wanted(&lab, 1).await;
    let name = flock_core::name::InterfaceName::new("flock0badcafe").unwrap();
    for owner in [None, Some(stranger.key)] {
        lab.dataplane.reap(&[Link { interface: name.clone(), owner }]).await.unwrap();
        run(&["ip", "link", "show", "dev", "flock0badcafe"]);
    }
}

/// What a crash between two steps leaves behind has the group and no alias.
#[tokio::test]
async fn a_link_without_an_owner_is_listed_and_removed() {
    let lab = Lab::new();
    run(&["ip", "link", "add", "flock00000001", "group", &LINK_GROUP.to_string(), "type", "bridge"]);
    let found = lab.dataplane.list().await.unwrap();
    let listed: Vec<Link> = found.into_iter().map(|found| found.link).collect();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].interface.as_str(), &listed[0].owner), ("flock00000001", &None));
    lab.dataplane.reap(&listed).await.unwrap();
    assert_eq!(lab.dataplane.list().await.unwrap(), []);
}

/// ... and is completed by the attachment that it was to be.
#[tokio::test]
async fn a_link_without_an_alias_is_completed() {
    let lab = Lab::new();
    lab.dataplane.prepare().await.unwrap();
    let pod = attached(&lab, 1).await;
    let host = pod.host_interface.as_str();
    run(&["ip", "link", "set", host, "alias", ""]);
    assert_eq!(lab.drift(&pod).await.len(), 1);
    lab.dataplane.attach(&pod).await.unwrap();
    assert_eq!(lab.drift(&pod).await, []);
}

#[tokio::test]
async fn a_route_of_somebody_else_is_not_replaced() {
    let lab = Lab::new();
    lab.dataplane.prepare().await.unwrap();
    let pod = wanted(&lab, 1).await;
    for address in pod.addresses.iter() {
        let route = ["ip", "route", "add", &address.to_string(), "dev", "lo", "proto", "static"];
        let family = if address.is_ipv6() { "-6" } else { "-4" };
        let metric: &[&str] = if address.is_ipv6() { &["metric", "1024"] } else { &[] };
        run(&[&route[..], metric].concat());
        let error = lab.dataplane.attach(&pod).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, DataplaneError::Kernel { .. }), "{text}");
        assert!(text.contains(&format!("add the route to {address}")), "{text}");
        assert!(text.contains("made by static; remove it"), "{text}");
        lab.dataplane.detach(&pod).await.unwrap();
        lab.dataplane.reap(&[Link::of(&pod)]).await.unwrap();
        assert!(run(&["ip", family, "route", "show", &address.to_string()]).contains("dev lo"));
        run(&["ip", "route", "del", &address.to_string(), "dev", "lo"]);
    }
}

#[tokio::test]
async fn routes_of_others_survive_new_summaries() {
    let lab = Lab::new();
    run(&["ip", "route", "add", "blackhole", "198.51.100.0/24", "proto", "static"]);
    run(&["ip", "route", "add", "blackhole", "2001:db8:9::/48", "proto", "static"]);
    let wanted = ["10.0.1.0/24".parse().unwrap()].into();
    lab.dataplane.set_summaries(&wanted).await.unwrap();
    lab.dataplane.set_summaries(&std::collections::BTreeSet::new()).await.unwrap();
    assert!(run(&["ip", "route", "show"]).contains("198.51.100.0/24"));
    assert!(run(&["ip", "-6", "route", "show"]).contains("2001:db8:9::/48"));
}

/// The kernel's words, in ours.
#[tokio::test]
async fn a_refusal_says_what_was_asked_and_why_not() {
    let lab = Lab::new();
    let mut pod = wanted(&lab, 1).await;
    pod.mtu = 20;
    let error = lab.dataplane.attach(&pod).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("the kernel refused to make the veth (flock"), "{text}");
    assert_eq!(lab.dataplane.list().await.unwrap(), []);
}

#[tokio::test]
async fn many_attachments_at_once_are_all_complete() {
    let lab = std::sync::Arc::new(Lab::new());
    lab.dataplane.prepare().await.unwrap();
    let mut pods = Vec::new();
    for number in 0..16 {
        pods.push(wanted(lab.as_ref(), number).await);
    }
    let tasks: Vec<_> = pods
        .iter()
        .cloned()
        .map(|pod| {
            let lab = std::sync::Arc::clone(&lab);
            tokio::spawn(async move { lab.dataplane.attach(&pod).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert!(lab.dataplane.check(&pods).await.unwrap().iter().all(Vec::is_empty));
}
