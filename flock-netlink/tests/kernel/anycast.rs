//! Anycast addresses with several servers, under traffic.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};

use flock_core::attachment::Attachment;
use flock_core::dataplane::conformance::{anycast_v4, anycast_v6, server, wanted};
use flock_core::dataplane::{AnycastRoute, Dataplane, Link};

use crate::lab::{Lab, first_packet, in_pod, run};

const PINGS: usize = 200;

#[tokio::test]
async fn no_packet_is_lost_when_a_server_joins_or_leaves() {
    let lab = Lab::with_addresses();
    lab.dataplane.prepare().await.unwrap();
    let (one, two) = (serving(&lab, 1).await, serving(&lab, 2).await);
    set(&lab, &[&one]).await;
    let mut pings = [anycast_v6(), anycast_v4()].map(ping);
    let mut changes = 0;
    while pings.iter_mut().any(|ping| ping.try_wait().unwrap().is_none()) {
        for servers in [&[&one, &two][..], &[&two], &[&one, &two], &[&one]] {
            set(&lab, servers).await;
            changes += 1;
        }
    }
    assert!(changes > 100, "only {changes} changes under traffic");
    let [received_v6, received_v4] = pings.map(received);
    assert_eq!(received_v6, PINGS);
    // Answers of a server that left while they were on their way fail the
    // strict reverse path, which IPv4 has and IPv6 has not. No request is lost.
    let dropped = run(&["nstat", "-asz", "TcpExtIPReversePathFilter"]);
    let dropped: usize = dropped.split_whitespace().rev().nth(1).unwrap().parse().unwrap();
    assert_eq!(received_v4 + dropped, PINGS);
    assert!(dropped < PINGS / 10, "{dropped}");
}

/// Others, BIRD for one, believe a gateway without knowing the interface's addresses.
#[tokio::test]
async fn the_gateways_are_on_link() {
    let lab = Lab::with_addresses();
    lab.dataplane.prepare().await.unwrap();
    let (one, two) = (serving(&lab, 1).await, serving(&lab, 2).await);
    for servers in [&[&one][..], &[&one, &two]] {
        set(&lab, servers).await;
        let shown = run(&["ip", "-6", "route", "show", &anycast_v6().to_string()]);
        assert_eq!(shown.matches(" via ").count(), servers.len(), "{shown}");
        assert_eq!(shown.matches(" onlink").count(), servers.len(), "{shown}");
    }
}

#[tokio::test]
async fn the_address_survives_one_of_its_servers() {
    let lab = Lab::with_addresses();
    lab.dataplane.prepare().await.unwrap();
    let (one, two) = (serving(&lab, 1).await, serving(&lab, 2).await);
    set(&lab, &[&one, &two]).await;
    for pod in [&one, &two] {
        lab.dataplane.detach(pod).await.unwrap();
        let left: Vec<&Attachment> = [&one, &two].into_iter().filter(|other| other.key != pod.key).collect();
        set(&lab, &left).await;
        for address in [anycast_v6(), anycast_v4()] {
            first_packet(None, &address.to_string());
        }
        lab.dataplane.attach(pod).await.unwrap();
        set(&lab, &[&one, &two]).await;
    }
    lab.dataplane.reap(&[Link::of(&one)]).await.unwrap();
    for address in [anycast_v6(), anycast_v4()] {
        first_packet(None, &address.to_string());
    }
}

/// The flows of a service are spread over its servers, and stay with one.
#[tokio::test]
async fn both_servers_are_used() {
    let lab = Lab::with_addresses();
    lab.dataplane.prepare().await.unwrap();
    let (one, two) = (serving(&lab, 1).await, serving(&lab, 2).await);
    set(&lab, &[&one, &two]).await;
    run(&["sysctl", "-q", "-w", "net.ipv6.fib_multipath_hash_policy=1"]);
    run(&["sysctl", "-q", "-w", "net.ipv4.fib_multipath_hash_policy=1"]);
    for address in [anycast_v6(), anycast_v4()] {
        let mut used = std::collections::BTreeSet::new();
        for port in 1000..1064 {
            let target = address.to_string();
            let query = ["ip", "route", "get", &target, "ipproto", "udp", "sport", "999", "dport"];
            let route = run(&[&query[..], &[&port.to_string()]].concat());
            let words: Vec<&str> = route.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "dev").unwrap();
            used.insert(words[at + 1].to_owned());
        }
        let both = [one.host_interface.to_string(), two.host_interface.to_string()].into();
        assert_eq!(used, both, "{address}");
    }
}

/// What is right already is not touched: routing daemons would see it flap.
#[tokio::test]
async fn a_route_that_is_right_is_left_alone() {
    let lab = Lab::new();
    let (one, two) = (serving(&lab, 1).await, serving(&lab, 2).await);
    set(&lab, &[&one, &two]).await;
    let mut monitor = Command::new("ip").args(["monitor", "route"]).stdout(Stdio::piped()).spawn().unwrap();
    // The monitor is listening once it has told of a route of somebody else.
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(monitor.stdout.take().unwrap()));
    let mark = |target: &str| run(&["ip", "route", "replace", "blackhole", target, "proto", "static"]);
    let started = std::thread::spawn(move || {
        let first = lines.next().unwrap().unwrap();
        (first, lines)
    });
    while !started.is_finished() {
        mark("198.51.100.0/24");
        run(&["ip", "route", "del", "198.51.100.0/24"]);
    }
    let (_, lines) = started.join().unwrap();
    set(&lab, &[&one, &two]).await;
    set(&lab, &[&two, &one]).await;
    mark("203.0.113.0/24");
    for line in lines {
        let line = line.unwrap();
        if line.contains("203.0.113.0/24") {
            break;
        }
        assert!(line.contains("198.51.100.0/24"), "{line}");
    }
    monitor.kill().unwrap();
    monitor.wait().unwrap();
}

/// The pod itself answers at the address.
#[tokio::test]
async fn the_pod_answers_from_the_anycast_address() {
    let lab = Lab::with_addresses();
    lab.dataplane.prepare().await.unwrap();
    let (one, two) = (serving(&lab, 1).await, wanted(&lab, 2).await);
    lab.dataplane.attach(&two).await.unwrap();
    set(&lab, &[&one]).await;
    for address in [anycast_v6(), anycast_v4()] {
        let path = &two.netns.path;
        in_pod(path, &["ping", "-n", "-q", "-c", "1", "-W", "0.05", &address.to_string()]);
    }
}

async fn serving(lab: &Lab, number: u16) -> Attachment {
    let mut attachment = wanted(lab, number).await;
    attachment.anycast = vec![anycast_v6(), anycast_v4()];
    lab.dataplane.attach(&attachment).await.unwrap();
    attachment
}

async fn set(lab: &Lab, servers: &[&Attachment]) {
    let servers: Vec<_> = servers.iter().map(|attachment| server(attachment)).collect();
    let routes =
        [anycast_v6(), anycast_v4()].map(|address| AnycastRoute::announced(address, servers.clone()));
    lab.dataplane.set_anycast(&routes).await.unwrap();
}

fn ping(address: IpAddr) -> Child {
    let (address, count) = (address.to_string(), PINGS.to_string());
    Command::new("ping")
        .args(["-n", "-q", "-c", &count, "-i", "0.002", "-W", "1", &address])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn received(ping: Child) -> usize {
    let report = String::from_utf8(ping.wait_with_output().unwrap().stdout).unwrap();
    let words: Vec<&str> = report.split([' ', '\n']).collect();
    let at = words.iter().position(|word| word.starts_with("received")).unwrap();
    words[at - 1].parse().unwrap()
}
