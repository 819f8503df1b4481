//! What is Flock's on the node, and what a change means for it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use flock_core::attachment::{GATEWAY_V4, GATEWAY_V6, MacAddr};
use flock_core::dataplane::{DataplaneError, Disturbance};
use flock_core::name::InterfaceName;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::In6AddrGenMode;
use netlink_packet_route::route::RouteType;

use super::notice::{ALL_INTERFACES, FUTURE_INTERFACES, Notice, RouteNotice, SettingsNotice, Subject};
use crate::conversation::Conversation;
use crate::facts::LinkFacts;
use crate::links::{LOOPBACK, every_link, kernel};
use crate::messages;
use crate::routes::{anycast_state, own_routes};
use crate::state::permanent_neighbour;
use crate::{DOOMED_LINK_GROUP, LINK_GROUP, ROUTE_PROTOCOL};

/// Flock's things, as they were when last heard of.
#[derive(Debug, Default)]
pub(super) struct Watched {
    links: HashMap<u32, LinkFacts>,
    /// The permanent entries on those.
    neighbours: HashMap<(u32, IpAddr), MacAddr>,
    /// By destination and metric.
    routes: BTreeMap<(IpNet, u32), Over>,
}

/// What a route of ours leads over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Link(u32),
    /// A blackhole route, or one to an anycast address.
    Node,
}

impl Watched {
    /// Reads everything from the kernel.
    pub(super) fn read(conversation: &mut Conversation) -> Result<Self, DataplaneError> {
        let mut watched = Self::default();
        let links = every_link(conversation)?.into_iter().filter(|link| link.group == LINK_GROUP);
        watched.links = links.map(|link| (link.index, link)).collect();
        for family in [AddressFamily::Inet6, AddressFamily::Inet] {
            let question = messages::neighbours(family, None);
            let entries = conversation.dump(&question, |message| permanent_neighbour(&message));
            let entries = entries.map_err(|source| kernel("list", "the neighbours", source))?.into_iter();
            watched.neighbours.extend(entries.filter(|((index, _), _)| watched.links.contains_key(index)));
        }
        for route in own_routes(conversation)? {
            let is_unicast = route.header.kind == RouteType::Unicast;
            let metric = messages::metric(&route);
            let over = over(is_unicast, metric, messages::output_interface(&route));
            if let Some(destination) = messages::destination(&route) {
                watched.routes.insert((destination, metric), over);
            }
        }
        Ok(watched)
    }

    /// Takes a change in, and adds to `told` what it makes worth a look. `is_own` is for
    /// changes that this process asked for.
    pub(super) fn see(&mut self, notice: Notice<'_>, is_own: bool, told: &mut Disturbance) {
        match notice.subject() {
            Some(Subject::Link { index, group, notice }) => self.link(index, group, notice, told),
            Some(Subject::LinkGone { index, group }) => {
                // The group rather than who asked: a link can be removed through its other
                // end, in a namespace where the numbers of sockets are given anew.
                if group == LINK_GROUP {
                    self.tell(index, told);
                    told.node |= self.links.contains_key(&index);
                }
                self.forget(index);
            }
            Some(Subject::AddressGone { index: LOOPBACK, address }) => {
                if address == IpAddr::V4(GATEWAY_V4) {
                    // IPv4 routes that name it as their source go with it, and nobody says so.
                    told.merge(Disturbance { node: true, ..Disturbance::of_everything() });
                }
            }
            Some(Subject::AddressGone { index, address }) if address == IpAddr::V6(GATEWAY_V6) => {
                self.tell(index, told);
            }
            Some(Subject::Neighbour { index, address, permanent }) => {
                self.neighbour(index, address, permanent, is_own, told);
            }
            Some(Subject::Route(route)) => self.route(route, is_own, told),
            Some(Subject::Settings(settings)) => self.settings(settings, told),
            Some(Subject::AddressGone { .. }) | None => {}
        }
    }

    fn link(&mut self, index: u32, group: u32, notice: Notice<'_>, told: &mut Disturbance) {
        if group == DOOMED_LINK_GROUP {
            // The reaper is at it. What goes with the link is no disturbance any more.
            self.forget(index);
            return;
        }
        if group != LINK_GROUP && !self.links.contains_key(&index) {
            return;
        }
        let Some(facts) = notice.facts() else { return };
        if let Some(known) = self.links.get_mut(&index) {
            let is_down = known.is_up && !facts.is_up;
            if is_down || is_worse(known, &facts) {
                tell(known, told);
                // Routes over several links lose those that are down.
                told.node |= is_down;
            }
            *known = LinkFacts { name: std::mem::take(&mut known.name), ..facts };
        } else {
            self.links.insert(index, facts);
        }
    }

    fn neighbour(
        &mut self,
        index: u32,
        address: IpAddr,
        permanent: Option<MacAddr>,
        is_own: bool,
        told: &mut Disturbance,
    ) {
        if !self.links.contains_key(&index) {
            return;
        }
        let known = self.neighbours.get(&(index, address)).copied();
        if let Some(mac) = permanent.filter(|_| is_own || known.is_none()) {
            self.neighbours.insert((index, address), mac);
        } else if known.is_some() && known != permanent {
            // It stays known: until it is put right, every further change of it is worth a look.
            self.tell(index, told);
        }
    }

    fn route(&mut self, route: RouteNotice, is_own: bool, told: &mut Disturbance) {
        let is_ours = route.protocol == ROUTE_PROTOCOL;
        let over = over(route.is_unicast, route.metric, route.index);
        let key = (route.destination, route.metric);
        if is_ours && is_own {
            if route.is_gone {
                self.routes.remove(&key);
            } else {
                self.routes.insert(key, over);
            }
            return;
        }
        let to_there = || self.routes.range((route.destination, 0)..=(route.destination, u32::MAX));
        let known = match self.routes.get(&key) {
            None if !is_ours => to_there().next().map(|(_, over)| *over),
            known => known.copied(),
        };
        let disturbed = match (is_ours, route.is_gone) {
            (true, true) => Some(over),
            // One of ours was changed by somebody else.
            (true, false) => known.filter(|known| *known != over || over == Over::Node),
            // It may have replaced ours, or have been in its place until now.
            (false, _) => known,
        };
        match disturbed {
            Some(Over::Link(index)) => self.tell(index, told),
            Some(Over::Node) => told.node = true,
            None => {}
        }
    }

    fn settings(&self, settings: SettingsNotice, told: &mut Disturbance) {
        let off = |value: Option<i32>| value.is_some_and(|value| value != 1);
        match settings.index {
            ALL_INTERFACES => told.node |= off(settings.forwarding),
            FUTURE_INTERFACES => told.node |= settings.is_ipv6 && off(settings.forwarding),
            index => {
                let is_off = off(settings.forwarding)
                    || (!settings.is_ipv6 && (off(settings.rp_filter) || off(settings.proxy)));
                if is_off && let Ok(index) = u32::try_from(index) {
                    self.tell(index, told);
                }
            }
        }
    }

    fn tell(&self, index: u32, told: &mut Disturbance) {
        if let Some(link) = self.links.get(&index) {
            tell(link, told);
        }
    }

    fn forget(&mut self, index: u32) {
        if self.links.remove(&index).is_some() {
            self.neighbours.retain(|(over, _), _| *over != index);
            self.routes.retain(|_, over| *over != Over::Link(index));
        }
    }
}

fn tell(link: &LinkFacts, told: &mut Disturbance) {
    if let Ok(name) = InterfaceName::new(link.name.clone()) {
        told.interfaces.insert(name);
    }
}

/// What `attach` makes once and never takes back. While it is being made, things only get better.
fn is_worse(before: &LinkFacts, now: &LinkFacts) -> bool {
    now.group != LINK_GROUP
        || now.name != before.name
        || now.mtu != before.mtu
        || now.mac != before.mac
        || (before.alias.is_some() && now.alias != before.alias)
        || (before.address_generation == Some(In6AddrGenMode::None)
            && now.address_generation != before.address_generation)
}

fn over(is_unicast: bool, metric: u32, index: Option<u32>) -> Over {
    match index {
        Some(index) if is_unicast && anycast_state(metric).is_none() => Over::Link(index),
        _ => Over::Node,
    }
}
