//! Readiness that changes faster than anybody could follow each time: what it costs, and
//! whether the network ends up with the last state.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::deadline::{Probe, until};
use crate::fabric::{DIR, Fabric};
use crate::netns::Netns;
use crate::node::Node;
use crate::process::Daemon;
use crate::random::Random;
use crate::{LabError, Result};

/// How many pods change their readiness, each of which serves an address of each family.
pub const PODS: usize = 40;

/// What was seen.
#[derive(Debug, Clone, Copy)]
pub struct Changes {
    /// How many times a pod's readiness was changed.
    pub changes: usize,
    /// How long that took.
    pub took: Duration,
    /// From the last change until the router's table was that of the last state.
    pub caught_up: Duration,
    /// How many times the node's kernel was told of an anycast route.
    pub kernel_writes: usize,
    /// How many times BIRD was given a configuration.
    pub configurations: usize,
    /// For how long processors worked for the agent.
    pub worked: Duration,
}

/// The pods, and what is wanted of them.
#[derive(Debug)]
pub struct Servers {
    ready: [bool; PODS],
    random: Random,
}

/// Starts the first node of `fabric`, with [`PODS`] pods that are ready.
pub fn servers(fabric: &mut Fabric, limit: Duration) -> Result<Servers> {
    let [node, ..] = &mut fabric.nodes[..] else {
        return Err(LabError::Unexpected("the fabric has no node".to_owned()));
    };
    node.start()?;
    fabric.router.bird.established(2, limit)?;
    for number in 0..PODS {
        fabric.nodes[0].add_pod(&name(number), &[("anycast", &served(number).join(","))])?;
    }
    let servers = Servers { ready: [true; PODS], random: Random::new(1) };
    until_announced(fabric, &servers.ready, limit)?;
    Ok(servers)
}

impl Servers {
    /// Changes the readiness of one pod after the other, so often and in that time, or in as little as
    /// it takes to write their manifests.
    pub fn change(
        &mut self,
        fabric: &mut Fabric,
        changes: usize,
        during: Duration,
        limit: Duration,
    ) -> Result<Changes> {
        let (configurations_before, worked_before) = (configurations(&fabric.nodes[0])?, worked(fabric)?);
        let node = &fabric.nodes[0];
        let monitor = Monitor::begin(&node.netns, limit)?;
        let begin = Instant::now();
        for change in 1..=changes {
            let number = self.random.below(PODS);
            self.ready[number] = !self.ready[number];
            node.set_ready(&name(number), self.ready[number])?;
            let share = during.mul_f64(as_f64(change) / as_f64(changes));
            thread::sleep(share.saturating_sub(begin.elapsed()));
        }
        let took = begin.elapsed();
        until_announced(fabric, &self.ready, limit)?;
        let caught_up = begin.elapsed().saturating_sub(took);
        Ok(Changes {
            changes,
            took,
            caught_up,
            kernel_writes: monitor.end(&node.netns, limit)?,
            configurations: configurations(node)? - configurations_before,
            worked: worked(fabric)?.saturating_sub(worked_before),
        })
    }
}

/// For how long processors have worked for the agent.
fn worked(fabric: &mut Fabric) -> Result<Duration> {
    let agent = fabric.nodes[0].agent();
    agent.ok_or_else(|| LabError::Unexpected("the agent was not started".to_owned()))?.cpu_time()
}

fn name(number: usize) -> String {
    format!("server-{number}")
}

fn served(number: usize) -> [String; 2] {
    [format!("2001:db8:a::{:x}", number + 1), format!("198.51.100.{}", number + 1)]
}

/// Waits until the router has exactly the addresses of the pods that are ready.
fn until_announced(fabric: &Fabric, ready: &[bool], limit: Duration) -> Result<()> {
    let servers = ready.iter().enumerate().filter(|(_, ready)| **ready);
    let wanted: BTreeSet<String> = servers
        .flat_map(|(number, _)| {
            let [v6, v4] = served(number);
            [format!("{v6}/128"), format!("{v4}/32")]
        })
        .collect();
    until("the router to have the last state", limit, || {
        let table = fabric.router.bird.query("show route where source = RTS_BGP")?;
        let words = table.lines().filter_map(|line| line.split_whitespace().next());
        let hosts = words.filter(|word| word.ends_with("/128") || word.ends_with("/32"));
        let found: BTreeSet<String> = hosts.map(str::to_owned).collect();
        let differ = found.symmetric_difference(&wanted).count();
        Ok(if differ == 0 { Probe::Done(()) } else { Probe::Waiting(format!("{differ} differ")) })
    })
}

/// How many configurations BIRD has taken.
fn configurations(node: &Node) -> Result<usize> {
    let log = &node.files().bird_log;
    let said = fs::read_to_string(log).map_err(LabError::file("read", log))?;
    Ok(said.matches("<INFO> Reconfigured").count())
}

/// Notes each change of the kernel's routes.
struct Monitor {
    _daemon: Daemon,
    log: PathBuf,
}

impl Monitor {
    fn begin(netns: &Netns, limit: Duration) -> Result<Self> {
        let log = Path::new(DIR).join("routes.log");
        fs::write(&log, "").map_err(LabError::file("write", &log))?;
        let mut command = netns.command("ip");
        command.args(["-oneline", "monitor", "route"]);
        let monitor = Self { _daemon: Daemon::start("ip monitor", &mut command, &log)?, log };
        monitor.heard(netns, "198.18.0.1", limit)?;
        Ok(monitor)
    }

    /// Makes a route and removes it until that is noted: everything before was noted too.
    fn heard(&self, netns: &Netns, marker: &str, limit: Duration) -> Result<String> {
        until("ip monitor to listen", limit, || {
            for verb in ["add", "del"] {
                netns.ip(&["route", verb, "blackhole", marker])?;
            }
            let said = fs::read_to_string(&self.log).map_err(LabError::file("read", &self.log))?;
            Ok(if said.contains(marker) { Probe::Done(said) } else { Probe::Waiting(said) })
        })
    }

    /// How many lines are about anycast addresses.
    fn end(self, netns: &Netns, limit: Duration) -> Result<usize> {
        let said = self.heard(netns, "198.18.0.2", limit)?;
        Ok(said.lines().filter(|line| line.contains("2001:db8:a::") || line.contains("198.51.100.")).count())
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn as_f64(count: usize) -> f64 {
    count as f64
}
