//! How much of the machine the agent takes.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::node::Node;
use crate::{LabError, Result};

/// How much more memory, in bytes, is no growth from one measure to the next. With the 2,000
/// pods that are between two of them in the long run, it is 32 bytes for each: less than anything
/// takes that may be forgotten of a pod, were it its key alone.
const SLACK: i64 = 64 * 1024;
/// How many more threads are no growth: those that wait for files come and go.
const SLACK_THREADS: usize = 4;

/// A look at an agent and at its node's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Resident memory beside that of files, in KiB.
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
            memory_kib: anonymous_kib(&process.join("status"))?,
            descriptors: entries(&process.join("fd"))?,
            threads: entries(&process.join("task"))?,
            files: files_below(&node.files().run)?,
            links: lines(&["-o", "link"])?,
            routes: lines(&["-4", "route", "show", "table", "all"])?
                + lines(&["-6", "route", "show", "table", "all"])?,
            neighbours: lines(&["neigh", "show", "nud", "all"])?,
        })
    }

    /// What is more than it was, in words; memory is another matter ([`memory_grown`]).
    pub(super) fn grown_since(&self, earlier: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        let mut look = |what: &str, before: u64, now: u64, slack: u64| {
            if now > before + slack {
                grown.push(format!("{what}: {before} before, {now} now"));
            }
        };
        let count = |number: usize| number as u64;
        look("file descriptors", count(earlier.descriptors), count(self.descriptors), 0);
        look("threads", count(earlier.threads), count(self.threads), count(SLACK_THREADS));
        look("files", count(earlier.files), count(self.files), 0);
        look("links", count(earlier.links), count(self.links), 0);
        look("routes", count(earlier.routes), count(self.routes), 0);
        look("neighbour entries", count(earlier.neighbours), count(self.neighbours), 0);
        grown
    }
}

/// How much memory each pod seems to have left behind, in bytes: by the lower quartile of what
/// was more from one measure to the next. What is forgotten of each pod shows in every one of
/// these; what an allocator takes, for a further thread or since what is free lies scattered,
/// in some.
pub(super) fn left_by_each(measures: &[(usize, Measure)]) -> i64 {
    let mut more: Vec<i64> = measures
        .windows(2)
        .filter_map(|pair| match pair {
            [(before, earlier), (after, later)] => {
                let bytes = 1024 * later.memory_kib.checked_signed_diff(earlier.memory_kib)?;
                bytes.checked_div(i64::try_from(after - before).ok()?)
            }
            _ => None,
        })
        .collect();
    more.sort_unstable();
    more.get(more.len() / 4).copied().unwrap_or(0)
}

/// That memory grew between these measures, in words.
pub(super) fn memory_grown(measures: &[(usize, Measure)]) -> Option<String> {
    let [(first, _), (second, _), ..] = measures else { return None };
    let most = SLACK / i64::try_from(second - first).unwrap_or(i64::MAX).max(1);
    let each = left_by_each(measures);
    (each > most).then(|| format!("memory: {each} bytes for each pod, expected {most} at most"))
}

fn anonymous_kib(status: &Path) -> Result<u64> {
    let text = fs::read_to_string(status).map_err(LabError::file("read", status))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| LabError::Unexpected(format!("{} has no RssAnon: {text}", status.display())))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn measures(memory_kib: impl Fn(usize) -> u64) -> Vec<(usize, Measure)> {
        let measure = |memory_kib| Measure {
            memory_kib,
            descriptors: 25,
            threads: 16,
            files: 1,
            links: 1,
            routes: 7,
            neighbours: 0,
        };
        (2..=10).map(|tenth| (2000 * tenth, measure(memory_kib(tenth)))).collect()
    }

    #[test]
    fn a_key_that_is_forgotten_of_each_pod_is_found() {
        let leak = |tenth| 30_000 + 63 * 2000 * tenth as u64 / 1024;
        let given_back = |tenth| leak(tenth) - if tenth < 6 { 0 } else { 1000 };
        for memory in [&leak as &dyn Fn(usize) -> u64, &given_back] {
            let measures = measures(memory);
            assert!(memory_grown(&measures).is_some(), "{}", left_by_each(&measures));
        }
    }

    /// As of an allocator that settles: none was forgotten where others took nothing.
    #[test]
    fn what_some_of_many_pods_take_is_no_growth() {
        let steps = [0, 120, 150, 170, 560, 0, 0, 0, 50];
        let settling = |tenth: usize| 30_000 + steps[..tenth - 1].iter().sum::<u64>();
        assert_eq!(memory_grown(&measures(settling)), None);
    }

    #[test]
    fn what_a_thread_takes_is_no_growth() {
        let threads =
            |tenth: usize| 30_000 + 256 * [4, 6, 9].iter().filter(|at| tenth >= **at).count() as u64;
        assert_eq!(memory_grown(&measures(threads)), None);
    }
}
