//! How much a node bears: pods that come and go for a day, many at once, and a prefix to
//! its last address.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flock_core::cni::Verb;
use serde_json::{Value, json};

use crate::deadline::{Probe, until};
use crate::node::{Node, Pod};
use crate::process::tail;
use crate::runtime::{Caller, Container, Outcome};
use crate::snapshot::Snapshot;
use crate::storm::{agrees, judge};
use crate::{LabError, Result, programs};

mod measure;

pub use measure::Measure;

/// Of Flock's routes.
const PROTOCOL: &str = "70";
/// How long one call may take to be answered well.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many call at the same time.
const CALLERS: usize = 8;
/// How many namespaces pods come and go in. Each pod of a runtime has a new one; here the
/// link of the one before is gone by the time a namespace is used again.
const NAMESPACES: usize = 128;
/// How many times it is measured while they do.
const PARTS: usize = 10;
/// How long an address rests that is given back, in the full prefix.
const REST: Duration = Duration::from_secs(1);

/// How much of it.
#[derive(Debug, Clone)]
pub struct Scale {
    /// How many pods come and go.
    pub pairs: usize,
    /// How many pods there are at once.
    pub at_once: usize,
    /// The length of the IPv4 prefix that is filled.
    pub prefix_length: u32,
    /// Whether to print how far it is.
    pub verbose: bool,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Report {
    /// With no pod.
    pub before: Measure,
    /// After so many pods had come and gone: of each tenth, the first of which gives the agent its size.
    pub measures: Vec<(usize, Measure)>,
    /// How many pods came and went.
    pub pairs: usize,
    /// How long all pairs took.
    pub pairs_took: Duration,
    /// How many pods there were at once.
    pub at_once: usize,
    /// How long their ADDs took, all together.
    pub added_in: Duration,
    /// With all of them.
    pub loaded: Measure,
    /// When the routes of all of them were back after somebody had flushed them.
    pub back_after: Duration,
    /// From the start of the agent with all of them until it served.
    pub served_after: Duration,
    /// How long their DELs took, until nothing was left.
    pub deleted_in: Duration,
    /// How many addresses the full prefix has.
    pub usable: usize,
    /// What the next pod was told.
    pub exhausted: String,
    /// When an address that was given back was given again.
    pub reused_after: Duration,
}

/// Carries it out in a sandbox. The first thing that is not as it should be is an error.
pub fn run(scale: &Scale) -> Result<Report> {
    let mut lab = Lab::start("churn", &json!({"cidr4": "10.0.0.0/20", "cidr6": "2001:db8:1::/64"}), "0")?;
    let pairs = lab.noting(|lab| lab.pairs(scale))?;
    let most = scale.at_once.max(usable(scale.prefix_length) + 1);
    tell(scale, &format!("making {most} network namespaces"));
    let containers = containers(&lab.node, most)?;
    let crowd = lab.noting(|lab| lab.crowd(scale, &containers))?;
    drop(lab);
    let spec = json!({"cidr4": format!("10.0.2.0/{}", scale.prefix_length)});
    let rest = REST.as_secs().to_string();
    let mut lab = Lab::start("full", &spec, &rest)?;
    let full = lab.noting(|lab| lab.full(scale, &containers))?;
    let (exhausted, reused_after) = full;
    Ok(Report {
        before: pairs.before,
        measures: pairs.measures,
        pairs: scale.pairs,
        pairs_took: pairs.took,
        at_once: scale.at_once,
        added_in: crowd.added_in,
        loaded: crowd.loaded,
        back_after: crowd.back_after,
        served_after: crowd.served_after,
        deleted_in: crowd.deleted_in,
        usable: usable(scale.prefix_length),
        exhausted,
        reused_after,
    })
}

/// All but the network's own address and its broadcast address.
fn usable(prefix_length: u32) -> usize {
    (1 << (32 - prefix_length)) - 2
}

fn containers(node: &Node, count: usize) -> Result<Vec<Container>> {
    (0..count).map(|index| node.make_container(&format!("pod-{index}"), &[])).collect()
}

#[allow(clippy::print_stdout, reason = "that it goes on is what somebody waits for")]
fn tell(scale: &Scale, what: &str) {
    if scale.verbose {
        println!("{what}");
    }
}

/// What those that came and went came to.
struct Pairs {
    before: Measure,
    measures: Vec<(usize, Measure)>,
    took: Duration,
}

/// What many at once came to.
struct Crowd {
    added_in: Duration,
    loaded: Measure,
    back_after: Duration,
    served_after: Duration,
    deleted_in: Duration,
}

struct Lab {
    node: Node,
    caller: Caller,
    empty: Snapshot,
    rest: String,
}

impl Lab {
    fn start(name: &str, spec: &Value, rest: &str) -> Result<Self> {
        let mut node = Node::alone(name, spec)?;
        start_agent(&mut node, rest)?;
        let caller = Caller::by_socket(node.runtime()?);
        let empty = Snapshot::of(&node, &[])?;
        Ok(Self { node, caller, empty, rest: rest.to_owned() })
    }

    /// With the end of the agent's log in the error.
    fn noting<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        work(self).map_err(|error| {
            let log = tail(&self.node.files().agent_log, 30);
            LabError::Unexpected(format!("{error}\nthe agent's log ends so:\n{log}"))
        })
    }

    /// Waits until nothing is left.
    fn is_empty(&self) -> Result<()> {
        self.empty.returns(&self.node, &[])?;
        agrees(&self.node)
    }

    fn pairs(&mut self, scale: &Scale) -> Result<Pairs> {
        let before = Measure::of(&mut self.node)?;
        let namespaces = (0..NAMESPACES.min(scale.pairs / 4))
            .map(|index| self.node.make_container(&format!("namespace-{index}"), &[]))
            .collect::<Result<Vec<_>>>()?;
        let begun = Instant::now();
        let mut measures = Vec::new();
        for tenth in 0..PARTS {
            let end = scale.pairs * (tenth + 1) / PARTS;
            self.some_pairs(scale, &namespaces, scale.pairs * tenth / PARTS..end)?;
            measures.push((end, Measure::of(&mut self.node)?));
        }
        Ok(Pairs { before, measures, took: begun.elapsed() })
    }

    fn some_pairs(
        &self,
        scale: &Scale,
        namespaces: &[Container],
        pairs: std::ops::Range<usize>,
    ) -> Result<()> {
        let next = AtomicUsize::new(pairs.start);
        together(&[(); CALLERS], |()| {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= pairs.end {
                    return Ok(());
                }
                let namespace = namespaces[number % namespaces.len()].clone();
                let container = Container { id: format!("c-{number}"), ..namespace };
                let addresses = self.caller.until_done(Verb::Add, &container, PATIENCE)?;
                if addresses.len() != 2 {
                    return Err(LabError::Unexpected(format!("{} was given {addresses:?}", container.id)));
                }
                self.caller.until_done(Verb::Del, &container, PATIENCE)?;
                if number.is_multiple_of(1000) {
                    tell(scale, &format!("{number} pods came and went"));
                }
            }
        })?;
        self.is_empty()
    }

    /// Many at once, whose routes somebody flushes, and which a restart finds again.
    fn crowd(&mut self, scale: &Scale, containers: &[Container]) -> Result<Crowd> {
        let containers = &containers[..scale.at_once];
        let begun = Instant::now();
        let pods = self.add_all(containers)?;
        let added_in = begun.elapsed();
        tell(scale, &format!("{} pods are there", pods.len()));
        let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| pod.addresses.clone()).collect();
        if addresses.len() != 2 * pods.len() {
            return Err(LabError::Unexpected(format!(
                "{} addresses for {} pods",
                addresses.len(),
                pods.len()
            )));
        }
        judge(&self.node, &pods)?;
        agrees(&self.node)?;
        let loaded = Measure::of(&mut self.node)?;
        let back_after = self.flush()?;
        judge(&self.node, &pods)?;
        if let Some(agent) = self.node.agent() {
            agent.kill()?;
        }
        let restarted = Instant::now();
        start_agent(&mut self.node, &self.rest)?;
        let served_after = restarted.elapsed();
        judge(&self.node, &pods)?;
        let begun = Instant::now();
        self.delete_all(containers)?;
        self.is_empty()?;
        Ok(Crowd { added_in, loaded, back_after, served_after, deleted_in: begun.elapsed() })
    }

    /// Takes all of Flock's routes away, and waits until they are back.
    fn flush(&self) -> Result<Duration> {
        let before = self.routes()?;
        let begun = Instant::now();
        for family in ["-4", "-6"] {
            self.node.netns.ip(&[family, "route", "flush", "proto", PROTOCOL])?;
        }
        until("all routes to be back", PATIENCE, || {
            let now = self.routes()?;
            Ok(if now == before {
                Probe::Done(())
            } else {
                Probe::Waiting(format!("{} of {}", now.len(), before.len()))
            })
        })?;
        Ok(begun.elapsed())
    }

    fn routes(&self) -> Result<BTreeSet<String>> {
        let mut routes = BTreeSet::new();
        for family in ["-4", "-6"] {
            let found = self.node.netns.ip(&[family, "route", "show", "proto", PROTOCOL])?;
            routes.extend(found.lines().map(str::to_owned));
        }
        Ok(routes)
    }

    /// To the last address, and one more.
    fn full(&mut self, scale: &Scale, containers: &[Container]) -> Result<(String, Duration)> {
        let (inside, outside) = containers.split_at(usable(scale.prefix_length));
        let pods = self.add_all(inside)?;
        let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| pod.addresses.clone()).collect();
        if addresses.len() != inside.len() {
            return Err(LabError::Unexpected(format!(
                "{} addresses for {} pods",
                addresses.len(),
                inside.len()
            )));
        }
        let (Some(one_more), Some(leaves)) = (outside.first(), pods.first()) else {
            return Err(LabError::Unexpected("there are too few containers".to_owned()));
        };
        let exhausted = self.refused(one_more)?;
        tell(scale, &format!("{} addresses are in use", addresses.len()));
        judge(&self.node, &pods)?;
        let begun = Instant::now();
        self.caller.until_done(Verb::Del, &leaves.container, PATIENCE)?;
        let again = self.caller.until_done(Verb::Add, one_more, PATIENCE)?;
        let reused_after = begun.elapsed();
        if again != leaves.addresses {
            return Err(LabError::Unexpected(format!(
                "the last address was {:?}, {again:?} was given",
                leaves.addresses
            )));
        }
        self.delete_all(&containers[..=inside.len()])?;
        self.is_empty()?;
        Ok((exhausted, reused_after))
    }

    /// What it is told that finds no address.
    fn refused(&self, container: &Container) -> Result<String> {
        match self.caller.once(Verb::Add, container, true)? {
            Outcome::Again(text) | Outcome::Refused { text, .. } if text.contains("exhausted") => Ok(text),
            other => Err(LabError::Unexpected(format!(
                "ADD to a full prefix: {other:?}, expected that it is exhausted"
            ))),
        }
    }

    fn add_all(&self, containers: &[Container]) -> Result<Vec<Pod>> {
        let pods = std::sync::Mutex::new(Vec::new());
        each(containers, |container| {
            let addresses = self.caller.until_done(Verb::Add, container, PATIENCE)?;
            let pod = Pod { container: container.clone(), node: self.node.name().to_owned(), addresses };
            pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(pod);
            Ok(())
        })?;
        Ok(pods.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn delete_all(&self, containers: &[Container]) -> Result<()> {
        each(containers, |container| self.caller.until_done(Verb::Del, container, PATIENCE).map(drop))
    }
}

/// Does `work` for each container, several at the same time.
fn each(containers: &[Container], work: impl Fn(&Container) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    together(&[(); CALLERS], |()| {
        while let Some(container) = containers.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(container)?;
        }
        Ok(())
    })
}

fn start_agent(node: &mut Node, rest: &str) -> Result<()> {
    let mut command = node.command_of(&programs::agent()?, "none");
    command.args(["--address-rest", rest]);
    node.start_agent_as(command)?;
    node.wait_ready()
}

/// Does `work` for all at the same time, and waits for all of them.
fn together<T: Sync>(all: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let workers: Vec<_> = all.iter().map(|one| scope.spawn(|| work(one))).collect();
        let panicked = || LabError::Unexpected("a caller panicked".to_owned());
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(panicked())))
    })
}

impl Report {
    /// What is not as it should be: what grew after the first pods had come and gone, and what
    /// came too early; empty if all is well.
    pub fn complaints(&self) -> Vec<String> {
        let ([(_, warm), rest @ ..], [.., (_, end)]) = (&self.measures[..], &self.measures[..]) else {
            return vec!["nothing was measured".to_owned()];
        };
        let mut complaints = end.grown_since(warm);
        complaints.extend(measure::memory_grown(rest));
        if self.reused_after < REST {
            complaints.push(format!("an address rested for {:?}, expected {REST:?}", self.reused_after));
        }
        complaints
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "with no pod               {}", self.before)?;
        for (pods, measure) in &self.measures {
            writeln!(f, "after {pods:6} pods         {measure}")?;
        }
        let left = measure::left_by_each(self.measures.get(1..).unwrap_or_default());
        writeln!(f, "memory left by each pod   {left} bytes")?;
        let took = self.pairs_took.as_secs_f64();
        writeln!(f, "pods that came and went   {} in {took:.0} s", self.pairs)?;
        writeln!(f, "with {:5} pods at once   {}", self.at_once, self.loaded)?;
        writeln!(
            f,
            "  added in {:.1} s, flushed routes back after {:.0} ms, served {:.0} ms after a restart, deleted in {:.1} s",
            self.added_in.as_secs_f64(),
            self.back_after.as_secs_f64() * 1e3,
            self.served_after.as_secs_f64() * 1e3,
            self.deleted_in.as_secs_f64()
        )?;
        writeln!(f, "the last of {} addresses, and one more: {}", self.usable, self.exhausted)?;
        write!(
            f,
            "an address that was given back was given again after {:.2} s (it rests for {:.0} s)",
            self.reused_after.as_secs_f64(),
            REST.as_secs_f64()
        )
    }
}
