//! What the node has beside its links: comparing it, and removing what is nobody's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use flock_core::attachment::{Attachment, GATEWAY_V4};
use flock_core::dataplane::{AnycastRoute, DataplaneError, NodeDrift, NodeWanted, Stray};
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteMessage, RouteType};

use crate::attach::host_neighbours;
use crate::conversation::Request;
use crate::links::{LOOPBACK, every_link, find_link, is_of_flock, remove};
use crate::messages;
use crate::node::{REQUIRED_SETTINGS, has_address};
use crate::routes::{anycast_hops, anycast_state, own_routes};
use crate::state::permanent_neighbours;
use crate::sysctl::dotted;
use crate::worker::Worker;

/// The links of the node as far as routes and neighbours tell of them.
struct Links<'a> {
    /// All of them.
    names: BTreeMap<u32, String>,
    /// Those of Flock.
    own: BTreeSet<u32>,
    attachments: &'a [Attachment],
}

impl Links<'_> {
    /// Whose link that is, of those that were asked about: damaged records may name one link twice.
    fn attachments(&self, index: u32) -> Vec<&Attachment> {
        let Some(name) = self.names.get(&index) else { return Vec::new() };
        self.attachments.iter().filter(|attachment| attachment.host_interface.as_str() == name).collect()
    }

    fn shown(&self, index: u32) -> String {
        self.names.get(&index).cloned().unwrap_or_else(|| format!("the interface {index}, which is gone"))
    }
}

impl Worker {
    pub(crate) fn check_node(&mut self, wanted: &NodeWanted) -> Result<Vec<NodeDrift>, DataplaneError> {
        let mut found = Vec::new();
        let facts = every_link(&mut self.node)?;
        let links = Links {
            names: facts.iter().map(|link| (link.index, link.name.clone())).collect(),
            own: facts.iter().filter(|link| is_of_flock(link)).map(|link| link.index).collect(),
            attachments: &wanted.attachments,
        };
        let routes = own_routes(&mut self.node)?;
        check_summaries(&wanted.summaries, &routes, &mut found);
        self.check_anycast(&wanted.anycast, &routes, &links, &mut found)?;
        self.check_settings(&mut found)?;
        let stray = routes.iter().filter_map(|route| stray_route(route, &links));
        found.extend(stray.map(NodeDrift::Stray));
        self.check_neighbours(&links, &mut found)?;
        Ok(found)
    }

    fn check_anycast(
        &mut self,
        wanted: &[AnycastRoute],
        routes: &[RouteMessage],
        links: &Links<'_>,
        differences: &mut Vec<NodeDrift>,
    ) -> Result<(), DataplaneError> {
        let mut wanted = self.hops(wanted)?;
        for ((address, state), found) in routes.iter().filter_map(anycast_hops) {
            let Some(expected) = wanted.remove(&(address, state)) else {
                differences.push(NodeDrift::AnycastUnexpected { address, state });
                continue;
            };
            if found != expected {
                let names =
                    |hops: BTreeSet<(u32, _)>| hops.iter().map(|(index, _)| links.shown(*index)).collect();
                differences.push(NodeDrift::Anycast {
                    address,
                    state,
                    expected: names(expected),
                    found: names(found),
                });
            }
        }
        differences.extend(wanted.into_iter().map(|((address, state), hops)| NodeDrift::Anycast {
            address,
            state,
            expected: hops.iter().map(|(index, _)| links.shown(*index)).collect(),
            found: BTreeSet::new(),
        }));
        Ok(())
    }

    fn check_settings(&mut self, differences: &mut Vec<NodeDrift>) -> Result<(), DataplaneError> {
        let gateway = IpAddr::V4(GATEWAY_V4);
        if !has_address(&mut self.node, LOOPBACK, gateway)? {
            differences.push(NodeDrift::GatewayMissing(gateway));
        }
        for (name, expected) in REQUIRED_SETTINGS {
            let found = self.sysctls.read(name).unwrap_or_else(|error| format!("unreadable ({error})"));
            if found != expected {
                let expected = expected.to_owned();
                differences.push(NodeDrift::Setting { name: dotted(name), expected, found });
            }
        }
        Ok(())
    }

    fn check_neighbours(
        &mut self,
        links: &Links<'_>,
        differences: &mut Vec<NodeDrift>,
    ) -> Result<(), DataplaneError> {
        for (index, address) in permanent_neighbours(&mut self.node)? {
            let attachments = links.attachments(index);
            let Some(first) = attachments.first().filter(|_| links.own.contains(&index)) else { continue };
            if !attachments
                .iter()
                .flat_map(|attachment| host_neighbours(attachment))
                .any(|own| own == address)
            {
                let interface = first.host_interface.clone();
                differences.push(NodeDrift::Stray(Stray::Neighbour { interface, address }));
            }
        }
        Ok(())
    }

    pub(crate) fn remove_strays(&mut self, strays: &[Stray]) -> Result<(), DataplaneError> {
        let names: BTreeMap<u32, String> =
            every_link(&mut self.node)?.into_iter().map(|link| (link.index, link.name)).collect();
        let mut requests: Vec<Request> = own_routes(&mut self.node)?
            .into_iter()
            .filter(|route| {
                let Some(prefix) = messages::destination(route).filter(|_| is_over_a_link(route)) else {
                    return false;
                };
                let interface =
                    messages::output_interface(route).and_then(|index| names.get(&index).cloned());
                strays.contains(&Stray::Route { prefix, interface })
            })
            .map(|route| Request::plain(RouteNetlinkMessage::DelRoute(route)))
            .collect();
        for stray in strays {
            let Stray::Neighbour { interface, address } = stray else { continue };
            if let Some(link) = find_link(&mut self.node, interface.as_str())?.filter(is_of_flock) {
                requests.push(Request::plain(messages::neighbour_delete(link.index, *address)));
            }
        }
        remove(&mut self.node, &requests, "what is nobody's")
    }
}

fn check_summaries(wanted: &BTreeSet<IpNet>, routes: &[RouteMessage], differences: &mut Vec<NodeDrift>) {
    let blackholes = routes.iter().filter(|route| route.header.kind == RouteType::BlackHole);
    let found: BTreeSet<IpNet> = blackholes.filter_map(messages::destination).collect();
    differences.extend(wanted.difference(&found).copied().map(NodeDrift::SummaryMissing));
    differences.extend(found.difference(wanted).copied().map(NodeDrift::SummaryUnexpected));
}

fn stray_route(route: &RouteMessage, links: &Links<'_>) -> Option<Stray> {
    let prefix = messages::destination(route).filter(|_| is_over_a_link(route))?;
    let Some(index) = messages::output_interface(route) else {
        return Some(Stray::Route { prefix, interface: None });
    };
    // A link that was made since the links were listed is not judged.
    let interface = links.names.get(&index)?;
    let attachments = links.attachments(index);
    let is_somebodys = if attachments.is_empty() {
        // It goes with the link, whosever that is.
        links.own.contains(&index)
    } else {
        attachments.iter().flat_map(|attachment| attachment.addresses.prefixes()).any(|own| own == prefix)
    };
    (!is_somebodys).then(|| Stray::Route { prefix, interface: Some(interface.clone()) })
}

/// Neither a summary nor an anycast route: these are made equal as a whole.
fn is_over_a_link(route: &RouteMessage) -> bool {
    route.header.kind != RouteType::BlackHole && anycast_state(messages::metric(route)).is_none()
}
