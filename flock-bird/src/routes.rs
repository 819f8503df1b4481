//! BIRD's routes as it tells them (`show route`), with their BGP attributes where it was asked for
//! `all`, and how many there are.
//!
//! An answer of more than 16 MiB, some hundred thousand routes, is refused by the
//! [client](crate::control::Limits): ask for a part of the table, or for the
//! [number](counts).
//!
//! ```
//! use flock_bird::control::ReplyParser;
//! use flock_bird::routes;
//!
//! let mut parser = ReplyParser::new();
//! parser.push(
//!     b"1007-Table master4:\n 203.0.113.0/24       unicast [tor1 10:00:00.000] * (100) [AS64500i]\n \
//!       \tvia 192.0.2.254 on eth0\n1012-\tBGP.as_path: 64501 64500\n0000 \n",
//! );
//! let reply = parser.next_reply().unwrap().unwrap();
//! let route = &routes::parse(&reply).known[0];
//! assert_eq!(route.prefix, "203.0.113.0/24".parse().unwrap());
//! assert_eq!(route.next_hops[0].via, Some("192.0.2.254".parse().unwrap()));
//! assert_eq!(route.bgp.as_path.as_ref().unwrap().to_string(), "64501 64500");
//! ```

use std::net::IpAddr;

use ipnet::IpNet;

use crate::control::{Client, Code, Reply};
use crate::query::{QueryError, Rows, ask};
use crate::time::Moment;

mod attributes;
mod row;

pub use attributes::{AsPath, Attributes, Community, LargeCommunity, Origin, Segment};

/// Rows of `show route` and of `show route count`.
const ROW: Code = Code(1007);
/// The attributes of the row before: what every route has, and what its protocol adds.
const ATTRIBUTES: [Code; 2] = [Code(1008), Code(1012)];

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The table that it is in; `None` if BIRD did not say, as with only one.
    pub table: Option<String>,
    /// Where it leads.
    pub prefix: IpNet,
    /// What happens to a packet: `unicast`, `blackhole`, `unreachable`, `prohibited`.
    pub destination: String,
    /// The protocol that it came from.
    pub protocol: String,
    /// Since when it is as it is.
    pub since: Moment,
    /// Who has sent it, where that is not the next hop.
    pub from: Option<IpAddr>,
    /// Whether it is the one that is used for its prefix.
    pub best: bool,
    /// Whether the kernel has refused it.
    pub not_in_kernel: bool,
    /// The highest one is the best.
    pub preference: Option<u32>,
    /// Where a `unicast` route sends packets; several share them.
    pub next_hops: Vec<NextHop>,
    /// BGP's attributes; empty without `all`, and for routes of other protocols.
    pub bgp: Attributes,
}

/// Where packets go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NextHop {
    /// The next router; `None` on the link itself.
    pub via: Option<IpAddr>,
    /// The interface.
    pub interface: Option<String>,
    /// Its share among several.
    pub weight: Option<u32>,
}

/// How many routes a table has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The table.
    pub table: String,
    /// The routes that were asked for.
    pub routes: u64,
    /// All routes.
    pub of: u64,
    /// The prefixes of those that were asked for.
    pub prefixes: u64,
}

/// Asks BIRD for routes. `which` is what stands behind `show route`, as in `all protocol tor1`.
pub async fn routes(client: &Client, which: &str) -> Result<Rows<Route>, QueryError> {
    Ok(parse(&ask(client, &format!("show route {which}")).await?))
}

/// Asks BIRD for the number of routes. `which` is as in [`routes`].
pub async fn counts(client: &Client, which: &str) -> Result<Rows<Count>, QueryError> {
    Ok(parse_counts(&ask(client, &format!("show route {which} count")).await?))
}

/// Reads the answer to `show route`, with or without `all`. Routes for anything else than an
/// IP prefix, VPNs and flow rules for example, are [unknown](Rows::unknown).
pub fn parse(reply: &Reply) -> Rows<Route> {
    let mut rows = Rows::default();
    let mut table = None;
    // The network that a row without one belongs to.
    let mut prefix = None;
    let mut current: Option<Route> = None;
    for line in reply.lines() {
        let text = line.text.as_str();
        if let Some(detail) = text.strip_prefix('\t') {
            let Some(route) = &mut current else { continue };
            if line.code == ROW {
                route.next_hops.extend(row::next_hop(detail));
            } else if ATTRIBUTES.contains(&line.code) {
                route.bgp.line(detail);
            }
        } else if line.code == ROW {
            rows.known.extend(current.take());
            if let Some(name) = text.strip_prefix("Table ").and_then(|name| name.strip_suffix(':')) {
                (table, prefix) = (Some(name), None);
            } else if let Some(route) = row::route(text, prefix, table) {
                prefix = Some(route.prefix);
                current = Some(route);
            } else if !text.trim().is_empty() {
                prefix = None;
                rows.unknown.push(text.to_owned());
            }
        }
    }
    rows.known.extend(current);
    rows
}

/// Reads the answer to `show route count`.
pub fn parse_counts(reply: &Reply) -> Rows<Count> {
    let mut rows = Rows::default();
    for line in reply.lines().filter(|line| line.code == ROW && !line.text.trim().is_empty()) {
        match row::count(&line.text) {
            Some(count) => rows.known.push(count),
            None => rows.unknown.push(line.text.clone()),
        }
    }
    rows
}

#[cfg(test)]
mod tests;
