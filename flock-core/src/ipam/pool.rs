//! The addresses of one family.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::choice::SplitMix64;
use super::prefix::{Family, Prefix, Span, point_of};
use super::resting::Resting;
use super::runs::Runs;
use super::{Algorithm, FamilyRequest, IpamError, LeaseOwner, Usage};

/// How many points are tried before the next free address after the last of them
/// is taken. While at least half of a range is free, that happens once in 65,536 times.
const PROBES: usize = 16;

/// How many ranges have a cursor of their own; past that all begin at their beginning again.
const MAX_CURSORS: usize = 1024;

/// Who holds which address of one family, which ones rest, and what can be given.
#[derive(Debug)]
pub(super) struct Pool {
    family: Family,
    prefix: Option<Prefix>,
    /// Held, resting and reserved ones, inside the prefix and outside.
    unavailable: Runs,
    held: BTreeMap<u128, Arc<LeaseOwner>>,
    resting: Resting,
    /// For each range that was asked for in sequence, where to go on.
    cursors: HashMap<Span, u128>,
    /// How many of the addresses that the prefix gives are held.
    in_use: u128,
    /// How many of the addresses that the prefix gives rest.
    at_rest: u128,
}

/// An address that can be taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    point: u128,
    /// The range whose cursor moves on.
    sequence: Option<Span>,
}

impl Pool {
    pub(super) fn new(family: Family) -> Self {
        Self {
            family,
            prefix: None,
            unavailable: Runs::default(),
            held: BTreeMap::new(),
            resting: Resting::default(),
            cursors: HashMap::new(),
            in_use: 0,
            at_rest: 0,
        }
    }

    /// Finds an address that satisfies `request` and changes nothing but `random`.
    pub(super) fn choose(
        &self,
        request: FamilyRequest<IpAddr, IpNet>,
        owner: &Arc<LeaseOwner>,
        algorithm: Algorithm,
        random: &mut SplitMix64,
    ) -> Result<Option<Choice>, IpamError> {
        match request {
            FamilyRequest::None => return Ok(None),
            FamilyRequest::Granted(address) => return self.granted(address).map(Some),
            FamilyRequest::Any | FamilyRequest::From(_) | FamilyRequest::Exactly(_) => {}
        }
        let prefix = self.prefix.as_ref().ok_or_else(|| IpamError::NoFamily {
            family: self.family.name(),
            key: self.family.config_key(),
        })?;
        let net = match request {
            FamilyRequest::None | FamilyRequest::Granted(_) => return Ok(None),
            FamilyRequest::Exactly(address) => return self.exactly(prefix, address).map(Some),
            FamilyRequest::From(pool) if prefix.span.contains_span(Span::of(pool)) => pool.trunc(),
            FamilyRequest::From(pool) => {
                return Err(IpamError::PoolOutsidePrefix { pool, prefix: prefix.net });
            }
            FamilyRequest::Any => prefix.net,
        };
        let span = Span::of(net);
        let point = match algorithm {
            Algorithm::Sequential => self.unavailable.next_gap(self.cursor(span), span),
            Algorithm::Random => self.probe(span, random),
            Algorithm::Stable => self
                .resting
                .last_of(owner, span, |point| prefix.gives(point))
                .or_else(|| self.probe(span, &mut SplitMix64::of_name(owner))),
        };
        let sequence = (algorithm == Algorithm::Sequential).then_some(span);
        match point {
            Some(point) => Ok(Some(Choice { point, sequence })),
            None => Err(IpamError::Exhausted(self.exhausted(prefix, net, span))),
        }
    }

    fn exactly(&self, prefix: &Prefix, address: IpAddr) -> Result<Choice, IpamError> {
        if !prefix.span.contains(point_of(address)) {
            return Err(IpamError::OutsidePrefix { address, prefix: prefix.net });
        }
        self.granted(address)
    }

    fn granted(&self, address: IpAddr) -> Result<Choice, IpamError> {
        let point = point_of(address);
        let of_the_prefix = self.prefix.as_ref().filter(|prefix| prefix.span.contains(point));
        if let Some(reason) = of_the_prefix.and_then(|prefix| prefix.reserved(point)) {
            return Err(IpamError::Reserved { address, reason });
        }
        if let Some(holder) = self.holder(address) {
            return Err(IpamError::Taken { address, holder: holder.clone() });
        }
        Ok(Choice { point, sequence: None })
    }

    fn cursor(&self, span: Span) -> u128 {
        self.cursors.get(&span).copied().unwrap_or(span.first)
    }

    /// The first free one of some points of `numbers`, else the next free one
    /// after the last of them.
    fn probe(&self, span: Span, numbers: &mut SplitMix64) -> Option<u128> {
        let mut point = span.first;
        for _ in 0..PROBES {
            point = span.point(numbers.next_u128());
            if !self.unavailable.contains(point) {
                return Some(point);
            }
        }
        self.unavailable.next_gap(point, span)
    }

    /// The numbers of a range that has nothing free: what does not rest is in use.
    fn exhausted(&self, prefix: &Prefix, net: IpNet, span: Span) -> Usage {
        let size = prefix.size_of(span);
        let resting = if span == prefix.span {
            self.at_rest
        } else {
            self.resting.count_in(span, |point| prefix.gives(point))
        };
        Usage { prefix: net, size, in_use: size.saturating_sub(resting), resting }
    }

    /// Gives what [`choose`](Self::choose) found; nothing may have happened since.
    pub(super) fn take(&mut self, choice: Choice, owner: &Arc<LeaseOwner>) -> u128 {
        let Choice { point, sequence } = choice;
        if let Some(span) = sequence {
            if self.cursors.len() >= MAX_CURSORS && !self.cursors.contains_key(&span) {
                self.cursors.clear();
            }
            // Past the end of the range counts as its beginning.
            self.cursors.insert(span, point.wrapping_add(1));
        }
        self.hold(point, owner);
        point
    }

    /// Marks an address as held, wherever it is.
    pub(super) fn hold(&mut self, point: u128, owner: &Arc<LeaseOwner>) {
        let gives = self.gives(point);
        if self.resting.remove(point) && gives {
            self.at_rest -= 1;
        }
        if self.held.insert(point, Arc::clone(owner)).is_none() && gives {
            self.in_use += 1;
        }
        self.unavailable.insert(point);
    }

    /// Lets a held address rest from `now` on.
    pub(super) fn release(&mut self, point: u128, now: Instant) {
        let Some(owner) = self.held.remove(&point) else {
            return;
        };
        self.resting.insert(point, owner, now);
        if self.gives(point) {
            self.in_use -= 1;
            self.at_rest += 1;
        }
    }

    /// Frees what has rested long enough.
    pub(super) fn expire(&mut self, now: Instant, period: Duration) {
        while let Some(point) = self.resting.remove_rested(now, period) {
            if self.gives(point) {
                self.at_rest -= 1;
            }
            self.forget_unless_needed(point);
        }
    }

    /// Replaces the prefix and the addresses in it that are never given.
    pub(super) fn configure(&mut self, prefix: Option<Prefix>) {
        if self.prefix == prefix {
            return;
        }
        if let Some(old) = self.prefix.take() {
            for point in old.reserved_points() {
                self.forget_unless_needed(point);
            }
            if prefix.as_ref().is_none_or(|new| new.net != old.net) {
                self.cursors.clear();
            }
        }
        for point in prefix.iter().flat_map(Prefix::reserved_points) {
            self.unavailable.insert(point);
        }
        (self.in_use, self.at_rest) = prefix.as_ref().map_or((0, 0), |prefix| {
            let Span { first, last } = prefix.span;
            let held = self.held.range(first..=last).filter(|(point, _)| prefix.gives(**point));
            (held.count() as u128, self.resting.count_in(prefix.span, |point| prefix.gives(point)))
        });
        self.prefix = prefix;
    }

    /// Makes an address available that has lost one of the reasons not to be.
    fn forget_unless_needed(&mut self, point: u128) {
        let reserved =
            self.prefix.as_ref().is_some_and(|prefix| prefix.span.contains(point) && !prefix.gives(point));
        if !reserved && !self.held.contains_key(&point) && !self.resting.contains(point) {
            self.unavailable.remove(point);
        }
    }

    fn gives(&self, point: u128) -> bool {
        self.prefix.as_ref().is_some_and(|prefix| prefix.gives(point))
    }

    pub(super) fn holder(&self, address: IpAddr) -> Option<&LeaseOwner> {
        self.held.get(&point_of(address)).map(AsRef::as_ref)
    }

    /// How full the prefix is, if there is one.
    pub(super) fn usage(&self) -> Option<Usage> {
        let prefix = self.prefix.as_ref()?;
        let size = prefix.size_of(prefix.span);
        Some(Usage { prefix: prefix.net, size, in_use: self.in_use, resting: self.at_rest })
    }
}
