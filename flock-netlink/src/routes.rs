//! Routes on the node: to pods, for the summaries, and to anycast addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use flock_core::attachment::Addresses;
use flock_core::dataplane::{AnycastRoute, AnycastState, DataplaneError};
use flock_core::name::InterfaceName;
use ipnet::IpNet;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::conversation::{Conversation, Request};
use crate::links::{every_link, is_of_flock, kernel, link_of, perform, remove};
use crate::messages;
use crate::worker::Worker;
use crate::{ANNOUNCED_METRIC, ROUTE_PROTOCOL, STANDBY_METRIC, WITHDRAWING_METRIC};

/// An interface, and the gateway behind it where the family needs one.
pub(crate) type Hop = (u32, Option<Ipv6Addr>);

/// The hops of routes to anycast addresses.
pub(crate) type AnycastHops = BTreeMap<(IpAddr, AnycastState), BTreeSet<Hop>>;

impl Worker {
    /// Makes the blackhole routes of ours equal to `prefixes`.
    pub(crate) fn set_summaries(&mut self, prefixes: &BTreeSet<IpNet>) -> Result<(), DataplaneError> {
        let found: BTreeSet<IpNet> = own_routes(&mut self.node)?
            .iter()
            .filter(|route| route.header.kind == RouteType::BlackHole)
            .filter_map(messages::destination)
            .collect();
        // What is to be added comes first: between two sets nothing loops.
        let added: Vec<Request> = prefixes
            .difference(&found)
            .map(|prefix| Request::create(RouteNetlinkMessage::NewRoute(messages::blackhole_route(*prefix))))
            .collect();
        perform(&mut self.node, &added, "the node")?;
        let removed: Vec<Request> = found
            .difference(prefixes)
            .map(|prefix| Request::plain(RouteNetlinkMessage::DelRoute(messages::blackhole_route(*prefix))))
            .collect();
        remove(&mut self.node, &removed, "the node")
    }

    /// Makes the anycast routes of ours equal to `routes`; a server whose link
    /// is gone is left out.
    pub(crate) fn set_anycast(&mut self, routes: &[AnycastRoute]) -> Result<(), DataplaneError> {
        let mut wanted = self.hops(routes)?;
        loop {
            let Err(error) = self.make_anycast(&wanted) else { return Ok(()) };
            // A link that vanished meanwhile makes the kernel refuse, in many words.
            let now = self.hops(routes)?;
            if now == wanted {
                return Err(error);
            }
            wanted = now;
        }
    }

    /// What comes comes before what goes: an address whose route gets another state has one all the
    /// time.
    fn make_anycast(&mut self, wanted: &AnycastHops) -> Result<(), DataplaneError> {
        let found: AnycastHops = own_routes(&mut self.node)?.iter().filter_map(anycast_hops).collect();
        let mut requests = Vec::new();
        for (key, hops) in wanted {
            let route = RouteNetlinkMessage::NewRoute(anycast_route(*key, hops));
            match found.get(key) {
                Some(same) if same == hops => {}
                Some(_) => requests.push(Request::replace(route)),
                None => requests.push(Request::create(route)),
            }
        }
        perform(&mut self.node, &requests, "anycast")?;
        let removed: Vec<Request> = found
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .map(|key| anycast_route(*key, &BTreeSet::new()))
            .map(|route| Request::plain(RouteNetlinkMessage::DelRoute(route)))
            .collect();
        remove(&mut self.node, &removed, "anycast")
    }

    /// Takes links out of the anycast routes that others serve too. The kernel
    /// removes an IPv4 route with the first of its interfaces, whatever the
    /// others are.
    pub(crate) fn leave_anycast(&mut self, links: &BTreeSet<u32>) -> Result<(), DataplaneError> {
        let mut requests = Vec::new();
        for route in own_routes(&mut self.node)? {
            let Some((key, hops)) = anycast_hops(&route) else { continue };
            let left: BTreeSet<Hop> =
                hops.iter().filter(|(index, _)| !links.contains(index)).copied().collect();
            if !left.is_empty() && left != hops {
                let route = anycast_route(key, &left);
                requests.push(Request::replace(RouteNetlinkMessage::NewRoute(route)));
            }
        }
        perform(&mut self.node, &requests, "anycast").map(drop)
    }

    /// The next hops of each route, for those servers whose links are there.
    pub(crate) fn hops(&mut self, routes: &[AnycastRoute]) -> Result<AnycastHops, DataplaneError> {
        let servers: BTreeSet<_> = routes.iter().flat_map(|route| &route.servers).collect();
        let questions: Vec<Request> = servers
            .iter()
            .map(|server| Request::plain(messages::link_by_name(server.host_interface.as_str())))
            .collect();
        let answers = self.node.ask(&questions).map_err(|source| kernel("show", "the links", source))?;
        let mut links = BTreeMap::new();
        for (server, answer) in servers.into_iter().zip(answers) {
            let link = link_of(Some(answer), server.host_interface.as_str())?;
            if let Some(link) = link.filter(|link| link.is_up && link.is_host_side_of(&server.key)) {
                links.insert(server, link.index);
            }
        }
        let mut wanted = AnycastHops::new();
        for route in routes {
            for server in &route.servers {
                if let Some(index) = links.get(server) {
                    let gateway =
                        route.address.is_ipv6().then(|| server.key.mac_addresses().pod.link_local());
                    wanted.entry((route.address, route.state)).or_default().insert((*index, gateway));
                }
            }
        }
        Ok(wanted)
    }

    /// The anycast addresses that are announced, with the links that they are reached over.
    pub(crate) fn announced_anycast(&mut self) -> Result<Vec<(IpAddr, InterfaceName)>, DataplaneError> {
        let links: BTreeMap<u32, InterfaceName> = every_link(&mut self.node)?
            .into_iter()
            .filter(is_of_flock)
            .filter_map(|link| Some((link.index, InterfaceName::new(link.name).ok()?)))
            .collect();
        let mut found = Vec::new();
        for ((address, state), hops) in own_routes(&mut self.node)?.iter().filter_map(anycast_hops) {
            let over = hops.iter().filter_map(|(index, _)| links.get(index));
            found.extend(
                over.filter(|_| state == AnycastState::Announced).map(|link| (address, link.clone())),
            );
        }
        Ok(found)
    }
}

fn anycast_metric(state: AnycastState) -> u32 {
    match state {
        AnycastState::Announced => ANNOUNCED_METRIC,
        AnycastState::Withdrawing => WITHDRAWING_METRIC,
        AnycastState::Standby => STANDBY_METRIC,
    }
}

/// The state of a route of ours with this metric, if it leads to an anycast address.
pub(crate) fn anycast_state(metric: u32) -> Option<AnycastState> {
    AnycastState::ALL.into_iter().find(|state| anycast_metric(*state) == metric)
}

/// Address, state and hops of a route of ours, if it leads to an anycast address.
pub(crate) fn anycast_hops(route: &RouteMessage) -> Option<((IpAddr, AnycastState), BTreeSet<Hop>)> {
    let address = messages::destination(route)?.addr();
    Some(((address, anycast_state(messages::metric(route))?), hops_of(route)))
}

/// A route over `hops`. IPv6 takes several hops only with gateways, and
/// replaces a route only by one of the same sort: so there it is always a
/// gateway, the pod's link-local address, that a permanent entry resolves.
fn anycast_route((address, state): (IpAddr, AnycastState), hops: &BTreeSet<Hop>) -> RouteMessage {
    let mut message = messages::route_to(IpNet::from(address));
    if address.is_ipv4() {
        message.header.scope = RouteScope::Link;
    }
    message.attributes.push(RouteAttribute::Priority(anycast_metric(state)));
    if !hops.is_empty() {
        let hops = hops.iter().map(|(index, gateway)| messages::next_hop(*index, *gateway)).collect();
        message.attributes.push(RouteAttribute::MultiPath(hops));
    }
    message
}

fn hops_of(route: &RouteMessage) -> BTreeSet<Hop> {
    let v6 = |attributes: &[RouteAttribute]| match messages::gateway(attributes) {
        Some(IpAddr::V6(gateway)) => Some(gateway),
        _ => None,
    };
    if let Some(index) = messages::output_interface(route) {
        return BTreeSet::from([(index, v6(&route.attributes))]);
    }
    let several = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    several.flatten().map(|hop| (hop.interface_index, v6(&hop.attributes))).collect()
}

/// The pods' own addresses by the interface that they are behind.
pub(crate) fn pod_addresses(
    conversation: &mut Conversation,
) -> Result<BTreeMap<u32, Addresses>, DataplaneError> {
    let mut found: BTreeMap<u32, Addresses> = BTreeMap::new();
    for route in own_routes(conversation)? {
        let is_pods =
            route.header.kind == RouteType::Unicast && anycast_state(messages::metric(&route)).is_none();
        let Some(index) = messages::output_interface(&route).filter(|_| is_pods) else { continue };
        let addresses = found.entry(index).or_default();
        match messages::destination(&route).map(|prefix| prefix.addr()) {
            Some(IpAddr::V6(address)) => addresses.ipv6 = Some(address),
            Some(IpAddr::V4(address)) => addresses.ipv4 = Some(address),
            None => {}
        }
    }
    Ok(found)
}

/// Every route of ours in the main table, of both families.
pub(crate) fn own_routes(conversation: &mut Conversation) -> Result<Vec<RouteMessage>, DataplaneError> {
    own_routes_over(conversation, None)
}

/// Those over one interface, or all.
pub(crate) fn own_routes_over(
    conversation: &mut Conversation,
    index: Option<u32>,
) -> Result<Vec<RouteMessage>, DataplaneError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet6, AddressFamily::Inet] {
        found.extend(dump_routes(conversation, &messages::own_routes(family, index))?);
    }
    // An old kernel does not obey the filter.
    found.retain(is_own);
    Ok(found)
}

pub(crate) fn dump_routes(
    conversation: &mut Conversation,
    question: &RouteNetlinkMessage,
) -> Result<Vec<RouteMessage>, DataplaneError> {
    let route = |message| match message {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    };
    conversation.dump(question, route).map_err(|source| kernel("list", "the routes", source))
}

fn is_own(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL)
}

/// Puts `route` in the place of one to the same destination that is ours too:
/// the same, from an earlier attempt, or a left-over of a link before.
pub(crate) fn take_over(
    conversation: &mut Conversation,
    route: &RouteMessage,
    whose: &str,
) -> Result<(), DataplaneError> {
    let message = RouteNetlinkMessage::NewRoute(route.clone());
    let answers = conversation
        .ask(&[Request::plain(messages::route_entry(route))])
        .map_err(|source| kernel("show a route", whose, source))?;
    let present = match answers.into_iter().next() {
        Some(Ok(Some(RouteNetlinkMessage::NewRoute(present)))) => Some(present),
        _ => None,
    };
    if let Some(foreign) = present.filter(|present| !is_own(present)) {
        let source = io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("there is one already, that was made by {}; remove it", foreign.header.protocol),
        );
        return Err(kernel(&messages::describe(&message), whose, source));
    }
    perform(conversation, &[Request::replace(message)], whose).map(drop)
}
