//! Starts the agent and kills it, again and again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::node::Node;
use crate::process::Daemon;
use crate::random::Random;
use crate::runtime::Caller;
use crate::storm::{Plan, Shared};
use crate::{LabError, Result};

/// The longest that an agent lives.
const LIFE: Duration = Duration::from_secs(5);
/// The most calls that it answers. What it did, rather than a time, ends a life, so that
/// callers get on with their work on a machine that is slow.
const CALLS: usize = 40;
/// How many moments a life may have: a start with many records has some hundreds, and ADD about thirty.
const MOMENTS: usize = 1500;
/// By how much a death may come later, in microseconds.
const JITTER: usize = 10_000;
/// How often it is said how far it is.
const BETWEEN_NEWS: Duration = Duration::from_secs(5);
/// Between two looks whether it serves, or has died.
const LOOK: Duration = Duration::from_millis(1);

/// Kills, and notes how long each start took.
#[derive(Debug)]
pub(super) struct Killer<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    agent: PathBuf,
    random: Random,
    pub(super) kills: usize,
    pub(super) at_moments: usize,
    pub(super) served_after: Vec<Duration>,
}

impl<'a> Killer<'a> {
    pub(super) fn new(plan: &'a Plan, shared: &'a Shared, agent: PathBuf) -> Self {
        let random = Random::new(plan.seed);
        Self { plan, shared, agent, random, kills: 0, at_moments: 0, served_after: Vec::new() }
    }

    /// Until enough; then an agent is started that lives. Ends early where a caller has ended.
    pub(super) fn kill(&mut self, node: &mut Node) -> Result<()> {
        let begun = Instant::now();
        let mut told = begun;
        while self.kills < self.plan.kills && !self.shared.is_over() {
            if begun.elapsed() > self.plan.limit {
                return Err(LabError::Unexpected(format!(
                    "there were {} kills within {:?}, expected {}",
                    self.kills, self.plan.limit, self.plan.kills
                )));
            }
            self.one(node)?;
            if self.plan.verbose && told.elapsed() > BETWEEN_NEWS {
                told = Instant::now();
                self.tell(begun.elapsed());
            }
        }
        node.start_agent_as(command(node, &self.agent))?;
        node.wait_ready()
    }

    /// One life of the agent, from the death of the one before to its own.
    fn one(&mut self, node: &mut Node) -> Result<()> {
        let by_itself = self.random.once_in(2);
        let command = if by_itself { self.mortal(node) } else { command(node, &self.agent) };
        let enough = if by_itself { usize::MAX } else { self.shared.answered() + self.random.below(CALLS) };
        kill(node)?;
        let start = Instant::now();
        node.start_agent_as(command)?;
        let caller = Caller::by_socket(node.runtime()?);
        let mut served = false;
        while start.elapsed() < LIFE && self.shared.answered() <= enough && is_alive(node) {
            if !served && caller.is_served() {
                served = true;
                self.served_after.push(start.elapsed());
            }
            std::thread::sleep(LOOK);
        }
        self.at_moments += usize::from(by_itself && !is_alive(node));
        std::thread::sleep(Duration::from_micros(self.random.below(JITTER) as u64));
        self.kills += 1;
        kill(node)
    }

    /// The agent that kills itself at a moment of its own.
    fn mortal(&mut self, node: &Node) -> Command {
        let mut command = command(node, &self.plan.mortal);
        // Half of them during the start, which has moments of its own, or soon after it.
        let bound = if self.random.once_in(2) { MOMENTS / 10 } else { MOMENTS };
        command.env("MORTAL_MOMENT", self.random.below(bound).to_string()).env("MORTAL_QUIET", "1");
        command
    }

    #[allow(clippy::print_stdout, reason = "that it goes on is what somebody waits for")]
    fn tell(&self, since: Duration) {
        println!(
            "{:4.0} s  {} kills, {} pods came and went, {} calls answered, {} made again",
            since.as_secs_f64(),
            self.kills,
            self.shared.lives(),
            self.shared.answered(),
            self.shared.again()
        );
    }
}

/// Addresses are given again at once, as nobody else should have them.
pub(super) fn command(node: &Node, agent: &Path) -> Command {
    let mut command = node.command_of(agent, "none");
    command.args(["--address-rest", "0"]);
    command
}

fn kill(node: &mut Node) -> Result<()> {
    node.agent().map_or(Ok(()), Daemon::kill)
}

fn is_alive(node: &mut Node) -> bool {
    node.agent().is_some_and(|agent| agent.must_run().is_ok())
}
