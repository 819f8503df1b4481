//! What the agent takes: memory, and time to start.

use std::fs;
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
    // One ADD and DEL, so that nothing is measured that is still being started.
    served(&flock, scale.records + 1)?;
    let last = pods.after(scale.records + 1).first();
    if let Some(pod) = last {
        within(flock.netns(), || call(&flock, Verb::Del, pod))?;
    }
    flock.settle()?;
    let empty_kib = resident_kib(&mut flock)?;
    add_all(&mut flock, pods.first(scale.memory_attachments), AT_ONCE)?;
    let loaded_kib = resident_kib(&mut flock)?;
    let more = pods.first(scale.records).get(scale.memory_attachments..).unwrap_or_default();
    add_all(&mut flock, more, AT_ONCE)?;

    let agent = flock.node()?.agent();
    agent.ok_or_else(|| LabError::Unexpected("the agent was not started".into()))?.kill()?;
    let start = Instant::now();
    flock.node()?.start_agent()?;
    served(&flock, scale.records)?;
    let start = start.elapsed();
    let started_kib = resident_kib(&mut flock)?;
    Ok(AgentNumbers {
        empty_kib,
        attachments: scale.memory_attachments,
        loaded_kib,
        records: scale.records,
        start,
        started_kib,
    })
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
    let pid = agent.ok_or_else(|| LabError::Unexpected("the agent was not started".into()))?.pid();
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(LabError::file("read", &path))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.ok_or_else(|| LabError::Unexpected(format!("{path} has no VmRSS in kB")))
}
