//! What something else takes away on the node is back within a second, with a real agent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it should be"
)]

use std::fmt::{self, Write as _};
use std::fs;
use std::time::{Duration, Instant};

use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::ANYCAST_PREFIXES;
use flock_examples::node::{Node, Pod};
use flock_examples::process::run;
use flock_examples::{Result, sandbox};
use serde_json::json;

/// The promise.
const SECOND: Duration = Duration::from_secs(1);

/// Of the agent's metrics.
const PORT: u16 = 9430;

/// How many looks in a second there are at most where disturbances don't end, and how many more
/// there may be at the beginning.
const LOOKS: (u64, u64) = (3, 21);

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

/// A node whose agent tells its metrics.
fn node() -> Result<Node> {
    let spec =
        json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24", "anycastPrefixes": ANYCAST_PREFIXES});
    let mut node = Node::alone("node", &spec)?;
    let mut command = node.command_of(&flock_examples::programs::agent()?, "none");
    command.args(["--http-address", &format!("127.0.0.1:{PORT}")]);
    node.start_agent_as(command)?;
    node.wait_ready()?;
    Ok(node)
}

/// How often it was said that an attachment was repaired, and the node.
fn said(node: &Node) -> (u64, u64) {
    let log = fs::read_to_string(&node.files().agent_log).unwrap();
    assert!(!log.contains("could not be repaired"), "{log}");
    let repairs = log.lines().filter(|line| line.contains("repaired what something else had changed"));
    let of_node = repairs.clone().filter(|line| !line.contains("attachment=")).count();
    ((repairs.count() - of_node) as u64, of_node as u64)
}

fn counted(node: &Node) -> Result<(u64, u64)> {
    let of = |kind| node.counted(PORT, &format!("flock_repairs_total{{kind=\"{kind}\"}}"));
    Ok((of("disturbed")?, of("node")?))
}

#[test]
fn what_something_else_takes_away_is_back_within_a_second() -> Result<()> {
    sandbox::within("what_something_else_takes_away_is_back_within_a_second", |_| {
        let node = node()?;
        let web = node.add_pod("web", &[("anycast", "2001:db8:a::53,198.51.100.53")])?;
        let other = node.add_pod("other", &[])?;
        let [v6, v4] = web.addresses[..] else { unreachable!() };
        let link = node.netns.ip(&["-o", "route", "get", &v4.to_string()])?;
        let link = link.split(' ').skip_while(|word| *word != "dev").nth(1).unwrap().to_owned();
        let before = state(&node)?;
        let kept = web.netns().ip(&["-br", "address", "show", "dev", "eth0"])?;
        let kept = kept.split_once("UP").unwrap().1.to_owned();

        // Each with how many attachments are repaired after it, and how often the node is. A flush
        // goes on until nothing is left, so that it may take once more what is back already.
        let disturbances = [
            (format!("ip route del {v4}"), (1, 0)),
            (format!("ip -6 route del {v6}"), (1, 0)),
            ("ip route flush proto 70".to_owned(), (2, 1)),
            ("ip -6 route flush proto 70".to_owned(), (2, 1)),
            // What systemd-networkd does when it starts: all that it has not made itself.
            ("ip -4 route flush table main".to_owned(), (2, 1)),
            (format!("ip neigh del {v4} dev {link}"), (1, 0)),
            (format!("ip neigh del {v6} dev {link}"), (1, 0)),
            (format!("ip address del fe80::1/64 dev {link}"), (1, 0)),
            (format!("ip link set {link} down"), (1, 1)),
            (format!("ip link set {link} mtu 1300"), (1, 0)),
            (format!("ip link del {link}"), (1, 1)),
            (format!("ip link set {link} down name elsewhere"), (1, 1)),
            (format!("ip link set {link} netns {}", other.netns().name()), (1, 1)),
            ("ip route del blackhole 10.0.1.0/24".to_owned(), (0, 1)),
            ("ip -6 route del blackhole 2001:db8:1::/64".to_owned(), (0, 1)),
            // And the IPv4 routes that name it as their source.
            ("ip address del 169.254.1.1/32 dev lo".to_owned(), (2, 1)),
            ("ip route del 198.51.100.53".to_owned(), (0, 1)),
            ("ip -6 route del 2001:db8:a::53".to_owned(), (0, 1)),
            ("sysctl -qw net.ipv4.ip_forward=0".to_owned(), (0, 1)),
            ("sysctl -qw net.ipv6.conf.all.forwarding=0".to_owned(), (0, 1)),
        ];
        let mut repaired = (0, 0);
        for (disturbance, (attachments, of_node)) in &disturbances {
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
            // Each is said and counted, and once.
            let times = if disturbance.contains("flush") { 2 } else { 1 };
            repaired = until(&format!("{disturbance}: repairs"), SECOND, || {
                let (said, counted) = (said(&node), counted(&node)?);
                let found = (said.0 - repaired.0, said.1 - repaired.1);
                let is_right = said == counted
                    && (*attachments..=times * attachments).contains(&found.0)
                    && (*of_node..=times * of_node).contains(&found.1);
                Ok(if is_right {
                    Probe::Done(said)
                } else {
                    Probe::Waiting(format!("{said:?} in the log, {counted:?} counted, {repaired:?} before"))
                })
            })?;
        }
        let now = web.netns().ip(&["-br", "address", "show", "dev", "eth0"])?;
        assert_eq!(now.split_once("UP").unwrap().1, kept, "the pod keeps its addresses");

        // What Flock does itself is no disturbance.
        node.delete_pod(&web)?;
        node.delete_pod(&other)?;
        until("the links to be gone", Duration::from_secs(10), || {
            let links = node.netns.ip(&["-br", "link", "show", "group", "1718382435"])?;
            Ok(if links.is_empty() { Probe::Done(()) } else { Probe::Waiting(links) })
        })?;
        assert_eq!((said(&node), counted(&node)?), (repaired, repaired));
        Ok(())
    })
}

/// How many changes others make in the flood.
const FOREIGN: u32 = 80_000;

/// What the agent may take to hear of a change and to pass it over, without optimisation on a busy
/// machine. A look at the node takes some hundred times as long.
const PASSED_OVER: Duration = Duration::from_micros(20);

/// Changes of others as fast as `ip` makes them, and something that removes a route of ours
/// whenever it is there: the agent has little to do with either.
#[test]
fn neither_a_flood_nor_a_fight_keeps_the_agent_busy() -> Result<()> {
    sandbox::within("neither_a_flood_nor_a_fight_keeps_the_agent_busy", |_| {
        let mut node = node()?;
        let web = node.add_pod("web", &[])?;
        let before = state(&node)?;

        let foreign = node.files().run.join("foreign");
        let mut changes = String::new();
        for number in 0..FOREIGN / 4 {
            let prefix = format!("blackhole 172.16.{}.{}/32", number / 250, number % 250);
            writeln!(changes, "route add {prefix}\nroute del {prefix}").unwrap();
        }
        fs::write(&foreign, changes).unwrap();
        let flood = busy(&mut node, |node| {
            for _ in 0..2 {
                node.netns.ip(&["-batch", &foreign.display().to_string()])?;
            }
            Ok(())
        })?;
        let each = flood.used / FOREIGN;
        println!("a flood: {flood}, {each:.1?} for each change");
        assert_eq!(counted(&node)?, (0, 0));
        assert!(each < PASSED_OVER, "{flood}, {each:.1?} for each change");

        let removal = format!("ip route flush {}", web.addresses[1]);
        let fight = busy(&mut node, |node| {
            let begun = Instant::now();
            while begun.elapsed() < 5 * SECOND {
                run(node.netns.command("sh").args(["-c", &removal]))?;
            }
            Ok(())
        })?;
        let (repaired, _) = counted(&node)?;
        println!("a fight: {fight}, {repaired} repairs");
        let (in_a_second, at_first) = LOOKS;
        let most = in_a_second * (fight.elapsed.as_secs() + 1) + at_first;
        assert!((1..=most).contains(&repaired), "{repaired} repairs, expected up to {most}");
        assert!(fight.share() < 0.1, "{fight}");
        until("the last repair", SECOND, || {
            let now = state(&node)?;
            Ok(if now == before { Probe::Done(()) } else { Probe::Waiting(now) })
        })
    })
}

/// What the agent did meanwhile.
struct Busy {
    elapsed: Duration,
    used: Duration,
}

/// Measures the agent during `work`.
fn busy(node: &mut Node, work: impl FnOnce(&Node) -> Result<()>) -> Result<Busy> {
    let used = |node: &mut Node| node.agent().expect("it was started").cpu_time();
    let (begun, before) = (Instant::now(), used(node)?);
    work(node)?;
    Ok(Busy { used: used(node)?.saturating_sub(before), elapsed: begun.elapsed() })
}

impl Busy {
    fn share(&self) -> f64 {
        self.used.as_secs_f64() / self.elapsed.as_secs_f64()
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { elapsed, used } = self;
        write!(f, "{used:.2?} of a processor in {elapsed:.1?}, {:.1} %", 100.0 * self.share())
    }
}
