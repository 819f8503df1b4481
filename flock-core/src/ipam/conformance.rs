//! Contract tests of [`Ipam`], one public function per case.
//!
//! A backend runs all of them from its own tests with one line, and gets one
//! test per case, so that a first failure hides no other:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use flock_core::clock::ManualClock;
//! use flock_core::ipam::MemoryIpam;
//! use flock_core::ipam::conformance::Subject;
//!
//! fn subject() -> Subject {
//!     let clock = Arc::new(ManualClock::new());
//!     let rest = Duration::from_secs(60);
//!     let ipam = Arc::new(MemoryIpam::new(clock.clone(), rest, 1));
//!     Subject::new(ipam, rest, move |by| clock.advance(by))
//! }
//!
//! flock_core::ipam_conformance!(subject());
//! # fn main() {}
//! ```
//!
//! The tests need tokio's features `macros` and `rt-multi-thread`. The
//! expression is evaluated anew for each of them, inside an async function.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::wildcard_imports,
    reason = "these functions are tests: a panic is how they fail, and they share the words of this module"
)]

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use super::{AddressRequest, Algorithm, FamilyRequest, Ipam, IpamError, Lease, LeaseOwner, Usage};
use crate::attachment::{Addresses, AttachmentKey, NodeCidrs};
use crate::name::{ContainerId, InterfaceName, PodKey};

mod bookkeeping;
mod choosing;
mod limits;
mod resting;
mod uniqueness;

pub use bookkeeping::*;
pub use choosing::*;
pub use limits::*;
pub use resting::*;
pub use uniqueness::*;

/// A backend under test: without prefixes, without leases.
pub struct Subject {
    ipam: Arc<dyn Ipam>,
    rest: Duration,
    advance: Box<dyn Fn(Duration) + Send + Sync>,
}

impl Subject {
    /// Joins a backend, the rest period that it was made with (at least 2 ns),
    /// and the way to make time pass for it.
    pub fn new(
        ipam: Arc<dyn Ipam>,
        rest: Duration,
        advance: impl Fn(Duration) + Send + Sync + 'static,
    ) -> Self {
        Self { ipam, rest, advance: Box::new(advance) }
    }

    /// With the prefixes of `cidrs`, none of whose addresses are the node's own.
    async fn with(self, cidrs: NodeCidrs) -> Self {
        self.ipam.configure(cidrs, &[]).await.unwrap();
        self
    }

    async fn get(&self, owner: &LeaseOwner, request: AddressRequest) -> Addresses {
        self.ipam.allocate(owner, &request).await.unwrap_or_else(|error| panic!("{owner}: {error}"))
    }

    async fn refuse(&self, owner: &LeaseOwner, request: AddressRequest) -> IpamError {
        match self.ipam.allocate(owner, &request).await {
            Ok(addresses) => panic!("{owner} got {addresses:?} for {request:?}, expected an error"),
            Err(error) => error,
        }
    }

    async fn release(&self, owner: &LeaseOwner) {
        self.ipam.release(&owner.key).await.unwrap();
    }

    /// In use and resting, of the only prefix.
    async fn counts(&self) -> (u128, u128) {
        let usage = self.ipam.usage().await.unwrap();
        assert_eq!(usage.len(), 1, "{usage:?}");
        (usage[0].in_use, usage[0].resting)
    }

    /// Ends the rest of everything that was released up to now.
    fn let_rest_pass(&self) {
        (self.advance)(self.rest);
    }

    /// Gives IPv4 addresses to new owners until there is none, and says which.
    async fn drain_ipv4(&self, names: &str) -> BTreeSet<Ipv4Addr> {
        let mut given = BTreeSet::new();
        loop {
            let owner = pod(&format!("{names}-{}", given.len()));
            match self.ipam.allocate(&owner, &ipv4(FamilyRequest::Any)).await {
                Ok(addresses) => assert!(given.insert(addresses.ipv4.unwrap()), "{addresses:?} twice"),
                Err(IpamError::Exhausted(_)) => return given,
                Err(error) => panic!("{owner}: {error}"),
            }
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("ipam", &self.ipam).field("rest", &self.rest).finish_non_exhaustive()
    }
}

/// The pod `default/name` and its container, which has the same name.
fn pod(name: &str) -> LeaseOwner {
    LeaseOwner { pod: Some(PodKey::new("default", name).unwrap()), ..container(name) }
}

/// The same pod in another container, as after a deletion and a new start.
fn pod_again(name: &str) -> LeaseOwner {
    LeaseOwner { pod: pod(name).pod, ..container(&format!("{name}-again")) }
}

fn container(name: &str) -> LeaseOwner {
    let key = AttachmentKey::new(ContainerId::new(name).unwrap(), InterfaceName::new("eth0").unwrap());
    LeaseOwner { key, pod: None }
}

fn v4_only(net: &str) -> NodeCidrs {
    NodeCidrs { ipv6: None, ipv4: Some(net.parse().unwrap()) }
}

fn v6_only(net: &str) -> NodeCidrs {
    NodeCidrs { ipv6: Some(net.parse().unwrap()), ipv4: None }
}

fn dual(ipv6: &str, ipv4: &str) -> NodeCidrs {
    NodeCidrs { ipv6: Some(ipv6.parse().unwrap()), ipv4: Some(ipv4.parse().unwrap()) }
}

fn ipv4(ipv4: FamilyRequest<Ipv4Addr, ipnet::Ipv4Net>) -> AddressRequest {
    AddressRequest { ipv4, ..AddressRequest::default() }
}

fn ipv6(ipv6: FamilyRequest<Ipv6Addr, ipnet::Ipv6Net>) -> AddressRequest {
    AddressRequest { ipv6, ..AddressRequest::default() }
}

/// One of each family, any.
fn both() -> AddressRequest {
    AddressRequest { ipv6: FamilyRequest::Any, ipv4: FamilyRequest::Any, ..AddressRequest::default() }
}

fn exactly4(address: &str) -> AddressRequest {
    ipv4(FamilyRequest::Exactly(v4(address)))
}

fn exactly6(address: &str) -> AddressRequest {
    ipv6(FamilyRequest::Exactly(v6(address)))
}

fn from4(pool: &str) -> AddressRequest {
    ipv4(FamilyRequest::From(pool.parse().unwrap()))
}

fn stable4() -> AddressRequest {
    AddressRequest { algorithm: Algorithm::Stable, ..ipv4(FamilyRequest::Any) }
}

fn v4(address: &str) -> Ipv4Addr {
    address.parse().unwrap()
}

fn v6(address: &str) -> Ipv6Addr {
    address.parse().unwrap()
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn only4(address: &str) -> Addresses {
    Addresses { ipv6: None, ipv4: Some(v4(address)) }
}

fn only6(address: &str) -> Addresses {
    Addresses { ipv6: Some(v6(address)), ipv4: None }
}

fn full(prefix: &str, size: u128, in_use: u128, resting: u128) -> IpamError {
    IpamError::Exhausted(Usage { prefix: prefix.parse().unwrap(), size, in_use, resting })
}

/// Makes one `#[tokio::test]` of each case of [`ipam::conformance`](crate::ipam::conformance),
/// with the backend that the expression makes anew for it.
#[macro_export]
macro_rules! ipam_conformance {
    ($subject:expr) => {
        $crate::ipam_conformance! { @cases $subject;
            addresses_are_unique_whatever_the_algorithm
            concurrent_requests_get_different_addresses
            concurrent_requests_get_all_there_is_and_no_more
            one_of_many_gets_the_address_that_all_ask_for
            concurrent_repeats_of_one_owner_agree
            concurrent_give_and_take_never_shares_an_address
            nothing_is_kept_of_ipv6_when_ipv4_fails
            nothing_is_kept_of_ipv4_when_ipv6_fails
            repeated_requests_get_the_same_addresses
            repeated_requests_get_the_same_addresses_after_configure
            something_else_than_is_held_needs_a_release
            release_is_idempotent
            release_is_of_one_attachment_only
            released_addresses_rest
            resting_addresses_are_given_when_asked_for_exactly
            resting_addresses_are_given_back_to_their_stable_pod
            resting_outlasts_configure
            rest_begins_with_the_last_release
            edges_of_ipv4_prefixes_are_never_given
            edges_of_ipv6_prefixes_are_never_given
            own_addresses_are_never_given
            every_address_of_a_point_to_point_prefix_is_given
            parts_give_their_first_and_last_address
            parts_do_not_give_what_the_prefix_never_gives
            a_granted_address_may_be_outside_the_prefix
            only_families_that_were_asked_for_are_given
            families_without_a_prefix_are_refused
            exact_addresses_are_given_as_asked
            exact_addresses_outside_the_prefix_are_refused
            taken_addresses_say_by_whom
            parts_outside_the_prefix_are_refused
            parts_are_exhausted_by_themselves
            exact_pooled_and_free_requests_share_a_prefix
            exhaustion_says_how_much_of_what
            sequential_goes_round
            random_stays_inside_and_finds_the_last_free_address
            stable_addresses_derive_from_the_pod
            stable_addresses_give_way_when_taken
            restored_addresses_are_held
            restored_addresses_may_be_outside_or_reserved
            restore_is_idempotent
            restore_of_what_another_holds_changes_nothing
            restore_of_another_address_changes_nothing
            restore_ends_a_rest
            configure_replaces_the_prefixes
            configure_replaces_the_own_addresses
            configure_keeps_what_is_held
            usage_lists_ipv6_first
            usage_counts_what_is_held_and_rests
            leases_name_every_holder
        }
    };
    (@cases $subject:expr; $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                $crate::ipam::conformance::$case($subject).await;
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    /// A case that the macro does not name would never run.
    #[test]
    fn the_macro_names_every_case() {
        let files = [
            include_str!("conformance/bookkeeping.rs"),
            include_str!("conformance/choosing.rs"),
            include_str!("conformance/limits.rs"),
            include_str!("conformance/resting.rs"),
            include_str!("conformance/uniqueness.rs"),
        ];
        let mut defined: Vec<_> = files
            .iter()
            .flat_map(|file| file.lines())
            .filter_map(|line| line.strip_prefix("pub async fn ")?.split_once('('))
            .map(|(name, _)| name)
            .collect();
        let list = include_str!("conformance.rs").split_once("@cases $subject;\n").unwrap().1;
        let mut named: Vec<_> = list.split_once('}').unwrap().0.split_whitespace().collect();
        defined.sort_unstable();
        named.sort_unstable();
        assert_eq!(defined, named);
        assert!(!defined.is_empty());
    }
}
