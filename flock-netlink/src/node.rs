//! The node itself: what routing needs of it, and what is to be known about it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use flock_core::attachment::{GATEWAY_V4, GATEWAY_V6};
use flock_core::dataplane::{DataplaneError, NodeFacts};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::conversation::{Conversation, Request};
use crate::facts::LinkFacts;
use crate::links::{LOOPBACK, every_link, kernel, perform};
use crate::messages::{self, Use};
use crate::routes::dump_routes;
use crate::sysctl::Sysctls;
use crate::worker::Worker;

/// What routing needs of the node, in the order in which it is set.
pub(crate) const REQUIRED_SETTINGS: [(&str, &str); 3] = [
    ("net/ipv4/ip_forward", "1"),
    // This one passes on to every interface and to those to come ...
    ("net/ipv6/conf/all/forwarding", "1"),
    // ... where nobody has changed that since.
    ("net/ipv6/conf/default/forwarding", "1"),
];

impl Worker {
    pub(crate) fn prepare(&mut self) -> Result<NodeFacts, DataplaneError> {
        let links = every_link(&mut self.node)?;
        let ipv6_routes = dump_routes(&mut self.node, &messages::all_routes(AddressFamily::Inet6))?;
        let ipv4_routes = dump_routes(&mut self.node, &messages::all_routes(AddressFamily::Inet))?;
        keep_router_advertisements(&self.sysctls, &links, &ipv6_routes)?;
        enable_forwarding(&self.sysctls)?;
        self.add_gateway()?;
        let addresses = addresses(&mut self.node)?;
        Ok(NodeFacts {
            default_mtu: default_mtu(&links, &ipv6_routes).or_else(|| default_mtu(&links, &ipv4_routes)),
            first_global_ipv4: first_global_ipv4(&addresses),
            addresses: own_addresses(&addresses),
        })
    }

    /// The pods' IPv4 gateway, answered by the node itself. With host scope the
    /// node never takes it as source by itself.
    fn add_gateway(&mut self) -> Result<(), DataplaneError> {
        let gateway = IpNet::from(IpAddr::V4(GATEWAY_V4));
        let requests = [Request::replace(messages::address(LOOPBACK, gateway, Use::AnswerOnly))];
        perform(&mut self.node, &requests, "lo").map(drop)
    }
}

/// A router takes no router advertisements unless it is told so twice
/// (`accept_ra` 2): turning forwarding on would take a default route away
/// from a node that has learnt it from one.
fn keep_router_advertisements(
    sysctls: &Sysctls,
    links: &[LinkFacts],
    routes: &[RouteMessage],
) -> Result<(), DataplaneError> {
    let learnt: BTreeSet<u32> = routes
        .iter()
        .filter(|route| route.header.protocol == RouteProtocol::Ra)
        .flat_map(output_interfaces)
        .collect();
    for link in links.iter().filter(|link| learnt.contains(&link.index)) {
        if link.inet6.as_ref().is_some_and(|inet6| inet6.accept_ra == 1) {
            sysctls.ensure(&format!("net/ipv6/conf/{}/accept_ra", link.name), "2")?;
        }
    }
    Ok(())
}

/// A kernel without IPv6 is refused here: also pods with IPv4 alone have links that it can't make.
fn enable_forwarding(sysctls: &Sysctls) -> Result<(), DataplaneError> {
    REQUIRED_SETTINGS.iter().try_for_each(|(name, value)| sysctls.ensure(name, value))
}

/// Whether the interface has the address.
pub(crate) fn has_address(
    conversation: &mut Conversation,
    index: u32,
    address: IpAddr,
) -> Result<bool, DataplaneError> {
    Ok(addresses(conversation)?.iter().any(|found| found.index == index && found.address == address))
}

/// Index and address, as the kernel lists them.
struct NodeAddress {
    index: u32,
    address: IpAddr,
    scope: AddressScope,
}

fn addresses(conversation: &mut Conversation) -> Result<Vec<NodeAddress>, DataplaneError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet6, AddressFamily::Inet] {
        let question = messages::addresses(family, 0);
        let listed = conversation.dump(&question, |message| node_address(&message));
        found.extend(listed.map_err(|source| kernel("list", "the addresses", source))?);
    }
    Ok(found)
}

fn node_address(message: &RouteNetlinkMessage) -> Option<NodeAddress> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let address = local_address(message)?;
    Some(NodeAddress { index: message.header.index, address, scope: message.header.scope })
}

/// The address itself: IFA_LOCAL, or IFA_ADDRESS, which IPv6 uses.
pub(crate) fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut fallback = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => fallback = Some(*address),
            _ => {}
        }
    }
    fallback
}

fn own_addresses(found: &[NodeAddress]) -> Vec<IpAddr> {
    let mut own: BTreeSet<IpAddr> =
        found.iter().filter(|entry| is_global(entry)).map(|entry| entry.address).collect();
    own.extend([IpAddr::V6(GATEWAY_V6), IpAddr::V4(GATEWAY_V4)]);
    own.into_iter().collect()
}

fn first_global_ipv4(found: &[NodeAddress]) -> Option<Ipv4Addr> {
    let candidates = found.iter().filter(|entry| is_global(entry)).filter_map(|entry| match entry.address {
        IpAddr::V4(v4) => Some((entry.index, v4)),
        IpAddr::V6(_) => None,
    });
    // The first of an interface is its primary one: keep the kernel's order within one.
    candidates.min_by_key(|(index, _)| *index).map(|(_, address)| address)
}

fn is_global(entry: &NodeAddress) -> bool {
    let reachable = match entry.address {
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
    };
    reachable && matches!(entry.scope, AddressScope::Universe | AddressScope::Site)
}

/// Of the default route with the lowest metric; of several next hops, the smallest.
fn default_mtu(links: &[LinkFacts], routes: &[RouteMessage]) -> Option<u32> {
    let default = routes
        .iter()
        .filter(|route| route.header.destination_prefix_length == 0)
        .filter(|route| route.header.kind == RouteType::Unicast)
        .min_by_key(|route| messages::metric(route))?;
    let hops = output_interfaces(default);
    links.iter().filter(|link| hops.contains(&link.index)).map(|link| link.mtu).min()
}

fn output_interfaces(route: &RouteMessage) -> Vec<u32> {
    let mut found: Vec<u32> = messages::output_interface(route).into_iter().collect();
    for attribute in &route.attributes {
        if let RouteAttribute::MultiPath(hops) = attribute {
            found.extend(hops.iter().map(|hop| hop.interface_index));
        }
    }
    found
}
