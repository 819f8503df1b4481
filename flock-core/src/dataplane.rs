//! The contract of the kernel's side, [`Dataplane`].

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use ipnet::IpNet;

use crate::attachment::{Addresses, Attachment, AttachmentKey, Netns};
use crate::name::InterfaceName;
use crate::retry::Retry;

#[cfg(feature = "conformance")]
pub mod conformance;
mod disturbance;
mod memory;
mod node;

pub use disturbance::Disturbance;
pub use memory::MemoryDataplane;
pub use node::{NodeDrift, NodeWanted, Stray};

/// Makes attachments real in the kernel and takes them away again.
///
/// # Contract
///
/// - **Idempotent**: every method can be repeated; a second [`attach`](Self::attach)
///   with the same record finds nothing to do, one that finds half of the work does
///   the other half.
/// - **Ready when it returns**: after `attach` the first packet of each family passes
///   in both directions; nothing is tentative (RFC 4862), nothing waits for neighbour
///   discovery.
/// - **Own things only**: links and routes that others made are never changed or
///   removed; an interface name that is taken is an error.
/// - **The namespace that was meant**: a call acts on the namespace whose device and
///   inode are in the record, or fails with [`DataplaneError::NamespaceChanged`].
/// - **A failed `attach` may leave a part behind**: `detach` and `reap` take away
///   whatever is there.
/// - **Traffic of other attachments is untouched** by every method.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Dataplane: fmt::Debug + Send + Sync + 'static {
    /// Makes the node fit for routing pods (forwarding, the pods' IPv4 gateway
    /// address) and tells what was found.
    async fn prepare(&self) -> Result<NodeFacts, DataplaneError>;

    /// Looks at a namespace path once: it must be a network namespace, and not the node's own.
    async fn identify(&self, path: &Path) -> Result<Netns, DataplaneError>;

    /// Makes the link, its addresses, routes and neighbour entries on both sides.
    ///
    /// Where the namespace can't be found, its pod may live on without a path: of a link that
    /// is there, the node's side is made as it should be, before the error is returned.
    async fn attach(&self, attachment: &Attachment) -> Result<(), DataplaneError>;

    /// Makes what is missing of an attachment, given what [`check`](Self::check) has found of
    /// it. By default that is [`attach`](Self::attach); a backend may do only what is needed.
    async fn mend(&self, attachment: &Attachment, drifts: &[Drift]) -> Result<(), DataplaneError> {
        let _ = drifts;
        self.attach(attachment).await
    }

    /// Takes away the node's routes to the pod, so that nothing reaches it any
    /// more. The link stays for [`reap`](Self::reap). Does not touch the pod's namespace.
    async fn detach(&self, attachment: &Attachment) -> Result<(), DataplaneError>;

    /// Removes the links, all in one go: one costs about as much as fifty.
    /// A link that is not there or is another owner's is passed over.
    async fn reap(&self, links: &[Link]) -> Result<(), DataplaneError>;

    /// Compares what should be with what is: for each attachment, in the order
    /// given, every difference. One call for many costs far less than many calls.
    async fn check(&self, attachments: &[Attachment]) -> Result<Vec<Vec<Drift>>, DataplaneError>;

    /// All links of Flock on the node, also those that no record knows.
    async fn list(&self) -> Result<Vec<FoundLink>, DataplaneError>;

    /// Makes the blackhole routes of the node's prefixes equal to `prefixes`.
    async fn set_summaries(&self, prefixes: &BTreeSet<IpNet>) -> Result<(), DataplaneError>;

    /// Makes the node's routes to anycast addresses equal to `routes`. A route that changes is
    /// there all the time.
    async fn set_anycast(&self, routes: &[AnycastRoute]) -> Result<(), DataplaneError>;

    /// The anycast addresses that the node's routes make announced, each with the links that it
    /// is reached over: what the last [`set_anycast`](Self::set_anycast) made of those in the state
    /// [`Announced`](AnycastState::Announced), also that of an agent before this one.
    async fn announced_anycast(&self) -> Result<Vec<(IpAddr, InterfaceName)>, DataplaneError>;

    /// Waits until somebody else may have changed something of Flock's on the node, and
    /// tells what is worth a look.
    ///
    /// It tells of whatever is gone or different on the node's side of attachments and
    /// on the node itself; pods' namespaces are not watched. What happens between two
    /// calls is told by the next one, beginning with the making of the dataplane, and a
    /// dropped call loses nothing. It may tell too much (what somebody changed and put
    /// right himself), but not of what the methods of this trait do in their normal course:
    /// a node that others leave alone keeps this waiting. A flood is told as one, by one
    /// call: [`Disturbance::everything`] if it was more than could be followed.
    ///
    /// A disturbance is told to one caller; there is usually one. A backend that has no
    /// means to notice waits for ever. After an error the next call may succeed.
    async fn disturbed(&self) -> Result<Disturbance, DataplaneError>;

    /// Compares what the node should have beside its links with what is: every difference
    /// in summaries, anycast routes and the node's own settings, and whatever of Flock's
    /// belongs to nobody. Changes nothing.
    ///
    /// A link that no attachment of `wanted` names is [`list`](Self::list)'s to say, and so
    /// is what is on it.
    async fn check_node(&self, wanted: &NodeWanted) -> Result<Vec<NodeDrift>, DataplaneError>;

    /// Takes away what [`check_node`](Self::check_node) found to belong to nobody. What is gone
    /// already, leads over another interface by now, or is not Flock's is passed over.
    async fn remove_strays(&self, strays: &[Stray]) -> Result<(), DataplaneError>;
}

/// What [`Dataplane::prepare`] found on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The MTU of the interface with the default route, in bytes. `None` without a default route.
    pub default_mtu: Option<u32>,
    /// The node's own addresses, which are never given to a pod.
    pub addresses: Vec<IpAddr>,
    /// The first global IPv4 address, for the BGP router id.
    pub first_global_ipv4: Option<Ipv4Addr>,
}

/// A host side of Flock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    /// Its name on the node.
    pub interface: InterfaceName,
    /// The attachment that its alias names; `None` if the alias is not readable.
    pub owner: Option<AttachmentKey>,
}

impl Link {
    /// The link that `attachment` has, or would have.
    pub fn of(attachment: &Attachment) -> Self {
        Self { interface: attachment.host_interface.clone(), owner: Some(attachment.key.clone()) }
    }
}

/// A link as [`Dataplane::list`] found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLink {
    /// Which, and whose.
    pub link: Link,
    /// The pod's own addresses, by the node's routes over the link.
    pub addresses: Addresses,
    /// In bytes.
    pub mtu: u32,
}

/// One anycast address and the attachments on this node that it is reached at. There is at most
/// one for each address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnycastRoute {
    /// The address.
    pub address: IpAddr,
    /// Who has it: at least one; several share it by a multipath route.
    pub servers: Vec<AnycastServer>,
    /// Whether the network is to hear of it.
    pub state: AnycastState,
}

/// What a route to an anycast address is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnycastState {
    /// The network is to hear of it. The route goes before all others.
    Announced,
    /// The network is to hear that no pod here is ready any more, and routers that have not heard it
    /// yet still send packets. The route takes them, before any from a BGP peer: those lead back to the
    /// same routers (RFC 8333, micro-loops).
    Withdrawing,
    /// It takes what would have no other way: a route from a BGP peer goes before it.
    Standby,
}

impl AnycastState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Announced, Self::Withdrawing, Self::Standby];
}

impl AnycastRoute {
    /// One that is announced.
    pub fn announced(address: IpAddr, servers: Vec<AnycastServer>) -> Self {
        Self { address, servers, state: AnycastState::Announced }
    }
}

/// One attachment that serves an anycast address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AnycastServer {
    /// The attachment.
    pub key: AttachmentKey,
    /// Its link on the node.
    pub host_interface: InterfaceName,
}

/// One difference between an attachment's record and the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// The namespace file is gone or is another namespace now.
    NamespaceGone(PathBuf),
    /// An interface is not there.
    LinkMissing(Side),
    /// An interface has the name but is not this attachment's.
    LinkForeign(Side),
    /// An interface is down.
    LinkDown(Side),
    /// An interface has another MTU.
    Mtu {
        /// Which side.
        side: Side,
        /// In bytes.
        expected: u32,
        /// In bytes.
        found: u32,
    },
    /// An address is not there, or is tentative.
    AddressMissing(Side, IpAddr),
    /// A route is not there, or leads elsewhere.
    RouteMissing(Side, IpNet),
    /// A permanent neighbour entry is not there, or is another one.
    NeighbourMissing(Side, IpAddr),
    /// A setting has another value.
    Setting {
        /// As in `/proc/sys`, or a link attribute's name.
        name: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
}

/// The two sides of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// In the node's namespace.
    Host,
    /// In the pod's namespace.
    Pod,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host side",
            Self::Pod => "pod side",
        })
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NamespaceGone(path) => {
                write!(f, "the namespace at {} is gone or another one", path.display())
            }
            Self::LinkMissing(side) => write!(f, "{side}: the interface is missing"),
            Self::LinkForeign(side) => write!(f, "{side}: the interface is not this attachment's"),
            Self::LinkDown(side) => write!(f, "{side}: the interface is down"),
            Self::Mtu { side, expected, found } => {
                write!(f, "{side}: the MTU is {found}, expected {expected}")
            }
            Self::AddressMissing(side, address) => write!(f, "{side}: the address {address} is missing"),
            Self::RouteMissing(side, prefix) => write!(f, "{side}: the route to {prefix} is missing"),
            Self::NeighbourMissing(side, address) => {
                write!(f, "{side}: the neighbour entry of {address} is missing")
            }
            Self::Setting { name, expected, found } => write!(f, "{name} is {found}, expected {expected}"),
        }
    }
}

/// Why the kernel's state could not be made or looked at.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The path can't be opened, or is no network namespace.
    #[error("{} is not a network namespace: {reason}", .path.display())]
    NotANamespace {
        /// As the runtime gave it.
        path: PathBuf,
        /// What it is instead, in words.
        reason: String,
    },
    /// The path leads to another namespace than before.
    #[error("{} is now another namespace than the one of this attachment", .path.display())]
    NamespaceChanged {
        /// As the runtime gave it.
        path: PathBuf,
    },
    /// The pod already has an interface of that name.
    #[error("the interface {interface} already exists in {} and was not made for this attachment", .netns.display())]
    InterfaceExists {
        /// The name that was asked for.
        interface: InterfaceName,
        /// The namespace.
        netns: PathBuf,
    },
    /// The node already has an interface of that name.
    #[error("the interface {interface} on the node belongs to {owner}")]
    HostInterfaceTaken {
        /// The name that was to be used.
        interface: InterfaceName,
        /// What its alias says, or that it says nothing.
        owner: String,
    },
    /// A setting that routing needs can't be made.
    #[error(
        "can't set {name} to {value}: {source}; routing pods needs it, set it on the node or let the agent write to /proc/sys"
    )]
    Setting {
        /// As in `/proc/sys`.
        name: String,
        /// What it should be.
        value: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("the kernel refused to {action}: {source}")]
    Kernel {
        /// What was to be done, in words and with the names.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The platform has no such thing.
    #[error("the {0} dataplane is not supported on this platform: it needs Linux")]
    Unsupported(&'static str),
    /// A backend without a kernel failed.
    #[error("dataplane: {0}")]
    Backend(String),
}

impl DataplaneError {
    /// A kernel that refused may do it the next time; a wrong path stays wrong.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Kernel { .. } | Self::Backend(_) | Self::HostInterfaceTaken { .. } => Retry::Later,
            Self::NotANamespace { .. }
            | Self::NamespaceChanged { .. }
            | Self::InterfaceExists { .. }
            | Self::Setting { .. }
            | Self::Unsupported(_) => Retry::Never,
        }
    }
}
