//! Everything of a node that a call of the plugin could leave behind.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use crate::deadline::{Probe, until};
use crate::netns::Netns;
use crate::node::Node;
use crate::{LabError, Result};

/// Two snapshots are equal if nothing was made, changed or taken away in between.
///
/// Neighbour entries that the kernel learns by itself are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    parts: BTreeMap<String, String>,
}

/// How long a reaper may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What `ip` is asked, in each namespace.
const QUESTIONS: [&str; 5] =
    ["-d link", "address", "-4 route show table all", "-6 route show table all", "neigh show nud permanent"];

impl Snapshot {
    /// The records of `node`, and its network and that of `pods`.
    pub fn of(node: &Node, pods: &[&Netns]) -> Result<Self> {
        let mut parts = records(node)?;
        for netns in pods.iter().copied().chain([&node.netns]) {
            for question in QUESTIONS {
                let words: Vec<&str> = question.split(' ').collect();
                parts.insert(format!("{}: ip {question}", netns.name()), netns.ip(&words)?);
            }
        }
        Ok(Self { parts })
    }

    /// Waits until `node` is as in this snapshot again: what DEL leaves to the reaper takes a moment.
    pub fn returns(&self, node: &Node, pods: &[&Netns]) -> Result<()> {
        until(&format!("{} to be as before", node.name()), LIMIT, || {
            let difference = self.difference(&Self::of(node, pods)?);
            Ok(if difference.is_empty() { Probe::Done(()) } else { Probe::Waiting(difference) })
        })
    }

    /// What differs from `other`, part by part; empty if nothing does.
    pub fn difference(&self, other: &Self) -> String {
        let mut lines = Vec::new();
        for part in self.parts.keys().chain(other.parts.keys().filter(|part| !self.parts.contains_key(*part)))
        {
            let (before, after) = (self.parts.get(part), other.parts.get(part));
            if before != after {
                lines.push(format!("{part}\n  before: {before:?}\n  after:  {after:?}"));
            }
        }
        lines.join("\n")
    }
}

/// The files of the records, by name. There are none before the agent has made the directory.
fn records(node: &Node) -> Result<BTreeMap<String, String>> {
    let directory = node.files().run.join("attachments");
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.map_err(LabError::file("list", &directory))?,
    };
    let mut records = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(LabError::file("list", &directory))?.path();
        let bytes = match fs::read(&path) {
            // The reaper was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes.map_err(LabError::file("read", &path))?,
        };
        records.insert(path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(records)
}
