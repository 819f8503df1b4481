//! How soon the network follows the readiness of a pod that serves an anycast address, and
//! whether packets get lost meanwhile.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use crate::deadline::{Probe, until};
use crate::fabric::Fabric;
use crate::node::Node;
use crate::{LabError, Result};

/// What both pods serve.
const SERVED: [&str; 2] = ["2001:db8:a::53", "198.51.100.53"];

/// How many packets are sent during a change: until after the node has ended its withdrawal.
const PACKETS: u32 = 200;

/// In seconds. ping(8) takes the wait for an answer for longer than asked, up to two ticks of the
/// kernel's clock, unless it is told less than 10 ms: with this it sends one each 9 ms.
const INTERVAL: &str = "0.008";

/// How many of them are answered before the change.
const BEFORE: usize = 20;

/// A pod on each of two nodes serves the same addresses, and the router spreads packets over both.
#[derive(Debug)]
pub struct ServedTwice {
    served: [IpAddr; 2],
}

/// What was seen of one pod that became unready.
#[derive(Debug, Clone)]
pub struct Served {
    /// What the packets went to.
    pub target: IpAddr,
    /// From the change of the pod's manifest until the router's kernel had no route over its node.
    pub withdrawn: Duration,
    /// From the same until a packet was on its way to the pod on the other node.
    pub taken_over: Duration,
    /// The numbers of the packets that were not answered, the first sent is 1. The change came after
    /// the answer to the 20th.
    pub lost: Vec<u32>,
    /// How many packets were sent, at least one each 10 ms.
    pub sent: u32,
}

/// Starts the first two nodes of `fabric`, with `crowd` more pods on each.
pub fn served_twice(fabric: &mut Fabric, crowd: usize, limit: Duration) -> Result<ServedTwice> {
    for node in &mut fabric.nodes {
        node.start()?;
    }
    fabric.router.bird.established(2 * fabric.nodes.len(), limit)?;
    for node in &fabric.nodes {
        for number in 0..crowd {
            node.add_pod(&format!("{}-{number}", node.name()), &[])?;
        }
        node.add_pod(&server_on(node.name()), &[("anycast", &SERVED.join(","))])?;
    }
    let served = SERVED.map(str::parse::<IpAddr>);
    let [Ok(ipv6), Ok(ipv4)] = served else {
        return Err(LabError::Unexpected(format!("{served:?} are no addresses")));
    };
    let scene = ServedTwice { served: [ipv6, ipv4] };
    scene.until_both(fabric, limit)?;
    Ok(scene)
}

impl ServedTwice {
    /// Makes the pod unready that packets go to at the moment, of IPv6 and IPv4 in turn, and
    /// ready again.
    pub fn round(&self, fabric: &Fabric, round: usize, limit: Duration) -> Result<Served> {
        let target = self.served[round % 2];
        let victim = fabric.router.next_hop(target)?;
        let Some(node) = fabric.nodes.iter().find(|node| node.name() == victim) else {
            return Err(LabError::Unexpected(format!("{target} is reached over {victim}, which is no node")));
        };
        let others = || -> Result<u64> {
            fabric.nodes.iter().filter(|other| other.name() != victim).map(Node::sent_to_pods).sum()
        };
        let mut ping = Ping::start(fabric, target)?;
        ping.answered(BEFORE)?;
        // The router sends all packets of one ping the same way.
        let before = others()?;
        let begin = Instant::now();
        node.set_ready(&server_on(node.name()), false)?;
        let (mut withdrawn, mut taken_over) = (None, None);
        let (withdrawn, taken_over) = loop {
            if withdrawn.is_none() && !fabric.router.next_hops(target)?.contains(&victim) {
                withdrawn = Some(begin.elapsed());
            }
            if taken_over.is_none() && others()? > before {
                taken_over = Some(begin.elapsed());
            }
            if let Some(both) = withdrawn.zip(taken_over) {
                break both;
            }
            if begin.elapsed() > limit {
                return Err(LabError::Unexpected(format!(
                    "{target} is still reached over {victim} (withdrawn after {withdrawn:?}, first packet to the \
                     other node after {taken_over:?})"
                )));
            }
        };
        let lost = ping.end()?;
        node.set_ready(&server_on(node.name()), true)?;
        self.until_both(fabric, limit)?;
        Ok(Served { target, withdrawn, taken_over, lost, sent: PACKETS })
    }

    /// What both pods serve, of each family.
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.served
    }

    /// Waits until the router's kernel spreads packets to all addresses over both nodes.
    pub fn until_both(&self, fabric: &Fabric, limit: Duration) -> Result<()> {
        let nodes: Vec<String> = fabric.nodes.iter().map(|node| node.name().to_owned()).collect();
        until("the router to reach both pods", limit, || {
            for target in self.served {
                let hops = fabric.router.next_hops(target)?;
                if hops != nodes {
                    return Ok(Probe::Waiting(format!("{target} over {hops:?}")));
                }
            }
            Ok(Probe::Done(()))
        })
    }
}

/// The name of the pod on `node` that serves.
pub fn server_on(node: &str) -> String {
    format!("server-{node}")
}

/// A ping from the router, at least one packet each 10 ms.
struct Ping {
    process: Child,
    said: BufReader<ChildStdout>,
    answered: BTreeSet<u32>,
}

impl Ping {
    fn start(fabric: &Fabric, target: IpAddr) -> Result<Self> {
        let mut command = fabric.router.netns.command("ping");
        command.args(["-n", "-i", INTERVAL, "-W", "1", "-c", &PACKETS.to_string(), &target.to_string()]);
        let mut process = command.stdout(Stdio::piped()).spawn().map_err(LabError::file("run", "ping"))?;
        let said = process.stdout.take().map(BufReader::new);
        let said = said.ok_or_else(|| LabError::Unexpected("ping has no output".to_owned()))?;
        Ok(Self { process, said, answered: BTreeSet::new() })
    }

    /// Waits until so many packets were answered.
    fn answered(&mut self, count: usize) -> Result<()> {
        while self.answered.len() < count {
            if !self.read_answer()? {
                return Err(LabError::Unexpected(format!(
                    "ping ended after {} answers",
                    self.answered.len()
                )));
            }
        }
        Ok(())
    }

    /// Takes one line, false where there is none any more.
    fn read_answer(&mut self) -> Result<bool> {
        let mut line = String::new();
        let read = self.said.read_line(&mut line).map_err(LabError::file("read", "ping"))?;
        if line.contains("bytes from") {
            let number = line.split_whitespace().find_map(|word| word.strip_prefix("icmp_seq="));
            self.answered.extend(number.and_then(|number| number.parse::<u32>().ok()));
        }
        Ok(read > 0)
    }

    /// The numbers of those packets that were not answered.
    fn end(mut self) -> Result<Vec<u32>> {
        while self.read_answer()? {}
        self.process.wait().map_err(LabError::file("wait for", "ping"))?;
        Ok((1..=PACKETS).filter(|number| !self.answered.contains(number)).collect())
    }
}
