//! The floor of the benchmark: what one attachment costs where nobody asks, keeps
//! records or chooses addresses. A process sends the netlink messages that
//! `flock-netlink` sends for an attachment, in as few datagrams as their order
//! allows, waits for the kernel, and ends.
//!
//! ```text
//! floor add NETNS CONTAINER IPV6 IPV4    make the attachment
//! floor detach CONTAINER IPV6 IPV4       remove the routes to it, as DEL does before it answers
//! floor remove CONTAINER IPV6 IPV4       the same, and remove its link
//! ```
//!
//! Names, link-layer addresses and marks are those of Flock, so that a test can ask
//! Flock's own dataplane whether anything is missing.

#![cfg(target_os = "linux")]

use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;

use flock_core::attachment::{AttachmentKey, GATEWAY_V4, GATEWAY_V6, MacAddr, MacPair};
use flock_core::name::{ContainerId, InterfaceName};
use flock_examples::runtime::INTERFACE;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, InfoData, InfoKind, InfoVeth,
    LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// As `flock_netlink::ROUTE_PROTOCOL` and `flock_netlink::LINK_GROUP`.
const ROUTE_PROTOCOL: u8 = 70;
const LINK_GROUP: u32 = 0x666c_6f63;
/// As Flock's pod sides have it for their default routes, plus the interface's index.
const POD_METRIC: u32 = 1024;
const MTU: u32 = 1500;
const LOOPBACK: u32 = 1;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[OsString]) -> Result<()> {
    let words: Option<Vec<&str>> = arguments.iter().map(|argument| argument.to_str()).collect();
    match words.as_deref() {
        Some(["add", netns, rest @ ..]) => add(netns, &Plan::read(rest)?),
        Some(["detach", rest @ ..]) => detach(&Plan::read(rest)?, false),
        Some(["remove", rest @ ..]) => detach(&Plan::read(rest)?, true),
        _ => Err("expected add NETNS CONTAINER IPV6 IPV4, or detach or remove without NETNS".into()),
    }
}

/// One attachment.
struct Plan {
    key: AttachmentKey,
    host_interface: InterfaceName,
    macs: MacPair,
    ipv6: Ipv6Addr,
    ipv4: Ipv4Addr,
}

impl Plan {
    fn read(words: &[&str]) -> Result<Self> {
        let [container, ipv6, ipv4] = words else {
            return Err(format!("{words:?} was given, expected CONTAINER IPV6 IPV4").into());
        };
        let key = AttachmentKey::new(ContainerId::new(*container)?, InterfaceName::new(INTERFACE)?);
        let [host_interface, _] = key.host_interface_candidates();
        let macs = key.mac_addresses();
        Ok(Self { key, host_interface, macs, ipv6: ipv6.parse()?, ipv4: ipv4.parse()? })
    }

    fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv6.into(), self.ipv4.into()]
    }
}

fn add(netns: &str, plan: &Plan) -> Result<()> {
    let namespace = File::open(netns)?;
    let mut node = Conversation::open()?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let mut pod = Conversation::open()?;

    node.push(RouteNetlinkMessage::NewLink(veth(plan, &namespace)), NLM_F_CREATE | NLM_F_EXCL);
    node.push(link_by_name(plan.host_interface.as_str()), 0);
    let (host, peer) = node.send()?.ok_or("the kernel did not show the link that it made")?;
    let peer = peer.ok_or("the kernel did not name the pod's end of the link")?;

    node.push(host_settings(host, &plan.key), 0);
    node.push(link_group(host), 0);
    node.push(link_up(host), 0);
    node.send()?;

    pod.push(pod_settings(peer), 0);
    pod.push(link_up(peer), 0);
    pod.push(link_up(LOOPBACK), 0);
    pod.push(link_by_index(peer), 0);
    let replace = NLM_F_CREATE | NLM_F_REPLACE;
    for (address, length) in
        [(IpAddr::V6(plan.macs.pod.link_local()), 64), (plan.ipv6.into(), 128), (plan.ipv4.into(), 32)]
    {
        pod.push(new_address(peer, address, length), replace);
    }
    for gateway in [IpAddr::V6(GATEWAY_V6), IpAddr::V4(GATEWAY_V4)] {
        pod.push(neighbour(peer, gateway, plan.macs.host), replace);
        pod.push(RouteNetlinkMessage::NewRoute(default_route(peer, gateway, plan.ipv4)), replace);
    }
    pod.send()?;

    node.push(new_address(host, GATEWAY_V6.into(), 64), replace);
    let local = IpAddr::V6(plan.macs.pod.link_local());
    for address in [local].into_iter().chain(plan.addresses()) {
        node.push(neighbour(host, address, plan.macs.pod), replace);
    }
    for address in plan.addresses() {
        node.push(RouteNetlinkMessage::NewRoute(pod_route(host, address)), NLM_F_CREATE | NLM_F_EXCL);
    }
    // Makes the kernel finish what the new carrier needs, as Flock does.
    node.push(link_by_index(host), 0);
    node.send()?;
    Ok(())
}

fn detach(plan: &Plan, and_remove: bool) -> Result<()> {
    let mut node = Conversation::open()?;
    node.push(link_by_name(plan.host_interface.as_str()), 0);
    let (host, _) = node.send()?.ok_or("there is no such attachment")?;
    for address in plan.addresses() {
        node.push(RouteNetlinkMessage::DelRoute(pod_route(host, address)), 0);
    }
    if and_remove {
        node.push(RouteNetlinkMessage::DelLink(link(host)), 0);
    }
    node.send()?;
    Ok(())
}

/// A socket; what is pushed goes out as one datagram, of which the kernel
/// acknowledges the last message when it has done all of them.
struct Conversation {
    socket: Socket,
    sequence: u32,
    messages: Vec<(RouteNetlinkMessage, u16)>,
    incoming: Vec<u8>,
}

impl Conversation {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, messages: Vec::new(), incoming: Vec::with_capacity(32 * 1024) })
    }

    fn push(&mut self, message: RouteNetlinkMessage, flags: u16) {
        self.messages.push((message, NLM_F_REQUEST | flags));
    }

    /// The link and its other end, where one was asked for.
    fn send(&mut self) -> Result<Option<(u32, Option<u32>)>> {
        if let Some((_, flags)) = self.messages.last_mut() {
            *flags |= NLM_F_ACK;
        }
        let mut outgoing = Vec::new();
        for (message, flags) in self.messages.drain(..) {
            self.sequence += 1;
            let mut header = NetlinkHeader::default();
            header.flags = flags;
            header.sequence_number = self.sequence;
            let mut framed = NetlinkMessage::new(header, NetlinkPayload::from(message));
            framed.finalize();
            let start = outgoing.len();
            outgoing.resize(start + framed.buffer_len().next_multiple_of(4), 0);
            framed.serialize(&mut outgoing[start..]);
        }
        self.socket.send(&outgoing, 0)?;
        let mut found = None;
        loop {
            self.incoming.clear();
            self.socket.recv(&mut self.incoming, 0)?;
            let mut rest = self.incoming.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)?;
                let length = (message.header.length as usize).next_multiple_of(4).max(4);
                match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(
                            format!("message {}: {}", message.header.sequence_number, error.to_io()).into()
                        );
                    }
                    NetlinkPayload::Error(_) if message.header.sequence_number == self.sequence => {
                        return Ok(found);
                    }
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                        found = Some((link.header.index, peer_of(&link)));
                    }
                    _ => {}
                }
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }
}

fn peer_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(peer) => Some(*peer),
        _ => None,
    })
}

fn veth(plan: &Plan, namespace: &File) -> LinkMessage {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(INTERFACE.to_owned()),
        LinkAttribute::Address(plan.macs.pod.0.to_vec()),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::NetNsFd(namespace.as_raw_fd()),
    ];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
        LinkAttribute::IfName(plan.host_interface.as_str().to_owned()),
        LinkAttribute::Address(plan.macs.host.0.to_vec()),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::Group(LINK_GROUP),
    ];
    message
}

fn link(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn link_up(index: u32) -> RouteNetlinkMessage {
    let mut message = link(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

fn link_group(index: u32) -> RouteNetlinkMessage {
    let mut message = link(index);
    message.attributes = vec![LinkAttribute::Group(LINK_GROUP)];
    RouteNetlinkMessage::SetLink(message)
}

fn host_settings(index: u32, key: &AttachmentKey) -> RouteNetlinkMessage {
    let mut inet = InetDevConf::default();
    inet.forwarding = 1;
    inet.proxy_arp = 1;
    inet.rp_filter = 1;
    let mut message = link(index);
    message.attributes = vec![
        LinkAttribute::IfAlias(key.alias()),
        LinkAttribute::AfSpecUnspec(vec![
            AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(inet)]),
            AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]),
        ]),
    ];
    RouteNetlinkMessage::SetLink(message)
}

fn pod_settings(index: u32) -> RouteNetlinkMessage {
    let mut message = link(index);
    message.attributes =
        vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            In6AddrGenMode::None,
        )])])];
    RouteNetlinkMessage::SetLink(message)
}

fn link_by_name(name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned()), without_statistics()];
    RouteNetlinkMessage::GetLink(message)
}

fn link_by_index(index: u32) -> RouteNetlinkMessage {
    let mut message = link(index);
    message.attributes = vec![without_statistics()];
    RouteNetlinkMessage::GetLink(message)
}

fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

fn new_address(index: u32, address: IpAddr, length: u8) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = length;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Address(address), AddressAttribute::Local(address)];
    if address.is_ipv6() {
        let mut flags = AddressFlags::Nodad;
        if length == 128 {
            flags |= AddressFlags::Noprefixroute;
        } else {
            message.header.scope = AddressScope::Link;
        }
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    RouteNetlinkMessage::NewAddress(message)
}

fn neighbour(index: u32, address: IpAddr, mac: MacAddr) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
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

fn default_route(index: u32, gateway: IpAddr, source: Ipv4Addr) -> RouteMessage {
    let mut message = route(gateway);
    message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
    if gateway.is_ipv4() {
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
    }
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.push(RouteAttribute::Priority(POD_METRIC + index));
    message
}

/// Of the node to a pod. The benchmark's nodes have no IPv4 address of their own.
fn pod_route(index: u32, address: IpAddr) -> RouteMessage {
    let mut message = route(address);
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(address)));
    message.header.destination_prefix_length = if address.is_ipv6() { 128 } else { 32 };
    if address.is_ipv4() {
        message.header.scope = RouteScope::Link;
    }
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

fn route(address: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}
