//! The netlink messages that Flock sends, and what it reads from answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use flock_core::attachment::{AttachmentKey, MacAddr};
use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, InfoData, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::{LINK_GROUP, ROUTE_PROTOCOL};

/// A lifetime that does not end (RFC 4861, section 4.6.2).
const FOREVER: u32 = u32::MAX;

/// What tells the two ends of a new veth from each other.
pub(crate) struct VethEnd<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: MacAddr,
}

/// `RTM_NEWLINK` of both ends at once, the pod's end inside its namespace.
pub(crate) fn veth(
    host: &VethEnd<'_>,
    pod: &VethEnd<'_>,
    mtu: u32,
    namespace: BorrowedFd<'_>,
) -> RouteNetlinkMessage {
    let peer = LinkMessageBuilder::<LinkUnspec>::default()
        .name(pod.name)
        .address(pod.mac.0.to_vec())
        .mtu(mtu)
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    let message = LinkVeth::new(host.name, pod.name)
        .address(host.mac.0.to_vec())
        .mtu(mtu)
        .append_extra_attribute(LinkAttribute::Group(LINK_GROUP))
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    RouteNetlinkMessage::NewLink(message)
}

/// `RTM_SETLINK` of the host side's owner and settings. The kernel ignores
/// both when a link is created, and brings a link up before it looks at its
/// settings: so they come first and alone.
pub(crate) fn host_settings(index: u32, owner: &AttachmentKey) -> RouteNetlinkMessage {
    let mut inet = InetDevConf::default();
    inet.forwarding = 1;
    inet.proxy_arp = 1;
    inet.rp_filter = 1;
    let message = LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::IfAlias(owner.alias()))
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![
            AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(inet)]),
            AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]),
        ]))
        .build();
    RouteNetlinkMessage::SetLink(message)
}

/// `RTM_SETLINK` of the pod side's settings.
pub(crate) fn pod_settings(index: u32) -> RouteNetlinkMessage {
    let message = LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
            AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
        ])]))
        .build();
    RouteNetlinkMessage::SetLink(message)
}

pub(crate) fn link_up(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(index).up().build())
}

pub(crate) fn link_down(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(index).down().build())
}

pub(crate) fn link_rename(index: u32, name: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(index).name(name).build())
}

/// `RTM_SETLINK` of what was given at creation, for a link that differs in it.
pub(crate) fn link_identity(index: u32, mac: MacAddr, mtu: u32) -> RouteNetlinkMessage {
    let message = LinkUnspec::new_with_index(index).address(mac.0.to_vec()).mtu(mtu).build();
    RouteNetlinkMessage::SetLink(message)
}

pub(crate) fn link_group(index: u32, group: u32) -> RouteNetlinkMessage {
    let message =
        LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::Group(group)).build();
    RouteNetlinkMessage::SetLink(message)
}

pub(crate) fn link_delete(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(index).build())
}

/// `RTM_DELLINK` of every link of a group.
pub(crate) fn group_delete(group: u32) -> RouteNetlinkMessage {
    let message = LinkMessageBuilder::<LinkUnspec>::default()
        .append_extra_attribute(LinkAttribute::Group(group))
        .build();
    RouteNetlinkMessage::DelLink(message)
}

pub(crate) fn link_by_name(name: &str) -> RouteNetlinkMessage {
    let message = LinkUnspec::new_with_name(name).append_extra_attribute(without_statistics()).build();
    RouteNetlinkMessage::GetLink(message)
}

pub(crate) fn link_by_index(index: u32) -> RouteNetlinkMessage {
    let message = LinkUnspec::new_with_index(index).append_extra_attribute(without_statistics()).build();
    RouteNetlinkMessage::GetLink(message)
}

pub(crate) fn every_link() -> RouteNetlinkMessage {
    let message =
        LinkMessageBuilder::<LinkUnspec>::default().append_extra_attribute(without_statistics()).build();
    RouteNetlinkMessage::GetLink(message)
}

fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// How an address may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// As any address.
    Full,
    /// It is answered, and never chosen as source.
    AnswerOnly,
}

/// `RTM_NEWADDR` without duplicate address detection.
pub(crate) fn address(index: u32, address: IpNet, usage: Use) -> RouteNetlinkMessage {
    let mut message = match address {
        IpNet::V6(net) => {
            AddressMessageBuilder::<Ipv6Addr>::new().address(net.addr(), net.prefix_len()).build()
        }
        IpNet::V4(net) => {
            AddressMessageBuilder::<Ipv4Addr>::new().address(net.addr(), net.prefix_len()).build()
        }
    };
    message.header.index = index;
    if address.addr().is_ipv6() {
        let mut flags = AddressFlags::Nodad;
        if address.prefix_len() == address.max_prefix_len() {
            // The local route is enough: a prefix of one address needs no route of its own.
            flags |= AddressFlags::Noprefixroute;
        }
        message.attributes.push(AddressAttribute::Flags(flags));
        if usage == Use::AnswerOnly {
            // Deprecated (RFC 4862, section 5.5.4).
            let mut lifetime = CacheInfo::default();
            lifetime.ifa_preferred = 0;
            lifetime.ifa_valid = FOREVER;
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        if address.addr().is_unicast_link_local() {
            message.header.scope = AddressScope::Link;
        }
    } else if usage == Use::AnswerOnly {
        message.header.scope = AddressScope::Host;
    }
    RouteNetlinkMessage::NewAddress(message)
}

/// Link-local tells for `IpAddr`.
trait LinkLocal {
    fn is_unicast_link_local(&self) -> bool;
}

impl LinkLocal for IpAddr {
    fn is_unicast_link_local(&self) -> bool {
        match self {
            Self::V6(v6) => v6.is_unicast_link_local(),
            Self::V4(v4) => v4.is_link_local(),
        }
    }
}

/// `RTM_NEWNEIGH` of a permanent entry.
pub(crate) fn neighbour(index: u32, address: IpAddr, mac: MacAddr) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        NeighbourAttribute::Destination(match address {
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        }),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
    ];
    RouteNetlinkMessage::NewNeighbour(message)
}

/// The metric that the kernel gives an IPv6 route that comes without one.
pub(crate) const IPV6_METRIC: u32 = 1024;

/// `default via gateway`, on-link, in a pod.
pub(crate) fn default_route(index: u32, gateway: IpAddr, source: Option<Ipv4Addr>) -> RouteMessage {
    let mut message = match gateway {
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(v6).build(),
        IpAddr::V4(v4) => {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new().gateway(v4).onlink();
            match source {
                Some(source) => builder.pref_source(source).build(),
                None => builder.build(),
            }
        }
    };
    own(&mut message);
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

pub(crate) fn with_metric(mut route: RouteMessage, metric: u32) -> RouteMessage {
    route.attributes.push(RouteAttribute::Priority(metric));
    route
}

/// The same route in another table.
pub(crate) fn in_table(mut route: RouteMessage, table: u32) -> RouteMessage {
    route.header.table = RouteHeader::RT_TABLE_UNSPEC;
    route.attributes.push(RouteAttribute::Table(table));
    route
}

/// `RTM_NEWRULE`: what comes from `source` is looked up in `table`.
pub(crate) fn rule_from(source: IpNet, table: u32) -> RouteNetlinkMessage {
    let mut message = RuleMessage::default();
    message.header.family = family_of(source.addr());
    message.header.src_len = source.prefix_len();
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Source(source.addr()),
        RuleAttribute::Table(table),
        RuleAttribute::Priority(table),
        RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)),
    ];
    RouteNetlinkMessage::NewRule(message)
}

/// `prefix dev index`, on the node; the node's own IPv4 packets come from
/// `source` where one is given.
pub(crate) fn link_route(index: u32, prefix: IpNet, source: Option<Ipv4Addr>) -> RouteMessage {
    let mut message = route_to(prefix);
    if prefix.addr().is_ipv4() {
        message.header.scope = RouteScope::Link;
        if let Some(source) = source {
            message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
        }
    }
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

/// `blackhole prefix`.
pub(crate) fn blackhole_route(prefix: IpNet) -> RouteMessage {
    let mut message = route_to(prefix);
    message.header.kind = RouteType::BlackHole;
    message
}

/// A route of ours to `prefix`, that still leads nowhere.
pub(crate) fn route_to(prefix: IpNet) -> RouteMessage {
    let length = prefix.prefix_len();
    let mut message = match prefix.addr() {
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, length).build(),
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, length).build(),
    };
    own(&mut message);
    message
}

/// The question whose `address` is, for packets on one interface.
pub(crate) fn whose(index: u32, address: Ipv6Addr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.destination_prefix_length = 128;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet6(address)));
    message.attributes.push(RouteAttribute::Oif(index));
    RouteNetlinkMessage::GetRoute(message)
}

/// Whether the answer to [`whose`] is: ours.
pub(crate) fn is_local(answer: &RouteNetlinkMessage) -> bool {
    matches!(answer, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local)
}

fn own(message: &mut RouteMessage) {
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
}

pub(crate) fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// What was asked for, in words, for an error message.
pub(crate) fn describe(message: &RouteNetlinkMessage) -> String {
    match message {
        RouteNetlinkMessage::NewLink(_) => "make the veth".to_owned(),
        RouteNetlinkMessage::SetLink(link) if link.header.change_mask.contains(LinkFlags::Up) => {
            let up = link.header.flags.contains(LinkFlags::Up);
            format!("bring {} the interface", if up { "up" } else { "down" })
        }
        RouteNetlinkMessage::SetLink(_) => "change the interface".to_owned(),
        RouteNetlinkMessage::GetLink(_) => "show the interface".to_owned(),
        RouteNetlinkMessage::DelLink(_) => "remove the interface".to_owned(),
        RouteNetlinkMessage::NewAddress(address) => {
            let shown = address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(local) => Some(local),
                _ => None,
            });
            match shown {
                Some(shown) => format!("add the address {shown}/{}", address.header.prefix_len),
                None => "add an address".to_owned(),
            }
        }
        RouteNetlinkMessage::NewNeighbour(neighbour) => {
            let shown = neighbour.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
                _ => None,
            });
            match shown {
                Some(shown) => format!("add the neighbour entry of {shown}"),
                None => "add a neighbour entry".to_owned(),
            }
        }
        RouteNetlinkMessage::NewRoute(route) => format!("add the {}", describe_route(route)),
        RouteNetlinkMessage::DelRoute(route) => format!("remove the {}", describe_route(route)),
        _ => "answer".to_owned(),
    }
}

fn describe_route(route: &RouteMessage) -> String {
    let kind = if route.header.kind == RouteType::BlackHole { "blackhole route" } else { "route" };
    match destination(route) {
        Some(prefix) if prefix.prefix_len() == 0 => format!("default {kind}"),
        Some(prefix) => format!("{kind} to {prefix}"),
        None => kind.to_owned(),
    }
}

/// Where a route leads to; a default route names no destination.
pub(crate) fn destination(route: &RouteMessage) -> Option<IpNet> {
    let length = route.header.destination_prefix_length;
    let named = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    });
    let address = named.or(match route.header.address_family {
        AddressFamily::Inet6 => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        AddressFamily::Inet => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        _ => None,
    })?;
    IpNet::new(address, length).ok()
}

/// The interface that a route with a single next hop uses.
pub(crate) fn output_interface(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The gateway of a route or of one of its next hops.
pub(crate) fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}

/// A route's metric; 0 where the kernel names none.
pub(crate) fn metric(route: &RouteMessage) -> u32 {
    let named = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    named.unwrap_or(0)
}

/// Every route of ours in the main table, of one family, over one interface or over all.
pub(crate) fn own_routes(family: AddressFamily, index: Option<u32>) -> RouteNetlinkMessage {
    let mut message = main_table(family);
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message.attributes = index.map(RouteAttribute::Oif).into_iter().collect();
    RouteNetlinkMessage::GetRoute(message)
}

/// Every route in the main table, of one family.
pub(crate) fn all_routes(family: AddressFamily) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetRoute(main_table(family))
}

fn main_table(family: AddressFamily) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message
}

/// A next hop of a route with several.
///
/// A gateway is marked as on-link, so that routing daemons need not know the
/// interface's addresses to believe it: the kernel tells those a little later than
/// the route, and BIRD would refuse the route until its next look at everything.
pub(crate) fn next_hop(index: u32, gateway: Option<Ipv6Addr>) -> RouteNextHop {
    let mut hop = RouteNextHop::default();
    hop.interface_index = index;
    hop.flags = gateway.map_or(RouteNextHopFlags::empty(), |_| RouteNextHopFlags::Onlink);
    hop.attributes = gateway.map(|v6| RouteAttribute::Gateway(RouteAddress::Inet6(v6))).into_iter().collect();
    hop
}

/// The addresses of one family, of one interface or, with 0, of all.
pub(crate) fn addresses(family: AddressFamily, index: u32) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family;
    message.header.index = index;
    RouteNetlinkMessage::GetAddress(message)
}

/// `RTM_DELNEIGH` of whatever entry there is.
pub(crate) fn neighbour_delete(index: u32, address: IpAddr) -> RouteNetlinkMessage {
    match neighbour(index, address, MacAddr([0; 6])) {
        RouteNetlinkMessage::NewNeighbour(message) => RouteNetlinkMessage::DelNeighbour(message),
        other => other,
    }
}

/// The neighbour entries of one family, of one interface or of all.
pub(crate) fn neighbours(family: AddressFamily, index: Option<u32>) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.attributes = index.map(NeighbourAttribute::IfIndex).into_iter().collect();
    RouteNetlinkMessage::GetNeighbour(message)
}

/// The entry of the routing table that a packet to `route`'s destination would use.
pub(crate) fn route_entry(route: &RouteMessage) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = route.header.address_family;
    message.header.destination_prefix_length = route.header.destination_prefix_length;
    message.header.flags = RouteFlags::FibMatch;
    message.attributes = route
        .attributes
        .iter()
        .filter(|attribute| matches!(attribute, RouteAttribute::Destination(_)))
        .cloned()
        .collect();
    RouteNetlinkMessage::GetRoute(message)
}
