//! What there is in one network namespace, as far as checking needs it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use flock_core::attachment::MacAddr;
use flock_core::dataplane::DataplaneError;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use crate::conversation::Conversation;
use crate::facts::LinkFacts;
use crate::links::{every_link, find_link, kernel};
use crate::messages;
use crate::node::local_address;
use crate::routes::own_routes_over;

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet6, AddressFamily::Inet];

/// Links by name, and what is on them by index.
#[derive(Debug, Default)]
pub(crate) struct State {
    links: HashMap<String, LinkFacts>,
    addresses: HashSet<(u32, IpAddr)>,
    neighbours: HashMap<(u32, IpAddr), MacAddr>,
    routes: HashSet<(u32, IpNet, Option<IpAddr>)>,
}

impl State {
    /// Of the whole namespace: for many attachments.
    pub(crate) fn of_all(conversation: &mut Conversation) -> Result<Self, DataplaneError> {
        let mut state = Self::default();
        for link in every_link(conversation)? {
            state.links.insert(link.name.clone(), link);
        }
        state.read_entries(conversation, None)?;
        Ok(state)
    }

    /// Of the links of these names only.
    pub(crate) fn of_links<'a>(
        conversation: &mut Conversation,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Self, DataplaneError> {
        let mut state = Self::default();
        for name in names {
            let Some(link) = find_link(conversation, name)? else { continue };
            match state.read_entries(conversation, Some(link.index)) {
                Ok(()) => drop(state.links.insert(link.name.clone(), link)),
                // It was removed since it was found.
                Err(DataplaneError::Kernel { source, .. })
                    if source.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(state)
    }

    pub(crate) fn link(&self, name: &str) -> Option<&LinkFacts> {
        self.links.get(name)
    }

    /// Whether the address is there and may be used.
    pub(crate) fn has_address(&self, index: u32, address: IpAddr) -> bool {
        self.addresses.contains(&(index, address))
    }

    /// Whether there is a permanent entry, and the right one.
    pub(crate) fn has_neighbour(&self, index: u32, address: IpAddr, mac: MacAddr) -> bool {
        self.neighbours.get(&(index, address)) == Some(&mac)
    }

    /// Whether a route of ours leads there over this interface and gateway.
    pub(crate) fn has_route(&self, index: u32, prefix: IpNet, gateway: Option<IpAddr>) -> bool {
        self.routes.contains(&(index, prefix, gateway))
    }

    fn read_entries(
        &mut self,
        conversation: &mut Conversation,
        index: Option<u32>,
    ) -> Result<(), DataplaneError> {
        for family in FAMILIES {
            let question = messages::addresses(family, index.unwrap_or(0));
            let found = conversation
                .dump(&question, |message| usable_address(&message))
                .map_err(|source| kernel("list", "the addresses", source))?;
            self.addresses.extend(found);
            let question = messages::neighbours(family, index);
            let found = conversation
                .dump(&question, |message| permanent_neighbour(&message))
                .map_err(|source| kernel("list", "the neighbours", source))?;
            self.neighbours.extend(found);
        }
        let found = own_routes_over(conversation, index)?;
        self.routes.extend(found.iter().filter_map(single_route));
        Ok(())
    }
}

/// The permanent entries of the whole namespace.
pub(crate) fn permanent_neighbours(
    conversation: &mut Conversation,
) -> Result<Vec<(u32, IpAddr)>, DataplaneError> {
    let mut found = Vec::new();
    for family in FAMILIES {
        let question = messages::neighbours(family, None);
        let entries = conversation.dump(&question, |message| Some(permanent_neighbour(&message)?.0));
        found.extend(entries.map_err(|source| kernel("list", "the neighbours", source))?);
    }
    Ok(found)
}

fn usable_address(message: &RouteNetlinkMessage) -> Option<(u32, IpAddr)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed;
    if flags(message).intersects(unusable) {
        return None;
    }
    Some((message.header.index, local_address(message)?))
}

fn flags(message: &AddressMessage) -> AddressFlags {
    let named = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    named.unwrap_or(AddressFlags::from_bits_retain(message.header.flags.bits().into()))
}

pub(crate) fn permanent_neighbour(message: &RouteNetlinkMessage) -> Option<((u32, IpAddr), MacAddr)> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (address, mac) = neighbour_pair(message);
    Some(((message.header.ifindex, address?), mac?))
}

fn neighbour_pair(message: &NeighbourMessage) -> (Option<IpAddr>, Option<MacAddr>) {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(MacAddr);
            }
            _ => {}
        }
    }
    (address, mac)
}

fn single_route(route: &RouteMessage) -> Option<(u32, IpNet, Option<IpAddr>)> {
    let index = messages::output_interface(route)?;
    Some((index, messages::destination(route)?, messages::gateway(&route.attributes)))
}
