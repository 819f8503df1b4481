//! What the kernel says of a link.

use flock_core::attachment::{AttachmentKey, MacAddr};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, Inet6DevConf, InetDevConf, LinkAttribute,
    LinkFlags, LinkMessage, State,
};

use crate::LINK_GROUP;

/// What Flock wants to know of a link.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkFacts {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) mtu: u32,
    pub(crate) group: u32,
    pub(crate) is_up: bool,
    /// Whether packets pass: the kernel's work after a change of carrier is done.
    pub(crate) is_operational: bool,
    /// A veth's other end, in its own namespace's numbering.
    pub(crate) peer: Option<u32>,
    pub(crate) inet: Option<InetDevConf>,
    pub(crate) inet6: Option<Inet6DevConf>,
    pub(crate) address_generation: Option<In6AddrGenMode>,
}

impl LinkFacts {
    pub(crate) fn read(message: &RouteNetlinkMessage) -> Option<Self> {
        match message {
            RouteNetlinkMessage::NewLink(link) => Some(Self::of(link)),
            _ => None,
        }
    }

    fn of(message: &LinkMessage) -> Self {
        let mut facts = Self {
            index: message.header.index,
            is_up: message.header.flags.contains(LinkFlags::Up),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => facts.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => facts.alias = Some(alias.clone()),
                LinkAttribute::Address(bytes) => {
                    facts.mac = bytes.as_slice().try_into().ok().map(MacAddr);
                }
                LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
                LinkAttribute::Group(group) => facts.group = *group,
                LinkAttribute::OperState(state) => facts.is_operational = *state == State::Up,
                LinkAttribute::Link(peer) => facts.peer = Some(*peer),
                LinkAttribute::AfSpecUnspec(families) => facts.read_families(families),
                _ => {}
            }
        }
        facts
    }

    fn read_families(&mut self, families: &[AfSpecUnspec]) {
        for family in families {
            match family {
                AfSpecUnspec::Inet(settings) => {
                    for setting in settings {
                        if let AfSpecInet::DevConf(values) = setting {
                            self.inet = Some(*values);
                        }
                    }
                }
                AfSpecUnspec::Inet6(settings) => {
                    for setting in settings {
                        match setting {
                            AfSpecInet6::DevConf(values) => self.inet6 = Some(*values),
                            AfSpecInet6::AddrGenMode(mode) => self.address_generation = Some(*mode),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether this is the host side of `key`: its alias says so, or, where a
    /// crash came before the alias, its group and link-layer address do.
    pub(crate) fn is_host_side_of(&self, key: &AttachmentKey) -> bool {
        match &self.alias {
            Some(alias) => *alias == key.alias(),
            None => self.group == LINK_GROUP && self.mac == Some(key.mac_addresses().host),
        }
    }

    /// For people: who has this link.
    pub(crate) fn owner(&self) -> String {
        match &self.alias {
            Some(alias) => match AttachmentKey::from_alias(alias) {
                Some(key) => format!("the attachment {key}"),
                None => format!("somebody else, with the alias {alias:?}"),
            },
            None => "somebody else, without an alias".to_owned(),
        }
    }
}
