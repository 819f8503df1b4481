//! What BIRD, or the network, would take amiss.
//!
//! The node's configuration was validated where it was read. It is looked at once more
//! here since this is the last place before it becomes text that a program executes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use flock_core::announcer::{AnnounceError, Announcements};
use flock_core::node_config::Peer;
use ipnet::IpNet;

/// Refuses `wanted` with every reason, not only the first.
pub(super) fn check(wanted: &Announcements) -> Result<(), AnnounceError> {
    let mut problems = Vec::new();
    if wanted.asn == 0 && !wanted.peers.is_empty() {
        problems.push("the local AS number is 0, expected 1 to 4294967295 (RFC 7607)".to_owned());
    }
    if wanted.router_id == Ipv4Addr::UNSPECIFIED {
        problems.push("the router id is 0.0.0.0, expected any other value (RFC 6286)".to_owned());
    }
    if wanted.maximum_paths == 0 {
        problems.push("the number of paths is 0, expected 1 to 255".to_owned());
    }
    problems.extend(wanted.export.problems());
    check_peers(wanted, &mut problems);
    for summary in &wanted.summaries {
        check_summary(*summary, &mut problems);
    }
    for (kind, addresses) in
        [("anycast", &wanted.anycast), ("anycast", &wanted.standby), ("pod's", &wanted.exceptions)]
    {
        for address in addresses {
            if let Some(what) = unannounceable(*address) {
                problems.push(format!(
                    "the {kind} address {address} is {what}, expected a global unicast address"
                ));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(AnnounceError::Invalid(problems.join("; "))) }
}

fn check_peers(wanted: &Announcements, problems: &mut Vec<String>) {
    let (mut names, mut neighbors) = (BTreeSet::new(), BTreeSet::new());
    for peer in &wanted.peers {
        let Peer { name, neighbor, .. } = peer;
        if !names.insert(name) {
            problems.push(format!("two peers have the name {name:?}, expected distinct names"));
        }
        if !neighbors.insert(neighbor) {
            problems.push(format!("two peers have the address {neighbor}, expected distinct addresses"));
        }
        if !peer.is_resolved() {
            problems.push(format!("peer {name:?}: its password was not read, expected it or no such peer"));
        }
        problems.extend(peer.problems(wanted.asn).iter().map(|problem| format!("peer {name:?}: {problem}")));
    }
}

fn check_summary(summary: IpNet, problems: &mut Vec<String>) {
    if summary.prefix_len() == 0 {
        problems.push(format!("the summary {summary} is the default route, expected this node's own prefix"));
    } else if summary.trunc() != summary {
        problems.push(format!(
            "the summary {summary} has bits set beyond its length, expected {}",
            summary.trunc()
        ));
    } else if let Some(what) = unannounceable(summary.network()) {
        problems.push(format!("the summary {summary} is {what}, expected a global unicast prefix"));
    }
}

/// What makes an address useless beyond its host or link.
fn unannounceable(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("unspecified");
    }
    if address.is_loopback() {
        return Some("loopback");
    }
    if address.is_multicast() {
        return Some("multicast");
    }
    match address {
        IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240 => Some("reserved"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local"),
        IpAddr::V6(v6) if v6.to_ipv4().is_some() => Some("an embedded IPv4 address"),
        _ => None,
    }
}
