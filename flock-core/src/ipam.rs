//! The contract of address management, [`Ipam`], and the allocator, [`MemoryIpam`].
//!
//! A node has at most one prefix of each family. An attachment asks once for all
//! the addresses it needs, says for each family whether any address will do, one
//! of a part of the prefix, or one in particular, and gets all of them or an
//! error that says why not.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use flock_core::attachment::{AttachmentKey, NodeCidrs};
//! use flock_core::clock::ManualClock;
//! use flock_core::ipam::{AddressRequest, FamilyRequest, Ipam, LeaseOwner, MemoryIpam};
//! use flock_core::name::{ContainerId, InterfaceName, PodKey};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Time is an argument: here it stands still until it is told to go on.
//! let clock = Arc::new(ManualClock::new());
//! let ipam = MemoryIpam::new(clock.clone(), Duration::from_secs(60), 0);
//! let cidrs = NodeCidrs {
//!     ipv6: Some("2001:db8:1::/64".parse()?),
//!     ipv4: Some("10.0.1.0/30".parse()?),
//! };
//! ipam.configure(cidrs, &["10.0.1.1".parse()?]).await?;
//!
//! let owner = |container: &str, pod: &str| -> Result<LeaseOwner, Box<dyn std::error::Error>> {
//!     Ok(LeaseOwner {
//!         key: AttachmentKey::new(ContainerId::new(container)?, InterfaceName::new("eth0")?),
//!         pod: Some(PodKey::new("default", pod)?),
//!     })
//! };
//! let (web, db) = (owner("0a1b", "web-0")?, owner("2c3d", "db-0")?);
//!
//! // One address of each family. The same owner gets the same ones again.
//! let both = AddressRequest {
//!     ipv6: FamilyRequest::Exactly("2001:db8:1::80".parse()?),
//!     ipv4: FamilyRequest::Any,
//!     ..AddressRequest::default()
//! };
//! let addresses = ipam.allocate(&web, &both).await?;
//! assert_eq!(addresses.ipv6, Some("2001:db8:1::80".parse()?));
//! assert_eq!(addresses.ipv4, Some("10.0.1.2".parse()?));
//! assert_eq!(ipam.allocate(&web, &both).await?, addresses);
//!
//! // Somebody else is told who has it, and gets nothing of the other family either.
//! let taken = ipam.allocate(&db, &both).await.unwrap_err();
//! assert_eq!(
//!     taken.to_string(),
//!     "2001:db8:1::80 is already in use by pod default/web-0 (container 0a1b, eth0)"
//! );
//!
//! // A released address rests before another pod gets it.
//! ipam.release(&web.key).await?;
//! let ipv4 = AddressRequest { ipv4: FamilyRequest::Any, ..AddressRequest::default() };
//! let exhausted = ipam.allocate(&db, &ipv4).await.unwrap_err();
//! assert!(exhausted.to_string().contains("1 addresses in all, 0 in use, 1 resting"), "{exhausted}");
//! clock.advance(Duration::from_secs(60));
//! assert_eq!(ipam.allocate(&db, &ipv4).await?.ipv4, addresses.ipv4);
//! # Ok(())
//! # }
//! ```
//!
//! A backend of another kind, for example one that asks a central service, runs
//! the cases of `conformance` (behind the feature of that name) from its own
//! tests, and so shows that it keeps the contract.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::attachment::{Addresses, AttachmentKey, NodeCidrs, owner_text};
use crate::name::PodKey;
use crate::retry::Retry;

mod choice;
#[cfg(feature = "conformance")]
pub mod conformance;
mod memory;
mod pool;
mod prefix;
mod resting;
mod runs;

pub use memory::MemoryIpam;

/// Gives out addresses from the node's prefixes, each to one attachment at a time.
///
/// # Contract
///
/// - **Unique**: an address belongs to at most one attachment, whatever the order
///   and the concurrency of the calls.
/// - **All or nothing**: [`allocate`](Self::allocate) gives every family that was
///   asked for or changes nothing.
/// - **Idempotent**: an attachment that holds addresses gets the same ones again
///   when it asks again, also if they are outside the prefix by now; releasing
///   what is not held is success. Something else than it holds it gets only after
///   a release: until then that is [`IpamError::HoldsOther`] and changes nothing,
///   because its link may still use the addresses.
/// - **What was asked for**: the address is the one, or of the part, that the
///   request says, or there is an error.
/// - **Rest**: an address that was released is not chosen again for another pod
///   until its rest period has passed. A request for exactly that address is
///   the operator's own choice and gets it at once; so does a
///   [`Stable`](Algorithm::Stable) request of the pod that had it last.
/// - **Never given**: the network and broadcast address of an IPv4 prefix (except
///   in a /31 and /32, RFC 3021), the subnet-router anycast address of an IPv6
///   prefix (RFC 4291, section 2.6.1, except in a /127 and /128, RFC 6164), and
///   the addresses named as the node's own. These are those of the node's prefix:
///   a part of it that is asked for is no subnet, and its first and last address
///   are addresses like others.
/// - **No state of its own on disk**: after a restart the addresses in use are
///   told with [`restore`](Self::restore).
///
/// # Cancel safety
///
/// A future that is dropped before it is ready has either changed nothing or has
/// given the addresses; since `allocate` is idempotent and `release` takes the
/// owner, the caller can always get back to a known state.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Ipam: fmt::Debug + Send + Sync + 'static {
    /// Gives `owner` the addresses that `request` asks for.
    async fn allocate(&self, owner: &LeaseOwner, request: &AddressRequest) -> Result<Addresses, IpamError>;

    /// Marks `addresses` as held by `owner`, also outside the current prefixes:
    /// they were given out before a restart or before the prefixes changed.
    ///
    /// They may also be such as are never given. Fails and changes nothing, with
    /// [`IpamError::Taken`] if another owner holds one, with
    /// [`IpamError::HoldsOther`] if `owner` holds another one of the same family.
    async fn restore(&self, owner: &LeaseOwner, addresses: Addresses) -> Result<(), IpamError>;

    /// Takes back all that `owner` holds; the addresses rest from now on.
    async fn release(&self, owner: &AttachmentKey) -> Result<(), IpamError>;

    /// Replaces the prefixes that new addresses come from, and the node's own
    /// addresses that are never given. What is held stays held.
    async fn configure(&self, cidrs: NodeCidrs, own: &[IpAddr]) -> Result<(), IpamError>;

    /// How full each current prefix is, IPv6 first.
    async fn usage(&self) -> Result<Vec<Usage>, IpamError>;

    /// Who holds what, ordered by key. Each owner is there once, and holds at least one address.
    async fn leases(&self) -> Result<Vec<Lease>, IpamError>;
}

/// What one owner holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who.
    pub owner: LeaseOwner,
    /// At least one.
    pub addresses: Addresses,
}

/// Who holds an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseOwner {
    /// The attachment.
    pub key: AttachmentKey,
    /// Its pod, where it is known: it appears in messages, and a `stable` address derives from it.
    pub pod: Option<PodKey>,
}

impl fmt::Display for LeaseOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&owner_text(self.pod.as_ref(), &self.key))
    }
}

/// What an attachment asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressRequest {
    /// For IPv6.
    pub ipv6: FamilyRequest<Ipv6Addr, Ipv6Net>,
    /// For IPv4.
    pub ipv4: FamilyRequest<Ipv4Addr, Ipv4Net>,
    /// How an address is chosen where the choice is free.
    pub algorithm: Algorithm,
}

/// What is asked for in one family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FamilyRequest<A, N> {
    /// No address.
    #[default]
    None,
    /// Any address of the node's prefix.
    Any,
    /// Any address of this part of the node's prefix.
    From(N),
    /// This address and no other. It must be inside the node's prefix.
    Exactly(A),
    /// This address and no other, in whatever prefix: whoever asks knows that the node may give it.
    Granted(A),
}

/// How an address is chosen where the choice is free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// The next free one, going round.
    #[default]
    Sequential,
    /// Any free one.
    Random,
    /// Derived from the pod's namespace and name, so that a pod made again gets
    /// its address back while that is free; without a pod, from the attachment's key.
    Stable,
}

/// How full a prefix is.
///
/// Addresses that are never given count nowhere, also not as held if they were
/// given earlier: what is [`free`](Self::free) is always `size` less the other two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The prefix.
    pub prefix: IpNet,
    /// How many addresses of it can be given out at all; saturates at `u128::MAX`.
    pub size: u128,
    /// How many of them are held.
    pub in_use: u128,
    /// How many of them were released and rest.
    pub resting: u128,
}

impl Usage {
    /// How many can be given now.
    pub fn free(&self) -> u128 {
        self.size.saturating_sub(self.in_use).saturating_sub(self.resting)
    }
}

/// Why no address was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Nothing is free in the prefix.
    #[error(
        "{} is exhausted: {} addresses in all, {} in use, {} resting after release; \
         delete pods on this node, wait for resting addresses, or give the node a larger prefix",
        .0.prefix, .0.size, .0.in_use, .0.resting
    )]
    Exhausted(Usage),
    /// Somebody else holds the address.
    #[error("{address} is already in use by {holder}")]
    Taken {
        /// The address that was asked for.
        address: IpAddr,
        /// Who has it.
        holder: LeaseOwner,
    },
    /// The attachment holds other addresses than it asks for now.
    #[error(
        "{owner} already holds {}, which is not what it asks for now; \
         release that before asking for something else", list_text(.held)
    )]
    HoldsOther {
        /// Who asks.
        owner: LeaseOwner,
        /// What it holds.
        held: Addresses,
    },
    /// The address is not the node's to give.
    #[error("{address} is outside this node's prefix {prefix}")]
    OutsidePrefix {
        /// The address that was asked for.
        address: IpAddr,
        /// The node's prefix of that family.
        prefix: IpNet,
    },
    /// The part is not part of the node's prefix.
    #[error("{pool} is not part of this node's prefix {prefix}")]
    PoolOutsidePrefix {
        /// The part that was asked for.
        pool: IpNet,
        /// The node's prefix of that family.
        prefix: IpNet,
    },
    /// The address is one of those that are never given.
    #[error("{address} can't be given to a pod: it is {reason}")]
    Reserved {
        /// The address that was asked for.
        address: IpAddr,
        /// Which kind of address it is.
        reason: &'static str,
    },
    /// The node has no prefix of that family.
    #[error("this node has no {family} prefix: its NodeConfig sets no {key}")]
    NoFamily {
        /// `IPv6` or `IPv4`.
        family: &'static str,
        /// The key of the NodeConfig that would give it one.
        key: &'static str,
    },
    /// A backend outside this process failed.
    #[error("address management: {0}")]
    Backend(String),
}

impl IpamError {
    /// Exhaustion passes when pods go, a taken address when its holder goes.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Exhausted(_) | Self::Taken { .. } | Self::Backend(_) => Retry::Later,
            Self::HoldsOther { .. }
            | Self::OutsidePrefix { .. }
            | Self::PoolOutsidePrefix { .. }
            | Self::Reserved { .. }
            | Self::NoFamily { .. } => Retry::Never,
        }
    }
}

fn list_text(addresses: &Addresses) -> String {
    addresses.iter().map(|address| address.to_string()).collect::<Vec<_>>().join(" and ")
}
