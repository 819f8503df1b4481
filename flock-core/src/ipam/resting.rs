//! Addresses between release and the next use.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::LeaseOwner;
use super::prefix::Span;
use crate::attachment::AttachmentKey;
use crate::name::PodKey;

/// The released addresses of one family, who had them last, and the order in
/// which their rest ends.
#[derive(Debug, Default)]
pub(super) struct Resting {
    by_point: BTreeMap<u128, Rest>,
    by_name: BTreeSet<(Name, u128)>,
    /// Oldest first. May hold entries that are no longer true, because the
    /// address was taken out of its rest; those are passed over when their time comes.
    queue: VecDeque<(Instant, u128)>,
}

#[derive(Debug)]
struct Rest {
    since: Instant,
    owner: Arc<LeaseOwner>,
}

impl Resting {
    /// Lets `point` rest from `since` on, which must not be before that of an earlier call.
    pub(super) fn insert(&mut self, point: u128, owner: Arc<LeaseOwner>, since: Instant) {
        self.queue.push_back((since, point));
        self.by_name.insert((Name(Arc::clone(&owner)), point));
        self.by_point.insert(point, Rest { since, owner });
    }

    /// Ends the rest of `point` before its time; false if it did not rest.
    pub(super) fn remove(&mut self, point: u128) -> bool {
        let Some(rest) = self.by_point.remove(&point) else {
            return false;
        };
        self.by_name.remove(&(Name(rest.owner), point));
        true
    }

    /// Ends the rest of one address that has rested for `period` at `now`, and says which.
    pub(super) fn remove_rested(&mut self, now: Instant, period: Duration) -> Option<u128> {
        loop {
            let (since, point) = *self.queue.front()?;
            if now.saturating_duration_since(since) < period {
                return None;
            }
            self.queue.pop_front();
            if self.by_point.get(&point).is_some_and(|rest| rest.since == since) {
                self.remove(point);
                return Some(point);
            }
        }
    }

    pub(super) fn contains(&self, point: u128) -> bool {
        self.by_point.contains_key(&point)
    }

    /// The address of `span` that the pod of `owner` had last and `usable`
    /// allows; of several rather the one that was on the same interface.
    pub(super) fn last_of(
        &self,
        owner: &Arc<LeaseOwner>,
        span: Span,
        usable: impl Fn(u128) -> bool,
    ) -> Option<u128> {
        let bound = |point| (Name(Arc::clone(owner)), point);
        // Few: what one pod has released within one rest period.
        let mut other = None;
        for (name, point) in self.by_name.range(bound(span.first)..=bound(span.last)) {
            if usable(*point) {
                if name.0.key.interface == owner.key.interface {
                    return Some(*point);
                }
                other = other.or(Some(*point));
            }
        }
        other
    }

    /// How many addresses of `span` rest and are counted by `counts`.
    pub(super) fn count_in(&self, span: Span, counts: impl Fn(u128) -> bool) -> u128 {
        self.by_point.range(span.first..=span.last).filter(|(point, _)| counts(**point)).count() as u128
    }
}

/// An owner, compared by what its stable address derives from: the pod, or the
/// attachment where there is no pod.
#[derive(Debug)]
struct Name(Arc<LeaseOwner>);

impl Name {
    fn parts(&self) -> (Option<&PodKey>, Option<&AttachmentKey>) {
        match &self.0.pod {
            Some(pod) => (Some(pod), None),
            None => (None, Some(&self.0.key)),
        }
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Name {}
