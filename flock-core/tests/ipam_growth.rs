//! A full /16 costs about as much as a full /26: nothing scans.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the whole file is tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_core::attachment::{AttachmentKey, NodeCidrs};
use flock_core::clock::ManualClock;
use flock_core::ipam::{AddressRequest, Algorithm, FamilyRequest, Ipam, LeaseOwner, MemoryIpam};
use flock_core::name::{ContainerId, InterfaceName};
use futures_util::FutureExt;

/// There are a thousand times as many addresses, and a search through all of
/// them would take hundreds of times as long. The bound is far from that and
/// far from what look-ups in a deeper tree cost, and the best of several rounds
/// counts, so that a busy machine does not matter.
#[test]
fn the_last_free_address_is_found_without_a_search() {
    for algorithm in [Algorithm::Sequential, Algorithm::Random, Algorithm::Stable] {
        let (small, large) = (best_round("10.0.0.0/26", algorithm), best_round("10.0.0.0/16", algorithm));
        assert!(
            large < small * 20,
            "{algorithm:?}: {large:?} in a /16, {small:?} in a /26, expected at most 20 times as much"
        );
    }
}

/// Rounds of giving back and asking again, in a prefix that is full but for that one address.
fn best_round(prefix: &str, algorithm: Algorithm) -> Duration {
    let ipam = MemoryIpam::new(Arc::new(ManualClock::new()), Duration::ZERO, 1);
    let cidrs = NodeCidrs { ipv6: None, ipv4: Some(prefix.parse().unwrap()) };
    ipam.configure(cidrs, &[]).now_or_never().unwrap().unwrap();
    let size = ipam.usage().now_or_never().unwrap().unwrap()[0].size;
    let request = AddressRequest { ipv6: FamilyRequest::None, ipv4: FamilyRequest::Any, algorithm };
    let owners: Vec<_> = (0..size).map(owner).collect();
    for owner in &owners {
        ipam.allocate(owner, &request).now_or_never().unwrap().unwrap();
    }
    let rounds = (0..10).map(|_| {
        let start = Instant::now();
        for owner in &owners[..60] {
            ipam.release(&owner.key).now_or_never().unwrap().unwrap();
            ipam.allocate(owner, &request).now_or_never().unwrap().unwrap();
        }
        start.elapsed()
    });
    rounds.min().unwrap()
}

fn owner(n: u128) -> LeaseOwner {
    let key =
        AttachmentKey::new(ContainerId::new(n.to_string()).unwrap(), InterfaceName::new("eth0").unwrap());
    LeaseOwner { key, pod: None }
}
