//! Many callers add and delete pods while the agent is killed again and again, at moments
//! that nobody chose; then everything is compared with what the callers were told.
//!
//! A caller behaves as a runtime does: it comes again until it is answered. What it was
//! answered it keeps with those of all others, so that an address that two pods have at
//! the same time is seen at once.

use std::fmt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flock_core::cni::Verb;
use rustix::process::Signal;
use serde_json::json;

use crate::fabric::ANYCAST_PREFIXES;
use crate::node::{Node, Pod};
use crate::process::{send, start_error, tail};
use crate::runtime::Caller;
use crate::snapshot::Snapshot;
use crate::{LabError, Result, programs};

mod judge;
mod killer;
mod life;
mod shared;

pub use judge::{agrees, judge};
use killer::Killer;
use life::Life;
use shared::Shared;

/// How long a caller may wait for one answer: many deaths, one after the other.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many times the agent is killed.
    pub kills: usize,
    /// How many callers are at work at the same time.
    pub callers: usize,
    /// Of all that is random.
    pub seed: u64,
    /// How long all of it may take.
    pub limit: Duration,
    /// The agent that kills itself: flock-bin's example `mortal`.
    pub mortal: PathBuf,
    /// Whether to print how far it is.
    pub verbose: bool,
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Report {
    /// How many times the agent was killed.
    pub kills: usize,
    /// Of these, how many times by itself between two calls of a backend.
    pub kills_at_moments: usize,
    /// How many callers there were.
    pub callers: usize,
    /// How many pods came and went.
    pub lives: usize,
    /// Calls that were answered.
    pub answered: usize,
    /// Calls that had to be made again.
    pub again: usize,
    /// From a start of the agent until it served, sorted.
    pub served_after: Vec<Duration>,
    /// The pings of a pod that was there all the time.
    pub pings: usize,
    /// How long it took.
    pub took: Duration,
}

/// Carries out `plan` in a sandbox. The first thing that is not as it should be is an error.
pub fn run(plan: &Plan) -> Result<Report> {
    let begun = Instant::now();
    let spec = json!({
        "cidr4": "10.0.1.0/24",
        "cidr6": "2001:db8:1::/64",
        "anycastPrefixes": ANYCAST_PREFIXES,
        "bgp": {"asn": 64501, "routerId": "192.0.2.1", "peers": []},
    });
    let mut node = Node::alone("storm", &spec)?;
    node.start_agent_as(killer::command(&node, &programs::agent()?))?;
    node.wait_ready()?;
    let empty = Snapshot::of(&node, &[])?;
    // Two that are there all the time; one pings the other.
    let steady = [node.add_pod("steady-1", &[])?, node.add_pod("steady-2", &[])?];
    let shared = Shared::new(plan.seed);
    for pod in &steady {
        shared.take(&pod.container.id, &pod.addresses)?;
    }
    let mut lives =
        (0..plan.callers).map(|index| Life::prepare(&node, &shared, index)).collect::<Result<Vec<_>>>()?;
    let traffic = Traffic::start(&steady[0], &steady[1])?;

    let mut killer = Killer::new(plan, &shared, programs::agent()?);
    let outcome = thread::scope(|scope| {
        let workers: Vec<_> = lives.iter_mut().map(|life| scope.spawn(|| life.live())).collect();
        let stormed = killer.kill(&mut node);
        shared.finish();
        let mut outcomes = vec![stormed];
        for worker in workers {
            let ended = worker.join();
            outcomes.push(ended.unwrap_or_else(|_| Err(LabError::Unexpected("a caller panicked".into()))));
        }
        // What a caller found tells more than that the killer stopped because of it.
        outcomes.into_iter().rev().collect::<Result<Vec<()>>>().map(drop)
    });
    let judged = outcome.and_then(|()| {
        let there: Vec<Pod> =
            lives.iter().filter_map(|life| life.last.clone()).chain(steady.clone()).collect();
        judge(&node, &there)?;
        agrees(&node)?;
        let pings = traffic.stop()?;
        let caller = Caller::by_socket(node.runtime()?);
        for pod in &there {
            caller.until_done(Verb::Del, &pod.container, PATIENCE)?;
        }
        empty.returns(&node, &[])?;
        agrees(&node)?;
        Ok(pings)
    });
    let pings = judged.map_err(|error| {
        LabError::Unexpected(format!(
            "seed {}, after {} kills: {error}\nthe agent's log ends so:\n{}",
            plan.seed,
            killer.served_after.len(),
            tail(&node.files().agent_log, 60)
        ))
    })?;
    let mut served_after = std::mem::take(&mut killer.served_after);
    served_after.sort_unstable();
    Ok(Report {
        kills: killer.kills,
        kills_at_moments: killer.at_moments,
        callers: plan.callers,
        lives: shared.lives(),
        answered: shared.answered(),
        again: shared.again(),
        served_after,
        pings,
        took: begun.elapsed(),
    })
}

/// Pings from one pod to another until it is stopped.
struct Traffic(Child);

impl Traffic {
    fn start(from: &Pod, to: &Pod) -> Result<Self> {
        let target =
            to.addresses.first().ok_or_else(|| LabError::Unexpected("a pod without address".into()))?;
        let mut command: Command = from.netns().command("ping");
        command.args(["-n", "-q", "-i", "0.05", "-W", "2"]).arg(target.to_string());
        command.stdout(Stdio::piped());
        Ok(Self(command.spawn().map_err(start_error(&command))?))
    }

    /// How many there were; that one was lost is an error.
    fn stop(self) -> Result<usize> {
        send(self.0.id(), Signal::INT).map_err(LabError::file("stop", "ping"))?;
        let output = self.0.wait_with_output().map_err(LabError::file("wait for", "ping"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let count = |word: &str| {
            let line = said.lines().find(|line| line.contains("packets transmitted"))?;
            let part = line.split(',').find(|part| part.contains(word))?;
            part.split_whitespace().next()?.parse::<usize>().ok()
        };
        match (count("transmitted"), count("received")) {
            // The last one may be on its way.
            (Some(sent), Some(received)) if received > 0 && received + 1 >= sent => Ok(sent),
            _ => Err(LabError::Unexpected(format!("pings of a running pod were lost: {said}"))),
        }
    }
}

impl Report {
    /// Of the times from a start to the first answer, the one that `percent` are not above.
    pub fn served_within(&self, percent: usize) -> Duration {
        let index = (self.served_after.len() * percent / 100).min(self.served_after.len().saturating_sub(1));
        self.served_after.get(index).copied().unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        writeln!(
            f,
            "kills                    {}, of which {} between two calls",
            self.kills, self.kills_at_moments
        )?;
        writeln!(f, "took                     {seconds:.0} s")?;
        writeln!(f, "callers                  {}", self.callers)?;
        writeln!(f, "pods that came and went  {}", self.lives)?;
        writeln!(f, "calls answered           {}, made again {}", self.answered, self.again)?;
        writeln!(
            f,
            "from start to serving    median {:.0} ms, 99 % within {:.0} ms",
            self.served_within(50).as_secs_f64() * 1e3,
            self.served_within(99).as_secs_f64() * 1e3
        )?;
        writeln!(f, "pings of a running pod   {}, all of them answered", self.pings)?;
        write!(f, "checked                  no address had two pods, nothing is left in records and kernel")
    }
}
