//! The lines of `show route` and `show route count`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Attributes, Count, NextHop, Route};
use crate::time::Moment;

/// `203.0.113.0/24       unicast [tor1 10:00:00.000 from 192.0.2.7] * (100) [AS64500i]`; another
/// route for the same network begins with spaces.
pub(super) fn route(row: &str, last: Option<IpNet>, table: Option<&str>) -> Option<Route> {
    let (before, rest) = row.split_once('[')?;
    let (source, after) = rest.split_once(']')?;
    let mut words = before.split_whitespace();
    let prefix = if row.starts_with(' ') { last? } else { words.next()?.parse().ok()? };
    let destination = words.next()?;
    if words.next().is_some() {
        return None;
    }
    let (source, from) = match source.split_once(" from ") {
        Some((source, from)) => (source, Some(address(from)?)),
        None => (source, None),
    };
    let (protocol, since) = source.split_once(' ').unwrap_or((source, ""));
    if protocol.is_empty() {
        return None;
    }
    let (marks, behind) = after.split_once('(').unwrap_or((after, ""));
    Some(Route {
        table: table.map(str::to_owned),
        prefix,
        destination: destination.to_owned(),
        protocol: protocol.to_owned(),
        since: Moment::read(since.trim()),
        from,
        best: marks.contains(['*', '!']),
        not_in_kernel: marks.contains('!'),
        preference: behind.split(['/', ')']).next().and_then(|preference| preference.parse().ok()),
        next_hops: Vec::new(),
        bgp: Attributes::default(),
    })
}

/// `via 192.0.2.254 on eth0 weight 1`, `dev eth0`
pub(super) fn next_hop(line: &str) -> Option<NextHop> {
    let mut words = line.split_whitespace();
    let mut hop = NextHop::default();
    while let Some(word) = words.next() {
        match word {
            "via" => hop.via = Some(address(words.next()?)?),
            "on" | "dev" => hop.interface = words.next().map(str::to_owned),
            "weight" => hop.weight = words.next()?.parse().ok(),
            _ => {}
        }
    }
    (hop != NextHop::default()).then_some(hop)
}

/// Of a link-local address the interface stands elsewhere.
fn address(text: &str) -> Option<IpAddr> {
    text.split('%').next()?.trim().parse().ok()
}

/// `4 of 5 routes for 3 networks in table master4`
pub(super) fn count(row: &str) -> Option<Count> {
    let words: Vec<&str> = row.split_whitespace().collect();
    match words[..] {
        [routes, "of", of, "routes", "for", prefixes, "networks", "in", "table", table, ..] => Some(Count {
            table: table.to_owned(),
            routes: routes.parse().ok()?,
            of: of.parse().ok()?,
            prefixes: prefixes.parse().ok()?,
        }),
        _ => None,
    }
}
