//! The benchmark: what ADD and DEL cost when they are called as processes, for
//! Flock, for other plugins, and for the floor below all of them.
//!
//! Everything is measured in one run on one machine, and the contenders take
//! turns, so that a noisy moment hits all of them. Each has a node (a network
//! namespace) of its own; the pods' namespaces are made before and are used again.
//! A call is measured from before its process is started until it has ended, and
//! what a plugin leaves for later is waited for between the turns.

use std::fs;
use std::path::Path;
use std::thread;

mod agent;
mod bgp;
mod binary;
mod contender;
mod pods;
mod report;
mod series;

pub use agent::AgentNumbers;
pub use bgp::{BgpNumbers, FullTable, ManyPeers};
pub use binary::Binary;
pub use report::{Report, Row};
pub use series::Series;

use self::contender::Contender;
use self::pods::Pods;
use self::series::{Turn, in_order, in_turn, together};
use crate::fabric::DIR;
use crate::{LabError, Result, programs};

/// How many calls are at work at once, where several are.
pub const AT_ONCE: usize = 16;

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Scale {
    /// How often the contenders take turns, one call at a time.
    pub rounds: usize,
    /// How many pods each adds and deletes in a turn.
    pub pods: usize,
    /// The same, for a contender that takes seconds for a pod.
    pub slow_pods: usize,
    /// How many pods Flock adds and deletes in a row without a pause for its reaper.
    pub churn: usize,
    /// How often the contenders take turns, [`AT_ONCE`] calls at a time.
    pub rounds_together: usize,
    /// How many pods each adds and deletes in such a turn.
    pub pods_together: usize,
    /// The same, for a contender that takes seconds for a pod, in one turn only.
    pub slow_pods_together: usize,
    /// With how many attachments the agent's memory is looked at.
    pub memory_attachments: usize,
    /// With how many records the agent is started.
    pub records: usize,
    /// With how many BGP peers.
    pub peers: usize,
    /// With how many anycast addresses.
    pub anycast: usize,
    /// How often their configuration is changed.
    pub bgp_rounds: usize,
    /// How many routes a router sends that are not taken.
    pub routes: usize,
    /// How many times the readiness of a pod changes.
    pub changes: usize,
}

impl Scale {
    /// What the targets are about: about three minutes.
    pub fn full() -> Self {
        Self {
            rounds: 10,
            pods: 20,
            slow_pods: 1,
            churn: 400,
            rounds_together: 3,
            pods_together: 160,
            slow_pods_together: 48,
            memory_attachments: 250,
            records: 1000,
            peers: 64,
            anycast: 1000,
            bgp_rounds: 20,
            routes: 500_000,
            changes: 2000,
        }
    }

    /// Enough to see that everything works: under half a minute.
    pub fn quick() -> Self {
        Self {
            rounds: 2,
            pods: 4,
            slow_pods: 1,
            churn: 10,
            rounds_together: 1,
            pods_together: 24,
            slow_pods_together: 16,
            memory_attachments: 32,
            records: 64,
            peers: 4,
            anycast: 20,
            bgp_rounds: 2,
            routes: 2000,
            changes: 100,
        }
    }
}

/// Measures everything. To be called in a [`sandbox`](crate::sandbox).
pub fn run(scale: &Scale) -> Result<Report> {
    let dir = Path::new(DIR).join("bench");
    fs::create_dir_all(&dir).map_err(LabError::file("create", &dir))?;
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let pods = Pods::create("bench", scale.pods.max(scale.pods_together).max(scale.churn.min(200)))?;
    let mut contenders = Contender::all(&dir)?;
    let mut rows = one_at_a_time(&mut contenders, &pods, scale)?;
    rows.extend(many_at_a_time(&mut contenders, &pods, scale)?);
    drop(contenders);
    let binaries = vec![
        Binary::look("flock (plugin)", &programs::plugin()?)?,
        Binary::look("flock-agent", &programs::agent()?)?,
        Binary::look("floor", &programs::floor()?)?,
    ];
    Ok(Report {
        machine: format!(
            "{} processors, Linux {}, load {} at the start",
            thread::available_parallelism().map_or(0, usize::from),
            fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            load.split(' ').next().unwrap_or_default(),
        ),
        rows,
        agent: agent::measure(&dir, scale)?,
        bgp: bgp::measure(&dir, scale)?,
        binaries,
    })
}

fn one_at_a_time(contenders: &mut [Contender], pods: &Pods, scale: &Scale) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = contenders.iter().map(|contender| Row::new(contender.name(), 1)).collect();
    for round in 0..=scale.rounds {
        for (contender, row) in contenders.iter_mut().zip(&mut rows) {
            let count = if contender.is_slow() { scale.slow_pods } else { scale.pods };
            let turn = in_order(contender, pods.first(count))?;
            contender.settle()?;
            // The first round makes the bridge, fills caches and is not counted.
            if round > 0 {
                row.take(turn);
            }
        }
    }
    let flock = contenders.iter_mut().find(|contender| contender.is_flock());
    if let Some(flock) = flock {
        let mut row = Row::new("Flock, pods come and go", 1);
        let mut left = scale.churn;
        while left > 0 {
            let count = left.min(pods.len());
            row.take(in_turn(flock, pods.first(count))?);
            left -= count;
        }
        flock.settle()?;
        rows.insert(1, row);
    }
    Ok(rows)
}

fn many_at_a_time(contenders: &mut [Contender], pods: &Pods, scale: &Scale) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for round in 0..scale.rounds_together {
        let fit = contenders.iter_mut().filter(|contender| contender.runs_together());
        for (place, contender) in fit.enumerate() {
            if round == 0 {
                rows.push(Row::new(contender.name(), AT_ONCE));
            }
            let count = match (contender.is_slow(), round) {
                (false, _) => scale.pods_together,
                (true, 0) => scale.slow_pods_together,
                (true, _) => continue,
            };
            let turn: Turn = together(contender, pods.first(count), AT_ONCE)?;
            contender.settle()?;
            if let Some(row) = rows.get_mut(place) {
                row.take(turn);
            }
        }
    }
    Ok(rows)
}
