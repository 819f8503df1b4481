//! The contract of address management, [`Ipam`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::attachment::{Addresses, AttachmentKey, NodeCidrs, owner_text};
use crate::name::PodKey;
use crate::retry::Retry;

#[cfg(feature = "conformance")]
pub mod conformance;
mod memory;
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
///   when it asks again; releasing what is not held is success.
/// - **Rest**: an address that was released is not chosen again for another pod
///   until its rest period has passed. A request for exactly that address is
///   the operator's own choice and gets it at once.
/// - **Never given**: the network and broadcast address of an IPv4 prefix (except
///   in a /31 and /32, RFC 3021), the subnet-router anycast address of an IPv6
///   prefix (RFC 4291, section 2.6.1, except in a /127 and /128, RFC 6164), and
///   the addresses named as the node's own.
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
    /// Fails with [`IpamError::Taken`] and changes nothing if another owner holds one.
    async fn restore(&self, owner: &LeaseOwner, addresses: Addresses) -> Result<(), IpamError>;

    /// Takes back all that `owner` holds; the addresses rest from now on.
    async fn release(&self, owner: &AttachmentKey) -> Result<(), IpamError>;

    /// Replaces the prefixes that new addresses come from, and the node's own
    /// addresses that are never given. What is held stays held.
    async fn configure(&self, cidrs: NodeCidrs, own: &[IpAddr]) -> Result<(), IpamError>;

    /// How full each current prefix is, IPv6 first.
    async fn usage(&self) -> Result<Vec<Usage>, IpamError>;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The prefix.
    pub prefix: IpNet,
    /// How many addresses of it can be given out at all; saturates at `u128::MAX`.
    pub size: u128,
    /// How many are held.
    pub in_use: u128,
    /// How many were released and rest.
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
            Self::OutsidePrefix { .. }
            | Self::PoolOutsidePrefix { .. }
            | Self::Reserved { .. }
            | Self::NoFamily { .. } => Retry::Never,
        }
    }
}
