//! What the agent takes: memory, and time to start.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::contender::{Contender, Verb};
use super::pods::Pods;
use super::series::{add_all, call, within};
use super::{AT_ONCE, Scale};
use crate::{LabError, Result};

const START_LIMIT: Duration = Duration::from_secs(60);
/// Between two tries of a runtime that waits for the agent.
const RETRY: Duration = Duration::from_millis(5);

/// The agent's numbers.
#[derive(Debug, Clone)]
pub struct AgentNumbers {
    /// Resident memory without an attachment, in KiB.
    pub empty_kib: u64,
    /// How many attachments `loaded_kib` is about.
    pub attachments: usize,
    /// Resident memory with them, in KiB.
    pub loaded_kib: u64,
    /// Resident memory after a restart with them, in KiB.
    pub restarted_kib: u64,
    /// Resident memory with as many attachments as `records`, in KiB.
    pub full_kib: u64,
    /// How many committed records it was started with.
    pub records: usize,
    /// From the start of the process until an ADD was served.
    pub start: Duration,
    /// Resident memory after that, in KiB.
    pub started_kib: u64,
}

pub(super) fn measure(dir: &Path, scale: &Scale) -> Result<AgentNumbers> {
    let mut flock = Contender::flock(dir, "agent")?;
    let pods = Pods::create("agent", scale.records.max(scale.memory_attachments) + 2)?;
    let served = |flock: &Contender, index: usize| -> Result<()> {
        let pod = pods.after(index).first().ok_or_else(|| LabError::Unexpected("no pod is left".into()))?;
        until_served(flock, pod)
    };
    // One ADD, so that nothing is measured that is still being started; its pod goes again.
    let tried = |flock: &Contender| -> Result<()> {
        served(flock, scale.records + 1)?;
        let mut gone = pods.after(scale.records + 1).iter().take(1);
        within(flock.netns(), || gone.try_for_each(|pod| call(flock, Verb::Del, pod).map(drop)))
    };
    tried(&flock)?;
    flock.settle()?;
    let empty_kib = resident_kib(&mut flock)?;
    add_all(&mut flock, pods.first(scale.memory_attachments), AT_ONCE)?;
    let loaded_kib = resident_kib(&mut flock)?;
    restart(&mut flock)?;
    tried(&flock)?;
    let restarted_kib = resident_kib(&mut flock)?;
    let more = pods.first(scale.records).get(scale.memory_attachments..).unwrap_or_default();
    add_all(&mut flock, more, AT_ONCE)?;
    let full_kib = resident_kib(&mut flock)?;

    let start = restart(&mut flock)?;
    served(&flock, scale.records)?;
    let start = start.elapsed();
    let started_kib = resident_kib(&mut flock)?;
    Ok(AgentNumbers {
        empty_kib,
        attachments: scale.memory_attachments,
        loaded_kib,
        restarted_kib,
        full_kib,
        records: scale.records,
        start,
        started_kib,
    })
}

/// Kills the agent and starts it again; answers when it was started.
fn restart(flock: &mut Contender) -> Result<Instant> {
    let node = flock.node()?;
    let agent = node.agent();
    agent.ok_or_else(|| LabError::Unexpected("the agent was not started".into()))?.kill()?;
    let start = Instant::now();
    node.start_agent()?;
    Ok(start)
}

/// As a runtime does: it comes again until the agent is ready.
fn until_served(flock: &Contender, pod: &super::pods::Pod) -> Result<()> {
    let start = Instant::now();
    within(flock.netns(), || {
        loop {
            match call(flock, Verb::Add, pod) {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > START_LIMIT => return Err(error),
                Err(_) => thread::sleep(RETRY),
            }
        }
    })
}

fn resident_kib(flock: &mut Contender) -> Result<u64> {
    let agent = flock.node()?.agent();
    agent.ok_or_else(|| LabError::Unexpected("the agent was not started".into()))?.resident_kib()
}
