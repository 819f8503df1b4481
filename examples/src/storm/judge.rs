//! Compares what callers were told with the kernel and the records. [`judge`] asks `ip` and
//! reads files: nothing of Flock's own code has a say. [`agrees`] is Flock's own judge.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::deadline::{Probe, until};
use crate::netns::Netns;
use crate::node::{Node, Pod};
use crate::process::run;
use crate::runtime::INTERFACE;
use crate::{LabError, Result, programs};

/// How long what DEL leaves to the reaper may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits until the node has exactly the attachments of `expected`: for each container one
/// record, one link, and of each of its addresses one route and one neighbour entry.
pub fn judge(node: &Node, expected: &[Pod]) -> Result<()> {
    until(&format!("{} attachments and nothing else on {}", expected.len(), node.name()), LIMIT, || {
        let found = differences(node, expected)?;
        Ok(if found.is_empty() { Probe::Done(()) } else { Probe::Waiting(found.join("\n")) })
    })
}

/// What `flock-agent check` says of `node`, with the agent's answers and without; any
/// difference is an error.
pub fn agrees(node: &Node) -> Result<()> {
    let files = node.files();
    for offline in [false, true] {
        let mut command = node.netns.command(programs::agent()?);
        command.args(["check", "--announcer", "none", "--run-dir"]).arg(&files.run);
        if offline {
            command.arg("--offline").arg("--node-config").arg(&files.node_config);
        }
        run(&mut command)?;
    }
    Ok(())
}

fn differences(node: &Node, expected: &[Pod]) -> Result<Vec<String>> {
    let owners: BTreeMap<IpAddr, &str> = expected
        .iter()
        .flat_map(|pod| pod.addresses.iter().map(|address| (*address, pod.container.id.as_str())))
        .collect();
    let links = links(&node.netns)?;
    let mut found = Vec::new();
    let containers: BTreeSet<String> = expected.iter().map(|pod| pod.container.id.clone()).collect();
    compare("link", &containers, &links.values().cloned().collect(), &mut found);
    if links.len() != expected.len() {
        found.push(format!("{} links, expected {}", links.len(), expected.len()));
    }

    let records = records(node)?;
    compare("record", &containers, &records.keys().cloned().collect(), &mut found);
    for (container, record) in records {
        let has = expected.iter().find(|pod| pod.container.id == container);
        let mut has = has.map(|pod| pod.addresses.clone()).unwrap_or_default();
        has.sort_unstable();
        if record != ("committed".to_owned(), has.clone()) {
            found.push(format!("the record of {container} says {record:?}, expected committed and {has:?}"));
        }
    }

    let addresses: BTreeSet<IpAddr> = owners.keys().copied().collect();
    for (what, question) in [
        ("route", &["-4", "-j", "route", "show", "table", "all"][..]),
        ("route", &["-6", "-j", "route", "show", "table", "all"][..]),
        ("neighbour entry", &["-4", "-j", "neigh", "show", "nud", "permanent"][..]),
        ("neighbour entry", &["-6", "-j", "neigh", "show", "nud", "permanent"][..]),
    ] {
        let of_family = |address: &&IpAddr| address.is_ipv4() == (question[0] == "-4");
        let mut there = BTreeSet::new();
        for (address, link) in entries(&node.netns, question)? {
            let Some(container) = links.get(&link) else { continue };
            // Anycast addresses and what the kernel makes for itself belong to no one alone.
            if !is_of_prefix(address) {
                continue;
            }
            if owners.get(&address).is_none_or(|owner| owner != container) {
                found.push(format!("a {what} of {address} to {container}, which does not have it"));
            }
            there.insert(address);
        }
        compare(what, &addresses.iter().filter(of_family).copied().collect(), &there, &mut found);
    }
    for expected in expected {
        pod(&expected.container.netns, &expected.container.id, &expected.addresses, &mut found)?;
    }
    Ok(found)
}

/// What is missing of `expected`, and what is there beside it.
fn compare<T: Ord + std::fmt::Debug>(
    what: &str,
    expected: &BTreeSet<T>,
    there: &BTreeSet<T>,
    found: &mut Vec<String>,
) {
    found.extend(expected.difference(there).map(|one| format!("no {what} of {one:?}")));
    found
        .extend(there.difference(expected).map(|one| format!("a {what} of {one:?} that nobody was told of")));
}

/// The prefixes of the storm's and the churn's node.
fn is_of_prefix(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] == 10,
        IpAddr::V6(address) => address.segments()[..3] == [0x2001, 0xdb8, 1],
    }
}

/// Names of Flock's links, with the container that the alias names.
fn links(netns: &Netns) -> Result<BTreeMap<String, String>> {
    let mut links = BTreeMap::new();
    for link in ask(netns, &["-j", "-d", "link", "show", "type", "veth"])? {
        let text = |key: &str| link.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let alias = text("ifalias");
        let container = alias.strip_prefix("flock:").and_then(|key| key.split('/').next());
        let container = container.map_or_else(|| format!("nobody, with the alias {alias:?}"), str::to_owned);
        links.insert(text("ifname"), container);
    }
    Ok(links)
}

/// The state and the addresses of each record, by container.
fn records(node: &Node) -> Result<BTreeMap<String, (String, Vec<IpAddr>)>> {
    let directory = node.files().run.join("attachments");
    let mut records = BTreeMap::new();
    for entry in fs::read_dir(&directory).map_err(LabError::file("list", &directory))? {
        let path = entry.map_err(LabError::file("list", &directory))?.path();
        // The reaper may be faster; then there is no record.
        let Ok(bytes) = fs::read(&path) else { continue };
        let record: Value = serde_json::from_slice(&bytes)
            .map_err(|error| LabError::Unexpected(format!("{} is no record: {error}", path.display())))?;
        let text =
            |pointer: &str| record.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let addresses = ["/attachment/addresses/ipv4", "/attachment/addresses/ipv6"];
        let mut addresses: Vec<IpAddr> =
            addresses.iter().filter_map(|pointer| text(pointer).parse().ok()).collect();
        addresses.sort_unstable();
        records.insert(text("/attachment/key/container"), (text("/attachment/state"), addresses));
    }
    Ok(records)
}

/// The address and the link of each entry that `ip` lists and that is about one address.
fn entries(netns: &Netns, question: &[&str]) -> Result<Vec<(IpAddr, String)>> {
    let entries = ask(netns, question)?;
    let text =
        |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(entries
        .iter()
        .filter_map(|entry| Some((text(entry, "dst").parse().ok()?, text(entry, "dev"))))
        .collect())
}

fn ask(netns: &Netns, question: &[&str]) -> Result<Vec<Value>> {
    let said = netns.ip(question)?;
    // Where there is nothing, some versions of ip say nothing at all.
    let said = if said.trim().is_empty() { "[]" } else { &said };
    serde_json::from_str(said)
        .map_err(|error| LabError::Unexpected(format!("`ip {}` said {said:?}: {error}", question.join(" "))))
}

/// The pod's side: its interface with exactly its addresses.
fn pod(netns: &Netns, container: &str, addresses: &[IpAddr], found: &mut Vec<String>) -> Result<()> {
    let mut there = BTreeSet::new();
    for link in ask(netns, &["-j", "address", "show", "dev", INTERFACE])? {
        let of_link = link.get("addr_info").and_then(Value::as_array).cloned().unwrap_or_default();
        let own = of_link.iter().filter_map(|address| address.get("local")?.as_str()?.parse().ok());
        there.extend(own.filter(|address: &IpAddr| is_of_prefix(*address)));
    }
    let mut news = Vec::new();
    compare("address", &addresses.iter().copied().collect(), &there, &mut news);
    found.extend(news.into_iter().map(|one| format!("{one}, in the namespace of {container}")));
    Ok(())
}
