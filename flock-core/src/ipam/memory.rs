//! The allocator.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ipnet::IpNet;

use super::choice::SplitMix64;
use super::pool::Pool;
use super::prefix::{Family, Prefix, ipv4_of, ipv6_of, point_of};
use super::{AddressRequest, FamilyRequest, Ipam, IpamError, Lease, LeaseOwner, Usage};
use crate::attachment::{Addresses, AttachmentKey, NodeCidrs};
use crate::clock::Clock;

/// The allocator of Flock: an [`Ipam`] in the memory of the process.
///
/// It starts without a prefix and without leases: tell it the node's prefixes
/// with [`configure`](Ipam::configure) and what is in use with
/// [`restore`](Ipam::restore), in either order.
///
/// # Cost
///
/// Every call takes a time that grows with the logarithm of the number of leases
/// and does not depend on the size of the prefix: unavailable addresses are kept
/// as maximal runs, so the next free one after any point is found with one
/// look-up, in an empty /64 and in a full /16 alike. The exceptions are
/// [`configure`](Ipam::configure), which counts the leases anew, and a request
/// that fails because a *part* of the prefix is exhausted, which counts the
/// resting addresses of that part for its message. The end of rest periods is
/// noticed by the next call, at a constant cost for each address.
///
/// # How an address is chosen
///
/// - **Sequential**: the next free one after the one given last, going round. The
///   whole prefix and each part of it that is asked for go round for themselves.
/// - **Random**: up to 16 random points of the range; if all of them are
///   unavailable, the next free address after the last point. So the choice is
///   uniform as long as there is room, and in a nearly full range it favours free
///   addresses that come after a long run of unavailable ones.
/// - **Stable**: the address that rests after the same pod had it, if there is
///   one in the range, rather that of the same interface. Otherwise as `Random`,
///   but with the points taken from a sequence that belongs to the pod's name:
///   SplitMix64 that begins at FNV-1a-64 of `namespace/name`, or of
///   `container/interface` where the pod is not known. The same name finds the
///   same address on every node with the same prefix, in every version of Flock,
///   unless another pod has it.
///
/// Rest periods are not kept over a restart of the process: what matters then is
/// that addresses whose links are still there are restored.
pub struct MemoryIpam {
    clock: Arc<dyn Clock>,
    rest: Duration,
    // Held for the few look-ups of one call, never across an await.
    state: Mutex<State>,
}

impl MemoryIpam {
    /// An allocator whose released addresses rest for `rest` by `clock`, and whose
    /// random choices follow from `seed`.
    pub fn new(clock: Arc<dyn Clock>, rest: Duration, seed: u64) -> Self {
        Self { clock, rest, state: Mutex::new(State::new(seed)) }
    }

    /// The state as of now, and when that is.
    fn state(&self) -> (MutexGuard<'_, State>, Instant) {
        // No call leaves a half-made change behind, so a poisoned lock does no harm.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked for inside the lock, so that calls see the time in the order they take effect.
        let now = self.clock.now();
        state.expire(now, self.rest);
        (state, now)
    }
}

impl fmt::Debug for MemoryIpam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The leases may be a million.
        f.debug_struct("MemoryIpam").field("rest", &self.rest).finish_non_exhaustive()
    }
}

#[async_trait]
impl Ipam for MemoryIpam {
    async fn allocate(&self, owner: &LeaseOwner, request: &AddressRequest) -> Result<Addresses, IpamError> {
        self.state().0.allocate(owner, request)
    }

    async fn restore(&self, owner: &LeaseOwner, addresses: Addresses) -> Result<(), IpamError> {
        self.state().0.restore(owner, addresses)
    }

    async fn release(&self, owner: &AttachmentKey) -> Result<(), IpamError> {
        let (mut state, now) = self.state();
        state.release(owner, now);
        Ok(())
    }

    async fn configure(&self, cidrs: NodeCidrs, own: &[IpAddr]) -> Result<(), IpamError> {
        let prefix = |net: IpNet| Prefix::new(net, own);
        let (mut state, _) = self.state();
        state.ipv6.configure(cidrs.ipv6.map(|net| prefix(net.into())));
        state.ipv4.configure(cidrs.ipv4.map(|net| prefix(net.into())));
        Ok(())
    }

    async fn usage(&self) -> Result<Vec<Usage>, IpamError> {
        let (state, _) = self.state();
        Ok(state.ipv6.usage().into_iter().chain(state.ipv4.usage()).collect())
    }

    async fn leases(&self) -> Result<Vec<Lease>, IpamError> {
        let (state, _) = self.state();
        let lease = |(holder, addresses): (&Holder, &Addresses)| Lease {
            owner: LeaseOwner::clone(&holder.0),
            addresses: *addresses,
        };
        let mut leases: Vec<Lease> = state.leases.iter().map(lease).collect();
        drop(state);
        leases.sort_by(|a, b| a.owner.key.cmp(&b.owner.key));
        Ok(leases)
    }
}

#[derive(Debug)]
struct State {
    ipv6: Pool,
    ipv4: Pool,
    leases: HashMap<Holder, Addresses>,
    random: SplitMix64,
}

impl State {
    fn new(seed: u64) -> Self {
        Self {
            ipv6: Pool::new(Family::V6),
            ipv4: Pool::new(Family::V4),
            leases: HashMap::new(),
            random: SplitMix64::new(seed),
        }
    }

    fn allocate(&mut self, owner: &LeaseOwner, request: &AddressRequest) -> Result<Addresses, IpamError> {
        let (ipv6, ipv4) = (of_any_family(request.ipv6), of_any_family(request.ipv4));
        if let Some(held) = self.leases.get(&owner.key) {
            let same = is_satisfied(ipv6, held.ipv6.map(IpAddr::V6))
                && is_satisfied(ipv4, held.ipv4.map(IpAddr::V4));
            return if same { Ok(*held) } else { Err(holds_other(owner, *held)) };
        }
        let owner = Arc::new(owner.clone());
        let ipv6 = self.ipv6.choose(ipv6, &owner, request.algorithm, &mut self.random)?;
        let ipv4 = self.ipv4.choose(ipv4, &owner, request.algorithm, &mut self.random)?;
        // Both families are found: from here on nothing can fail.
        let addresses = Addresses {
            ipv6: ipv6.map(|choice| ipv6_of(self.ipv6.take(choice, &owner))),
            ipv4: ipv4.map(|choice| ipv4_of(self.ipv4.take(choice, &owner))),
        };
        if !addresses.is_empty() {
            self.leases.insert(Holder(owner), addresses);
        }
        Ok(addresses)
    }

    fn restore(&mut self, owner: &LeaseOwner, addresses: Addresses) -> Result<(), IpamError> {
        for address in addresses.iter() {
            if let Some(holder) = self.pool(address).holder(address)
                && holder.key != owner.key
            {
                return Err(IpamError::Taken { address, holder: holder.clone() });
            }
        }
        let held = self.leases.get(&owner.key).copied().unwrap_or_default();
        let both = Addresses { ipv6: held.ipv6.or(addresses.ipv6), ipv4: held.ipv4.or(addresses.ipv4) };
        if addresses.iter().any(|address| both.iter().all(|kept| kept != address)) {
            return Err(holds_other(owner, held));
        }
        if both != held {
            let owner = Arc::new(owner.clone());
            for address in both.iter() {
                self.pool(address).hold(point_of(address), &owner);
            }
            self.leases.insert(Holder(owner), both);
        }
        Ok(())
    }

    fn release(&mut self, owner: &AttachmentKey, now: Instant) {
        for address in self.leases.remove(owner).unwrap_or_default().iter() {
            self.pool(address).release(point_of(address), now);
        }
    }

    fn expire(&mut self, now: Instant, rest: Duration) {
        self.ipv6.expire(now, rest);
        self.ipv4.expire(now, rest);
    }

    fn pool(&mut self, address: IpAddr) -> &mut Pool {
        match address {
            IpAddr::V6(_) => &mut self.ipv6,
            IpAddr::V4(_) => &mut self.ipv4,
        }
    }
}

fn of_any_family<A: Into<IpAddr>, N: Into<IpNet>>(
    request: FamilyRequest<A, N>,
) -> FamilyRequest<IpAddr, IpNet> {
    match request {
        FamilyRequest::None => FamilyRequest::None,
        FamilyRequest::Any => FamilyRequest::Any,
        FamilyRequest::From(pool) => FamilyRequest::From(pool.into()),
        FamilyRequest::Exactly(address) => FamilyRequest::Exactly(address.into()),
        FamilyRequest::Granted(address) => FamilyRequest::Granted(address.into()),
    }
}

/// Whether what is held is what is asked for. Any address is any address, also
/// one outside a prefix that has changed since.
fn is_satisfied(request: FamilyRequest<IpAddr, IpNet>, held: Option<IpAddr>) -> bool {
    match request {
        FamilyRequest::None => held.is_none(),
        FamilyRequest::Any => held.is_some(),
        FamilyRequest::From(pool) => held.is_some_and(|held| pool.contains(&held)),
        FamilyRequest::Exactly(address) | FamilyRequest::Granted(address) => held == Some(address),
    }
}

fn holds_other(owner: &LeaseOwner, held: Addresses) -> IpamError {
    IpamError::HoldsOther { owner: owner.clone(), held }
}

/// The owner of a lease, found by its key.
#[derive(Debug)]
struct Holder(Arc<LeaseOwner>);

impl Borrow<AttachmentKey> for Holder {
    fn borrow(&self) -> &AttachmentKey {
        &self.0.key
    }
}

impl Hash for Holder {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for Holder {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Holder {}
