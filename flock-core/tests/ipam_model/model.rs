//! The contract once more, as plainly as it can be said: maps of single
//! addresses and linear search.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flock_core::attachment::{Addresses, AttachmentKey, NodeCidrs};
use flock_core::ipam::{AddressRequest, Algorithm, FamilyRequest, IpamError, LeaseOwner, Usage};
use ipnet::IpNet;

pub(crate) const REST_MS: u64 = 100;

type Request = FamilyRequest<IpAddr, IpNet>;

#[derive(Debug, Default)]
pub(crate) struct Model {
    now_ms: u64,
    cidrs: NodeCidrs,
    own: Vec<IpAddr>,
    held: BTreeMap<IpAddr, LeaseOwner>,
    resting: BTreeMap<IpAddr, (u64, LeaseOwner)>,
    /// What each range gave last in sequence.
    last: BTreeMap<IpNet, IpAddr>,
}

/// For each family the addresses of which one must be given.
#[derive(Debug)]
pub(crate) struct Allowed {
    ipv6: Option<BTreeSet<IpAddr>>,
    ipv4: Option<BTreeSet<IpAddr>>,
}

impl Allowed {
    pub(crate) fn admits(&self, found: Addresses) -> bool {
        let fits = |allowed: &Option<BTreeSet<IpAddr>>, found: Option<IpAddr>| match (allowed, found) {
            (Some(allowed), Some(found)) => allowed.contains(&found),
            (allowed, found) => allowed.is_none() && found.is_none(),
        };
        fits(&self.ipv6, found.ipv6.map(IpAddr::V6)) && fits(&self.ipv4, found.ipv4.map(IpAddr::V4))
    }
}

impl Model {
    pub(crate) fn allocate(
        &self,
        owner: &LeaseOwner,
        request: &AddressRequest,
    ) -> Result<Allowed, IpamError> {
        let (ipv6, ipv4) = requests(request);
        let held = self.held_by(&owner.key);
        if !held.is_empty() {
            let same =
                satisfies(held.ipv6.map(IpAddr::V6), ipv6) && satisfies(held.ipv4.map(IpAddr::V4), ipv4);
            let one = |address: IpAddr| BTreeSet::from([address]);
            return if same {
                Ok(Allowed { ipv6: held.ipv6.map(|a| one(a.into())), ipv4: held.ipv4.map(|a| one(a.into())) })
            } else {
                Err(IpamError::HoldsOther { owner: owner.clone(), held })
            };
        }
        let (prefix6, prefix4) = (self.cidrs.ipv6.map(IpNet::V6), self.cidrs.ipv4.map(IpNet::V4));
        let none6 = IpamError::NoFamily { family: "IPv6", key: "spec.cidr6" };
        let none4 = IpamError::NoFamily { family: "IPv4", key: "spec.cidr4" };
        Ok(Allowed {
            ipv6: self.family(owner, ipv6, prefix6, none6, request.algorithm)?,
            ipv4: self.family(owner, ipv4, prefix4, none4, request.algorithm)?,
        })
    }

    fn family(
        &self,
        owner: &LeaseOwner,
        request: Request,
        prefix: Option<IpNet>,
        no_family: IpamError,
        algorithm: Algorithm,
    ) -> Result<Option<BTreeSet<IpAddr>>, IpamError> {
        let range = match (request, prefix) {
            (FamilyRequest::None, _) => return Ok(None),
            (FamilyRequest::Granted(address), _) => return self.one(address, prefix).map(Some),
            (_, None) => return Err(no_family),
            (FamilyRequest::Exactly(address), Some(prefix)) if !prefix.contains(&address) => {
                return Err(IpamError::OutsidePrefix { address, prefix });
            }
            (FamilyRequest::Exactly(address), Some(_)) => return self.one(address, prefix).map(Some),
            (FamilyRequest::From(pool), Some(prefix)) if !prefix.contains(&pool) => {
                return Err(IpamError::PoolOutsidePrefix { pool, prefix });
            }
            (FamilyRequest::From(pool), Some(_)) => pool,
            (FamilyRequest::Any, Some(prefix)) => prefix,
        };
        if algorithm == Algorithm::Stable
            && let Some(back) = self.rests_after(owner, range)
        {
            return Ok(Some(BTreeSet::from([back])));
        }
        let free: BTreeSet<IpAddr> = self
            .given_at_all(range)
            .filter(|address| !self.held.contains_key(address) && !self.resting.contains_key(address))
            .collect();
        if free.is_empty() {
            return Err(IpamError::Exhausted(self.usage_of(range)));
        }
        if algorithm == Algorithm::Sequential {
            let last = self.last.get(&range);
            let next = free.iter().find(|address| last.is_none_or(|last| *address > last));
            return Ok(next.or(free.first()).map(|next| BTreeSet::from([*next])));
        }
        Ok(Some(free))
    }

    fn one(&self, address: IpAddr, prefix: Option<IpNet>) -> Result<BTreeSet<IpAddr>, IpamError> {
        let its = prefix.filter(|prefix| prefix.contains(&address));
        match self.held.get(&address) {
            _ if its.is_some_and(|prefix| self.is_reserved(address, prefix)) => {
                Err(IpamError::Reserved { address, reason: "" })
            }
            Some(holder) => Err(IpamError::Taken { address, holder: holder.clone() }),
            None => Ok(BTreeSet::from([address])),
        }
    }

    fn rests_after(&self, owner: &LeaseOwner, range: IpNet) -> Option<IpAddr> {
        let same = |other: &LeaseOwner| match (&owner.pod, &other.pod) {
            (Some(pod), Some(other)) => pod == other,
            (None, None) => owner.key == other.key,
            _ => false,
        };
        let mut back: Vec<_> = self
            .given_at_all(range)
            .filter_map(|address| self.resting.get(&address).map(|(_, had)| (address, had)))
            .filter(|(_, had)| same(had))
            .collect();
        // A stable sort: of those on the same interface the lowest, else the lowest.
        back.sort_by_key(|(_, had)| had.key.interface != owner.key.interface);
        back.first().map(|(address, _)| *address)
    }

    /// Writes down what the allocator has given.
    pub(crate) fn gave(&mut self, owner: &LeaseOwner, request: &AddressRequest, given: Addresses) {
        if !self.held_by(&owner.key).is_empty() {
            return;
        }
        let (ipv6, ipv4) = requests(request);
        for address in given.iter() {
            let asked = if address.is_ipv6() { ipv6 } else { ipv4 };
            let prefix = self.cidrs.iter().find(|prefix| prefix.contains(&address));
            let range = match asked {
                FamilyRequest::Any => prefix,
                FamilyRequest::From(pool) => Some(pool),
                FamilyRequest::None | FamilyRequest::Exactly(_) | FamilyRequest::Granted(_) => None,
            };
            if let Some(range) = range.filter(|_| request.algorithm == Algorithm::Sequential) {
                self.last.insert(range, address);
            }
            self.resting.remove(&address);
            self.held.insert(address, owner.clone());
        }
    }

    pub(crate) fn restore(&mut self, owner: &LeaseOwner, addresses: Addresses) -> Result<(), IpamError> {
        for address in addresses.iter() {
            if let Some(holder) = self.held.get(&address)
                && holder.key != owner.key
            {
                return Err(IpamError::Taken { address, holder: holder.clone() });
            }
        }
        let held = self.held_by(&owner.key);
        if addresses.iter().any(|new| held.iter().any(|old| old.is_ipv6() == new.is_ipv6() && old != new)) {
            return Err(IpamError::HoldsOther { owner: owner.clone(), held });
        }
        for address in addresses.iter() {
            self.resting.remove(&address);
            self.held.insert(address, owner.clone());
        }
        Ok(())
    }

    pub(crate) fn release(&mut self, key: &AttachmentKey) {
        for address in self.held_by(key).iter() {
            if let Some(owner) = self.held.remove(&address) {
                self.resting.insert(address, (self.now_ms, owner));
            }
        }
    }

    pub(crate) fn configure(&mut self, cidrs: NodeCidrs, own: &[IpAddr]) {
        if cidrs.ipv6 != self.cidrs.ipv6 {
            self.last.retain(|range, _| range.addr().is_ipv4());
        }
        if cidrs.ipv4 != self.cidrs.ipv4 {
            self.last.retain(|range, _| range.addr().is_ipv6());
        }
        self.cidrs = cidrs;
        self.own = own.to_vec();
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        self.resting.retain(|_, (since, _)| self.now_ms - *since < REST_MS);
    }

    pub(crate) fn usage(&self) -> Vec<Usage> {
        self.cidrs.iter().map(|prefix| self.usage_of(prefix)).collect()
    }

    fn usage_of(&self, range: IpNet) -> Usage {
        let count = |test: &dyn Fn(&IpAddr) -> bool| self.given_at_all(range).filter(test).count() as u128;
        Usage {
            prefix: range,
            size: count(&|_| true),
            in_use: count(&|address| self.held.contains_key(address)),
            resting: count(&|address| self.resting.contains_key(address)),
        }
    }

    pub(crate) fn held_by(&self, key: &AttachmentKey) -> Addresses {
        let mut held = Addresses::default();
        for (address, _) in self.held.iter().filter(|(_, owner)| owner.key == *key) {
            match address {
                IpAddr::V6(address) => held.ipv6 = Some(*address),
                IpAddr::V4(address) => held.ipv4 = Some(*address),
            }
        }
        held
    }

    /// The addresses of a part of the prefix, or all of it, that are not reserved.
    fn given_at_all(&self, range: IpNet) -> impl Iterator<Item = IpAddr> {
        let prefix = self.cidrs.iter().find(|prefix| prefix.contains(&range));
        every_address(range)
            .into_iter()
            .filter(move |address| prefix.is_some_and(|prefix| !self.is_reserved(*address, prefix)))
    }

    fn is_reserved(&self, address: IpAddr, prefix: IpNet) -> bool {
        let edge = match prefix {
            IpNet::V4(net) if net.prefix_len() <= 30 => {
                address == IpAddr::V4(net.network()) || address == IpAddr::V4(net.broadcast())
            }
            IpNet::V6(net) if net.prefix_len() <= 126 => address == IpAddr::V6(net.network()),
            _ => false,
        };
        edge || self.own.contains(&address)
    }
}

fn every_address(range: IpNet) -> Vec<IpAddr> {
    match range {
        IpNet::V6(net) => {
            let ends = u128::from(net.network())..=u128::from(net.broadcast());
            ends.map(|bits| IpAddr::V6(Ipv6Addr::from(bits))).collect()
        }
        IpNet::V4(net) => {
            let ends = u32::from(net.network())..=u32::from(net.broadcast());
            ends.map(|bits| IpAddr::V4(Ipv4Addr::from(bits))).collect()
        }
    }
}

fn satisfies(held: Option<IpAddr>, request: Request) -> bool {
    match (request, held) {
        (FamilyRequest::None, held) => held.is_none(),
        (_, None) => false,
        (FamilyRequest::Any, Some(_)) => true,
        (FamilyRequest::From(pool), Some(held)) => every_address(pool).contains(&held),
        (FamilyRequest::Exactly(address) | FamilyRequest::Granted(address), Some(held)) => held == address,
    }
}

fn requests(request: &AddressRequest) -> (Request, Request) {
    let ipv6 = match request.ipv6 {
        FamilyRequest::None => FamilyRequest::None,
        FamilyRequest::Any => FamilyRequest::Any,
        FamilyRequest::From(pool) => FamilyRequest::From(IpNet::V6(pool)),
        FamilyRequest::Exactly(address) => FamilyRequest::Exactly(IpAddr::V6(address)),
        FamilyRequest::Granted(address) => FamilyRequest::Granted(IpAddr::V6(address)),
    };
    let ipv4 = match request.ipv4 {
        FamilyRequest::None => FamilyRequest::None,
        FamilyRequest::Any => FamilyRequest::Any,
        FamilyRequest::From(pool) => FamilyRequest::From(IpNet::V4(pool)),
        FamilyRequest::Exactly(address) => FamilyRequest::Exactly(IpAddr::V4(address)),
        FamilyRequest::Granted(address) => FamilyRequest::Granted(IpAddr::V4(address)),
    };
    (ipv6, ipv4)
}
