//! What something else takes away on the node is back within a second, with a real agent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it should be"
)]

use std::fs;
use std::time::{Duration, Instant};

use flock_examples::deadline::{Probe, until};
use flock_examples::node::{Node, Pod};
use flock_examples::process::run;
use flock_examples::{Result, sandbox};
use serde_json::json;

/// The promise.
const SECOND: Duration = Duration::from_secs(1);

/// For a packet, once all is back.
const AT_ONCE: Duration = Duration::from_millis(200);

/// What of Flock's is on the node.
fn state(node: &Node) -> Result<String> {
    let mut found = String::new();
    for question in [
        "-4 route show proto 70",
        "-6 route show proto 70",
        "-o address show to fe80::1",
        "-o address show dev lo",
        "neigh show nud permanent",
        "-br link show group 1718382435",
    ] {
        let words: Vec<&str> = question.split(' ').collect();
        // Numbers and names are those of the same link made anew as well.
        let mut lines: Vec<String> = node.netns.ip(&words)?.lines().map(without_index).collect();
        lines.sort();
        found.push_str(&lines.join("\n"));
        found.push('\n');
    }
    for link in node.netns.ip(&["-o", "link", "show", "group", "1718382435"])?.lines() {
        let mtu = link.split(' ').skip_while(|word| *word != "mtu").nth(1);
        found.push_str(mtu.unwrap_or("unknown"));
        found.push_str(" is the mtu\n");
    }
    found.push_str(&run(node
        .netns
        .command("sysctl")
        .args(["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]))?);
    Ok(found)
}

fn without_index(line: &str) -> String {
    match line.split_once(": ") {
        Some((index, rest)) if index.parse::<u32>().is_ok() => rest.to_owned(),
        _ => match line.split_once('@') {
            Some((name, rest)) => format!("{name} {}", rest.split_once(' ').map_or("", |(_, rest)| rest)),
            None => line.to_owned(),
        },
    }
}

fn assert_traffic(node: &Node, pods: &[&Pod]) -> Result<()> {
    for pod in pods {
        for address in &pod.addresses {
            node.netns.must_ping(*address, AT_ONCE)?;
        }
    }
    for address in &pods[1].addresses {
        pods[0].netns().must_ping(*address, AT_ONCE)?;
    }
    Ok(())
}

#[test]
fn what_something_else_takes_away_is_back_within_a_second() -> Result<()> {
    sandbox::within("what_something_else_takes_away_is_back_within_a_second", |_| {
        let mut node = Node::alone("node", &json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24"}))?;
        let command = node.command_of(&flock_examples::programs::agent()?, "none");
        node.start_agent_as(command)?;
        node.wait_ready()?;
        let web = node.add_pod("web", &[("anycast", "2001:db8:a::53,198.51.100.53")])?;
        let other = node.add_pod("other", &[])?;
        let [v6, v4] = web.addresses[..] else { unreachable!() };
        let link = node.netns.ip(&["-o", "route", "get", &v4.to_string()])?;
        let link = link.split(' ').skip_while(|word| *word != "dev").nth(1).unwrap().to_owned();
        let before = state(&node)?;
        let kept = web.netns().ip(&["-br", "address", "show", "dev", "eth0"])?;
        let kept = kept.split_once("UP").unwrap().1.to_owned();

        let disturbances = [
            format!("ip route del {v4}"),
            format!("ip -6 route del {v6}"),
            "ip route flush proto 70".to_owned(),
            "ip -6 route flush proto 70".to_owned(),
            // What systemd-networkd does when it starts: all that it has not made itself.
            "ip -4 route flush table main; ip -6 route flush table main proto 70".to_owned(),
            format!("ip neigh del {v4} dev {link}"),
            format!("ip neigh del {v6} dev {link}"),
            format!("ip address del fe80::1/64 dev {link}"),
            format!("ip link set {link} down"),
            format!("ip link set {link} mtu 1300"),
            format!("ip link del {link}"),
            format!("ip link set {link} down name elsewhere"),
            format!("ip link set {link} netns {}", other.netns().name()),
            "ip route del blackhole 10.0.1.0/24".to_owned(),
            "ip -6 route del blackhole 2001:db8:1::/64".to_owned(),
            "ip address del 169.254.1.1/32 dev lo".to_owned(),
            "ip route del 198.51.100.53".to_owned(),
            "ip -6 route del 2001:db8:a::53".to_owned(),
            "sysctl -qw net.ipv4.ip_forward=0".to_owned(),
            "sysctl -qw net.ipv6.conf.all.forwarding=0".to_owned(),
        ];
        for disturbance in &disturbances {
            run(node.netns.command("sh").args(["-c", disturbance]))?;
            let start = Instant::now();
            // The limit is the promise; looking takes some milliseconds of it.
            until(disturbance, SECOND, || {
                let now = state(&node)?;
                Ok(if now == before {
                    Probe::Done(())
                } else {
                    Probe::Waiting(format!("{now}\nexpected\n{before}"))
                })
            })?;
            println!("{disturbance}: back after {:.0?}", start.elapsed());
            assert_traffic(&node, &[&web, &other])?;
        }
        let now = web.netns().ip(&["-br", "address", "show", "dev", "eth0"])?;
        assert_eq!(now.split_once("UP").unwrap().1, kept, "the pod keeps its addresses");

        // Each is said, and once; what Flock does itself is no disturbance.
        let repairs = || {
            let log = fs::read_to_string(&node.files().agent_log).unwrap();
            assert!(!log.contains("could not be repaired"), "{log}");
            log.matches("repaired what something else had changed").count()
        };
        let said = repairs();
        assert!((disturbances.len()..=3 * disturbances.len()).contains(&said), "{said} repairs in the log");
        node.delete_pod(&web)?;
        node.delete_pod(&other)?;
        until("the links to be gone", Duration::from_secs(10), || {
            let links = node.netns.ip(&["-br", "link", "show", "group", "1718382435"])?;
            Ok(if links.is_empty() { Probe::Done(()) } else { Probe::Waiting(links) })
        })?;
        assert_eq!(repairs(), said);
        Ok(())
    })
}
