//! How much of the machine the agent takes.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::node::Node;
use crate::{LabError, Result};

/// How much more memory is no growth: the allocator's own ways.
const SLACK_KIB: u64 = 2048;
/// How many more threads are no growth: those that wait for files come and go.
const SLACK_THREADS: usize = 4;

/// A look at an agent and at its node's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Resident memory, in KiB.
    pub memory_kib: u64,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Files below the run directory.
    pub files: usize,
    /// Links of the node.
    pub links: usize,
    /// Routes of the node, of both families and all tables.
    pub routes: usize,
    /// Neighbour entries of the node.
    pub neighbours: usize,
}

impl Measure {
    /// As it is now.
    pub fn of(node: &mut Node) -> Result<Self> {
        let pid = match node.agent() {
            Some(agent) => agent.pid(),
            None => return Err(LabError::Unexpected("there is no agent to be measured".to_owned())),
        };
        let process = Path::new("/proc").join(pid.to_string());
        let lines = |question: &[&str]| Ok::<_, LabError>(node.netns.ip(question)?.lines().count());
        Ok(Self {
            memory_kib: resident_kib(&process.join("status"))?,
            descriptors: entries(&process.join("fd"))?,
            threads: entries(&process.join("task"))?,
            files: files_below(&node.files().run)?,
            links: lines(&["-o", "link"])?,
            routes: lines(&["-4", "route", "show", "table", "all"])?
                + lines(&["-6", "route", "show", "table", "all"])?,
            neighbours: lines(&["neigh", "show", "nud", "all"])?,
        })
    }

    /// What is more than it was, in words.
    pub(super) fn grown_since(&self, earlier: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        let mut look = |what: &str, before: u64, now: u64, slack: u64| {
            if now > before + slack {
                grown.push(format!("{what}: {before} before, {now} now"));
            }
        };
        let count = |number: usize| number as u64;
        look("memory in KiB", earlier.memory_kib, self.memory_kib, SLACK_KIB);
        look("file descriptors", count(earlier.descriptors), count(self.descriptors), 0);
        look("threads", count(earlier.threads), count(self.threads), count(SLACK_THREADS));
        look("files", count(earlier.files), count(self.files), 0);
        look("links", count(earlier.links), count(self.links), 0);
        look("routes", count(earlier.routes), count(self.routes), 0);
        look("neighbour entries", count(earlier.neighbours), count(self.neighbours), 0);
        grown
    }
}

fn resident_kib(status: &Path) -> Result<u64> {
    let text = fs::read_to_string(status).map_err(LabError::file("read", status))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| LabError::Unexpected(format!("{} has no VmRSS: {text}", status.display())))
}

fn entries(directory: &Path) -> Result<usize> {
    Ok(fs::read_dir(directory).map_err(LabError::file("list", directory))?.count())
}

fn files_below(directory: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory).map_err(LabError::file("list", directory))? {
        let path = entry.map_err(LabError::file("list", directory))?.path();
        count += if path.is_dir() { files_below(&path)? } else { 1 };
    }
    Ok(count)
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} KiB, {} descriptors, {} threads, {} files, {} links, {} routes, {} neighbour entries",
            self.memory_kib,
            self.descriptors,
            self.threads,
            self.files,
            self.links,
            self.routes,
            self.neighbours
        )
    }
}
