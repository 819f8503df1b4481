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
    check_peers(&wanted.peers, &mut problems);
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

fn check_peers(peers: &[Peer], problems: &mut Vec<String>) {
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for Peer { name, address, asn } in peers {
        if !is_peer_name(name) {
            problems.push(format!(
                "the peer name is {name:?}, expected a letter, then letters, digits or '-', at most 32 characters"
            ));
        }
        if !names.insert(name) {
            problems.push(format!("two peers have the name {name:?}, expected distinct names"));
        }
        if !addresses.insert(address) {
            problems.push(format!("two peers have the address {address}, expected distinct addresses"));
        }
        if *asn == 0 {
            problems.push(format!("peer {name:?}: the AS number is 0, expected 1 to 4294967295 (RFC 7607)"));
        }
        if let Some(what) = unannounceable(*address) {
            problems.push(format!(
                "peer {name:?}: the address {address} is {what}, expected a router's unicast address"
            ));
        }
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

/// What makes an address useless beyond its host or link. An IPv6 link-local peer would need an
/// interface beside its address.
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

pub(super) fn is_peer_name(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
