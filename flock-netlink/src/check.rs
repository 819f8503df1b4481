//! Comparing what should be with what is.

use std::net::IpAddr;

use flock_core::attachment::{Attachment, GATEWAY_V6, MacAddr};
use flock_core::dataplane::{DataplaneError, Drift, Side};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::link::In6AddrGenMode;

use crate::LINK_GROUP;
use crate::attach::host_neighbours;
use crate::facts::LinkFacts;
use crate::links::kernel;
use crate::netns::Namespace;
use crate::pod::PodSide;
use crate::state::State;
use crate::worker::Worker;

mod node;

/// From this many on, listing the whole node is cheaper than asking for each link.
const MANY: usize = 8;

impl Worker {
    pub(crate) fn check(&mut self, attachments: &[Attachment]) -> Result<Vec<Vec<Drift>>, DataplaneError> {
        let node = if attachments.len() < MANY {
            let names = attachments.iter().map(|attachment| attachment.host_interface.as_str());
            State::of_links(&mut self.node, names)?
        } else {
            State::of_all(&mut self.node)?
        };
        attachments.iter().map(|attachment| self.check_one(attachment, &node)).collect()
    }

    fn check_one(&mut self, attachment: &Attachment, node: &State) -> Result<Vec<Drift>, DataplaneError> {
        let mut found = Vec::new();
        check_host_side(attachment, node, &mut found);
        let name = attachment.host_interface.as_str();
        let host = node.link(name).filter(|link| link.is_host_side_of(&attachment.key));
        match Namespace::open(&attachment.netns) {
            Ok(namespace) => {
                let pod = self.pod_state(attachment, &namespace)?;
                check_pod_side(attachment, &pod, host, &mut found);
            }
            Err(DataplaneError::NotANamespace { path, .. } | DataplaneError::NamespaceChanged { path }) => {
                found.push(Drift::NamespaceGone(path));
            }
            Err(other) => return Err(other),
        }
        Ok(found)
    }

    fn pod_state(&mut self, attachment: &Attachment, namespace: &Namespace) -> Result<State, DataplaneError> {
        let shown = attachment.netns.path.display().to_string();
        let mut pod = self
            .converse_in(namespace)
            .map_err(|source| kernel("open a socket in the network namespace", &shown, source))?;
        State::of_links(&mut pod, std::iter::once(attachment.key.interface.as_str()))
    }
}

fn check_host_side(attachment: &Attachment, node: &State, found: &mut Vec<Drift>) {
    let Some(link) = node.link(attachment.host_interface.as_str()) else {
        found.push(Drift::LinkMissing(Side::Host));
        return;
    };
    if !link.is_host_side_of(&attachment.key) {
        found.push(Drift::LinkForeign(Side::Host));
        return;
    }
    let macs = attachment.key.mac_addresses();
    check_link(Side::Host, link, attachment, macs.host, found);
    check_host_settings(link, attachment, found);
    check_entries(
        Side::Host,
        link.index,
        node,
        &Expected {
            addresses: vec![IpAddr::V6(GATEWAY_V6)],
            neighbours: host_neighbours(attachment).collect(),
            neighbour_mac: macs.pod,
            routes: attachment.addresses.prefixes().map(|prefix| (prefix, None)).collect(),
        },
        found,
    );
}

fn check_pod_side(attachment: &Attachment, pod: &State, host: Option<&LinkFacts>, found: &mut Vec<Drift>) {
    let Some(link) = pod.link(attachment.key.interface.as_str()) else {
        found.push(Drift::LinkMissing(Side::Pod));
        return;
    };
    // Indices are counted per namespace: both ends have to name each other.
    if !host.is_some_and(|host| host.peer == Some(link.index) && link.peer == Some(host.index)) {
        found.push(Drift::LinkForeign(Side::Pod));
        return;
    }
    let macs = attachment.key.mac_addresses();
    check_link(Side::Pod, link, attachment, macs.pod, found);
    let wanted = PodSide::of(attachment);
    let gateways = wanted.gateways();
    check_entries(
        Side::Pod,
        link.index,
        pod,
        &Expected {
            addresses: wanted.addresses().collect(),
            routes: gateways.iter().map(|gateway| (default_prefix(*gateway), Some(*gateway))).collect(),
            neighbours: gateways,
            neighbour_mac: macs.host,
        },
        found,
    );
}

fn default_prefix(gateway: IpAddr) -> IpNet {
    match gateway {
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
    }
}

fn check_link(side: Side, link: &LinkFacts, attachment: &Attachment, mac: MacAddr, found: &mut Vec<Drift>) {
    if !link.is_up {
        found.push(Drift::LinkDown(side));
    }
    if link.mtu != attachment.mtu {
        found.push(Drift::Mtu { side, expected: attachment.mtu, found: link.mtu });
    }
    if link.mac != Some(mac) {
        let shown = link.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
        found.push(setting(format!("{} address", link.name), &mac, &shown));
    }
}

fn check_host_settings(link: &LinkFacts, attachment: &Attachment, found: &mut Vec<Drift>) {
    let name = &link.name;
    if link.group != LINK_GROUP {
        found.push(setting(format!("{name} group"), &LINK_GROUP, &link.group));
    }
    if link.alias.is_none() {
        found.push(setting(format!("{name} alias"), &attachment.key.alias(), &"none"));
    }
    if link.address_generation != Some(In6AddrGenMode::None) {
        let shown = link.address_generation.map_or("unknown".to_owned(), |mode| format!("{mode:?}"));
        found.push(setting(format!("{name} addrgenmode"), &"none", &shown));
    }
    let inet = link.inet.as_ref();
    let inet6 = link.inet6.as_ref();
    for (family, key, value, expected) in [
        ("ipv4", "forwarding", inet.map(|inet| inet.forwarding), 1),
        ("ipv4", "proxy_arp", inet.map(|inet| inet.proxy_arp), 1),
        ("ipv4", "rp_filter", inet.map(|inet| inet.rp_filter), 1),
        ("ipv6", "forwarding", inet6.map(|inet6| inet6.forwarding), 1),
        ("ipv6", "accept_ra", inet6.map(|inet6| inet6.accept_ra), 0),
    ] {
        if value != Some(expected) {
            let shown = value.map_or("unknown".to_owned(), |value| value.to_string());
            found.push(setting(format!("net.{family}.conf.{name}.{key}"), &expected, &shown));
        }
    }
}

fn setting(name: String, expected: &dyn ToString, found: &dyn ToString) -> Drift {
    Drift::Setting { name, expected: expected.to_string(), found: found.to_string() }
}

/// What has to be on a link.
struct Expected {
    addresses: Vec<IpAddr>,
    neighbours: Vec<IpAddr>,
    neighbour_mac: MacAddr,
    routes: Vec<(IpNet, Option<IpAddr>)>,
}

fn check_entries(side: Side, index: u32, state: &State, expected: &Expected, found: &mut Vec<Drift>) {
    for address in &expected.addresses {
        if !state.has_address(index, *address) {
            found.push(Drift::AddressMissing(side, *address));
        }
    }
    for address in &expected.neighbours {
        if !state.has_neighbour(index, *address, expected.neighbour_mac) {
            found.push(Drift::NeighbourMissing(side, *address));
        }
    }
    for (prefix, gateway) in &expected.routes {
        if !state.has_route(index, *prefix, *gateway) {
            found.push(Drift::RouteMissing(side, *prefix));
        }
    }
}
