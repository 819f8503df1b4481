//! What a node has beside the links of its attachments.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{AnycastRoute, AnycastState};
use crate::attachment::Attachment;
use crate::name::InterfaceName;

/// What [`Dataplane::check_node`](super::Dataplane::check_node) compares with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeWanted {
    /// The blackhole routes of the node's prefixes.
    pub summaries: BTreeSet<IpNet>,
    /// The routes to anycast addresses.
    pub anycast: Vec<AnycastRoute>,
    /// Attachments in whatever state. Their links may have their routes and neighbour entries, and
    /// no others; whether they have them is [`Dataplane::check`](super::Dataplane::check)'s to say.
    pub attachments: Vec<Attachment>,
}

/// One difference between what a node should have and the kernel, that is not one attachment's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeDrift {
    /// A blackhole route is not there.
    SummaryMissing(IpNet),
    /// A blackhole route of Flock is there that should not be.
    SummaryUnexpected(IpNet),
    /// A route to an anycast address is not there, or does not lead to its servers and no others.
    Anycast {
        /// The address.
        address: IpAddr,
        /// Which of its routes.
        state: AnycastState,
        /// The links that it should lead over, as far as they are there and up.
        expected: BTreeSet<String>,
        /// Those that it leads over; none without a route.
        found: BTreeSet<String>,
    },
    /// A route to an anycast address is there that should not be.
    AnycastUnexpected {
        /// The address.
        address: IpAddr,
        /// Which of its routes.
        state: AnycastState,
    },
    /// The pods' IPv4 gateway is not an address of the node.
    GatewayMissing(IpAddr),
    /// A setting has another value.
    Setting {
        /// As sysctl(8) writes it.
        name: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Something of Flock's is there that belongs to nobody.
    Stray(Stray),
}

/// Something of Flock's that belongs to nobody.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stray {
    /// A route that leads to no address of the pod behind its interface, or over no link of Flock.
    Route {
        /// Where to.
        prefix: IpNet,
        /// Over which interface; `None` if it leads over none, or over several.
        interface: Option<String>,
    },
    /// A permanent neighbour entry for an address that the pod behind the link does not have.
    Neighbour {
        /// The link.
        interface: InterfaceName,
        /// The address.
        address: IpAddr,
    },
}

impl fmt::Display for NodeDrift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SummaryMissing(prefix) => write!(f, "the blackhole route of {prefix} is missing"),
            Self::SummaryUnexpected(prefix) => {
                write!(f, "there is a blackhole route of {prefix}, which is not a prefix of this node")
            }
            Self::Anycast { address, state, expected, found } => write!(
                f,
                "the {}route to the anycast address {address} leads over {}, expected {}",
                kind(*state),
                list(found),
                list(expected)
            ),
            Self::AnycastUnexpected { address, state: AnycastState::Announced } => {
                write!(
                    f,
                    "there is a route to the anycast address {address}, which no pod of this node serves"
                )
            }
            Self::AnycastUnexpected { address, state } => {
                let kind = kind(*state);
                write!(f, "there is a {kind}route to the anycast address {address}, which needs none")
            }
            Self::GatewayMissing(address) => {
                write!(f, "the pods' gateway {address} is not an address of the node's lo")
            }
            Self::Setting { name, expected, found } => write!(f, "{name} is {found}, expected {expected}"),
            Self::Stray(stray) => stray.fmt(f),
        }
    }
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route { prefix, interface: Some(interface) } => {
                write!(f, "there is a route of Flock to {prefix} over {interface}, which is nobody's")
            }
            Self::Route { prefix, interface: None } => {
                write!(f, "there is a route of Flock to {prefix}, which is nobody's")
            }
            Self::Neighbour { interface, address } => write!(
                f,
                "there is a permanent neighbour entry of {address} on {interface}, which is not an address of that pod"
            ),
        }
    }
}

fn kind(state: AnycastState) -> &'static str {
    match state {
        AnycastState::Announced => "",
        AnycastState::Withdrawing => "withdrawn ",
        AnycastState::Standby => "standby ",
    }
}

fn list(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    names.iter().map(String::as_str).collect::<Vec<_>>().join(" and ")
}
