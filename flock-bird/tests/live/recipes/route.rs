//! A route as a router has it, whatever runs on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

/// What a router has of other speakers, all paths of each prefix.
pub(crate) type Routes = BTreeMap<IpNet, BTreeSet<Route>>;

/// One path, after the router's own policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) next_hop: IpAddr,
    pub(crate) as_path: Vec<u32>,
    /// 100 where the router says nothing of it.
    pub(crate) local_preference: u32,
    /// 0 where the router says nothing of it.
    pub(crate) med: u32,
    pub(crate) communities: BTreeSet<(u16, u16)>,
}

impl Route {
    /// One that came from the autonomous system of the nodes, and carries nothing.
    pub(crate) fn via(next_hop: &str) -> Self {
        Self {
            next_hop: next_hop.parse().unwrap(),
            as_path: vec![64512],
            local_preference: 100,
            med: 0,
            communities: BTreeSet::new(),
        }
    }
}

/// The next hop of one or two (RFC 2545, section 3): on a link with nothing but link-local addresses
/// BIRD has an unspecified one for the global one.
pub(crate) fn next_hop(all: impl IntoIterator<Item = IpAddr>) -> IpAddr {
    all.into_iter().find(|address| !address.is_unspecified()).expect("a next hop")
}
