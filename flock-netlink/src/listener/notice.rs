//! The kernel's notices of changes, as bytes.
//!
//! A node with a busy routing daemon has thousands of them in a second, nearly all about
//! things of others. So little is read of each until it is known to be of interest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flock_core::attachment::MacAddr;
use ipnet::IpNet;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

use crate::facts::LinkFacts;

/// `struct nlmsghdr`, in bytes.
const HEADER: usize = 16;

// Of linux/rtnetlink.h, linux/if_link.h, linux/neighbour.h, linux/netconf.h.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWNETCONF: u16 = 80;
const IFLA_GROUP: u16 = 27;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_PROXY: u8 = 0x08;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_RP_FILTER: u16 = 3;
const NETCONFA_PROXY_NEIGH: u16 = 5;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// One message of a datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notice<'a> {
    kind: u16,
    /// Who asked for the change, by the number of the socket; 0 if the kernel did it by itself.
    pub(super) port: u32,
    message: &'a [u8],
}

/// What a notice is about, as far as it can be Flock's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject<'a> {
    /// There is a link, or it has changed.
    Link { index: u32, group: u32, notice: Notice<'a> },
    /// A link is gone.
    LinkGone { index: u32, group: u32 },
    /// An address is gone.
    AddressGone { index: u32, address: IpAddr },
    /// There is a neighbour entry, it has changed, or it is gone.
    Neighbour { index: u32, address: IpAddr, permanent: Option<MacAddr> },
    /// A route of the main table.
    Route(RouteNotice),
    /// Settings of an interface, of all, or of those to come.
    Settings(SettingsNotice),
}

/// A route that there is or was.
#[derive(Debug, Clone, Copy)]
pub(super) struct RouteNotice {
    pub(super) destination: IpNet,
    /// Over one interface; `None` for several or none.
    pub(super) index: Option<u32>,
    pub(super) metric: u32,
    pub(super) protocol: u8,
    /// Whether it leads to somebody at all.
    pub(super) is_unicast: bool,
    pub(super) is_gone: bool,
}

/// Only what has changed is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct SettingsNotice {
    pub(super) is_ipv6: bool,
    /// [`ALL_INTERFACES`], [`FUTURE_INTERFACES`], or one.
    pub(super) index: i32,
    pub(super) forwarding: Option<i32>,
    pub(super) rp_filter: Option<i32>,
    pub(super) proxy: Option<i32>,
}

/// `NETCONFA_IFINDEX_ALL`.
pub(super) const ALL_INTERFACES: i32 = -1;
/// `NETCONFA_IFINDEX_DEFAULT`.
pub(super) const FUTURE_INTERFACES: i32 = -2;

/// The messages of one datagram, as far as they are whole.
pub(super) fn notices(datagram: &[u8]) -> impl Iterator<Item = Notice<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = number(rest, 0)? as usize;
        let message = rest.get(..length.max(HEADER))?;
        rest = rest.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
        Some(Notice { kind: short(message, 4)?, port: number(message, 12)?, message })
    })
}

impl<'a> Notice<'a> {
    /// `None` for what can't be Flock's.
    pub(super) fn subject(self) -> Option<Subject<'a>> {
        match self.kind {
            RTM_NEWLINK | RTM_DELLINK => self.link(),
            RTM_DELADDR => self.address(),
            RTM_NEWNEIGH | RTM_DELNEIGH => self.neighbour(),
            RTM_NEWROUTE | RTM_DELROUTE => self.route(),
            RTM_NEWNETCONF => self.settings(),
            _ => None,
        }
    }

    /// Everything that a notice of a link says.
    pub(super) fn facts(self) -> Option<LinkFacts> {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(self.message).ok()?;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => LinkFacts::read(&inner),
            _ => None,
        }
    }

    /// `struct ifinfomsg`. Bridges tell of their ports in the same way, with a family.
    fn link(self) -> Option<Subject<'a>> {
        if self.byte(0)? != AF_UNSPEC {
            return None;
        }
        let index = number(self.message, HEADER + 4)?;
        let group = self.attributes(16).find(|(kind, _)| *kind == IFLA_GROUP);
        let group = group.and_then(|(_, value)| number(value, 0)).unwrap_or(0);
        Some(match self.kind {
            RTM_NEWLINK => Subject::Link { index, group, notice: self },
            _ => Subject::LinkGone { index, group },
        })
    }

    /// `struct ifaddrmsg`.
    fn address(self) -> Option<Subject<'a>> {
        let index = number(self.message, HEADER + 4)?;
        let (mut local, mut other) = (None, None);
        for (kind, value) in self.attributes(8) {
            match kind {
                IFA_LOCAL => local = address_of(value),
                IFA_ADDRESS => other = address_of(value),
                _ => {}
            }
        }
        Some(Subject::AddressGone { index, address: local.or(other)? })
    }

    /// `struct ndmsg`.
    fn neighbour(self) -> Option<Subject<'a>> {
        let is_ip = matches!(self.byte(0)?, AF_INET | AF_INET6);
        if !is_ip || self.byte(10)? & NTF_PROXY != 0 {
            return None;
        }
        let index = number(self.message, HEADER + 4)?;
        let is_permanent = self.kind == RTM_NEWNEIGH && short(self.message, HEADER + 8)? == NUD_PERMANENT;
        let (mut address, mut mac) = (None, None);
        for (kind, value) in self.attributes(12) {
            match kind {
                NDA_DST => address = address_of(value),
                NDA_LLADDR => mac = value.try_into().ok().map(MacAddr),
                _ => {}
            }
        }
        Some(Subject::Neighbour { index, address: address?, permanent: mac.filter(|_| is_permanent) })
    }

    /// `struct rtmsg`.
    fn route(self) -> Option<Subject<'a>> {
        let (family, length) = (self.byte(0)?, self.byte(1)?);
        if self.byte(4)? != RT_TABLE_MAIN {
            return None;
        }
        let mut destination = match family {
            AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let (mut index, mut metric) = (None, 0);
        for (kind, value) in self.attributes(12) {
            match kind {
                RTA_DST => destination = address_of(value)?,
                RTA_OIF => index = number(value, 0),
                RTA_PRIORITY => metric = number(value, 0)?,
                _ => {}
            }
        }
        Some(Subject::Route(RouteNotice {
            destination: IpNet::new(destination, length).ok()?,
            index,
            metric,
            protocol: self.byte(5)?,
            is_unicast: self.byte(7)? == RTN_UNICAST,
            is_gone: self.kind == RTM_DELROUTE,
        }))
    }

    /// `struct netconfmsg`.
    fn settings(self) -> Option<Subject<'a>> {
        let is_ipv6 = match self.byte(0)? {
            AF_INET => false,
            AF_INET6 => true,
            _ => return None,
        };
        let (mut index, mut forwarding, mut rp_filter, mut proxy) = (None, None, None, None);
        for (kind, value) in self.attributes(4) {
            let value = number(value, 0).map(u32::cast_signed);
            match kind {
                NETCONFA_IFINDEX => index = value,
                NETCONFA_FORWARDING => forwarding = value,
                NETCONFA_RP_FILTER => rp_filter = value,
                NETCONFA_PROXY_NEIGH => proxy = value,
                _ => {}
            }
        }
        Some(Subject::Settings(SettingsNotice { is_ipv6, index: index?, forwarding, rp_filter, proxy }))
    }

    /// Of the fixed part after the header.
    fn byte(self, offset: usize) -> Option<u8> {
        self.message.get(HEADER + offset).copied()
    }

    /// What follows a fixed part of `length` bytes: kind and value of each.
    fn attributes(self, length: usize) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.message.get(HEADER + length..).unwrap_or_default();
        std::iter::from_fn(move || {
            let length = usize::from(short(rest, 0)?);
            // The two upper bits are flags.
            let kind = short(rest, 2)? & 0x3fff;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }
}

fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn short(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        return Some(IpAddr::from(v6));
    }
    <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ip route add 10.0.1.7 dev <2> proto 70` as the kernel tells of it.
    fn datagram() -> Vec<u8> {
        let mut message = vec![AF_INET, 32, 0, 0, RT_TABLE_MAIN, 70, 253, RTN_UNICAST, 0, 0, 0, 0];
        for (kind, value) in [(RTA_DST, [10, 0, 1, 7]), (RTA_OIF, 2_u32.to_ne_bytes())] {
            message.extend(8_u16.to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(value);
        }
        let length = u32::try_from(HEADER + message.len()).unwrap();
        let mut datagram = Vec::from(length.to_ne_bytes());
        datagram.extend(RTM_DELROUTE.to_ne_bytes());
        datagram.extend([0, 0, 9, 0, 0, 0]);
        datagram.extend(77_u32.to_ne_bytes());
        datagram.extend(message);
        datagram
    }

    #[test]
    fn a_route_is_read() {
        let datagram = datagram();
        let twice = [datagram.as_slice(), &datagram].concat();
        assert_eq!(notices(&twice).count(), 2);
        let notice = notices(&datagram).next().unwrap();
        assert_eq!(notice.port, 77);
        let Some(Subject::Route(route)) = notice.subject() else { panic!("{notice:?}") };
        assert_eq!(route.destination.to_string(), "10.0.1.7/32");
        assert_eq!((route.index, route.metric, route.protocol), (Some(2), 0, 70));
        assert!(route.is_gone && route.is_unicast);
    }

    #[test]
    fn whatever_is_cut_off_or_wrong_is_no_notice() {
        let datagram = datagram();
        for cut in 0..datagram.len() {
            assert_eq!(notices(&datagram[..cut]).count(), 0);
        }
        for at in 0..datagram.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut wrong = datagram.clone();
                wrong[at] = value;
                for notice in notices(&wrong) {
                    let _ = notice.subject();
                    let _ = notice.facts();
                }
            }
        }
    }
}
