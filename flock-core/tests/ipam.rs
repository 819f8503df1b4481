//! [`MemoryIpam`] keeps the contract of `Ipam`.

use std::sync::Arc;
use std::time::Duration;

use flock_core::attachment::{Addresses, AttachmentKey, NodeCidrs};
use flock_core::clock::ManualClock;
use flock_core::ipam::conformance::Subject;
use flock_core::ipam::{AddressRequest, Algorithm, FamilyRequest, Ipam, IpamError, LeaseOwner, MemoryIpam};
use flock_core::name::{ContainerId, InterfaceName, PodKey};
use flock_core::retry::Retry;

fn subject() -> Subject {
    let clock = Arc::new(ManualClock::new());
    let rest = Duration::from_secs(60);
    let ipam = Arc::new(MemoryIpam::new(clock.clone(), rest, 7));
    Subject::new(ipam, rest, move |by| clock.advance(by))
}

flock_core::ipam_conformance!(subject());

/// The addresses of running pods are in records, but those of pods that come
/// back after an update of Flock follow from this derivation alone. The values
/// were worked out apart from this code: FNV-1a-64 of the name as the state of
/// SplitMix64, its first two outputs as one number, the prefix's length of it cut off.
#[tokio::test]
async fn stable_addresses_are_the_same_in_every_version() {
    let ipam = MemoryIpam::new(Arc::new(ManualClock::new()), Duration::from_secs(60), 7);
    let cidrs = NodeCidrs {
        ipv6: Some("2001:db8:1::/64".parse().unwrap()),
        ipv4: Some("10.0.0.0/16".parse().unwrap()),
    };
    ipam.configure(cidrs, &[]).await.unwrap();
    let request =
        AddressRequest { ipv6: FamilyRequest::Any, ipv4: FamilyRequest::Any, algorithm: Algorithm::Stable };
    for (name, ipv6, ipv4) in [
        ("web-0", "2001:db8:1:0:b566:3a0:3572:550e", "10.0.85.14"),
        ("web-1", "2001:db8:1:0:44ae:ada7:d18a:e398", "10.0.227.152"),
    ] {
        let owner = LeaseOwner {
            key: AttachmentKey::new(ContainerId::new(name).unwrap(), InterfaceName::new("eth0").unwrap()),
            pod: Some(PodKey::new("default", name).unwrap()),
        };
        let expected = Addresses { ipv6: Some(ipv6.parse().unwrap()), ipv4: Some(ipv4.parse().unwrap()) };
        assert_eq!(ipam.allocate(&owner, &request).await, Ok(expected), "{name}");
    }
}

/// A million leases must not end up in a log line.
#[test]
fn debug_output_is_short() {
    let ipam = MemoryIpam::new(Arc::new(ManualClock::new()), Duration::from_secs(60), 7);
    assert_eq!(format!("{ipam:?}"), "MemoryIpam { rest: 60s, .. }");
}

#[test]
fn an_owner_that_asks_for_something_else_is_told_what_to_do() {
    let key = AttachmentKey::new(ContainerId::new("0a1b").unwrap(), InterfaceName::new("eth0").unwrap());
    let held =
        Addresses { ipv6: Some("2001:db8::1".parse().unwrap()), ipv4: Some("10.0.0.1".parse().unwrap()) };
    let error = IpamError::HoldsOther { owner: LeaseOwner { key, pod: None }, held };
    assert_eq!(
        error.to_string(),
        "container 0a1b (eth0) already holds 2001:db8::1 and 10.0.0.1, which is not what it asks for now; \
         release that before asking for something else"
    );
    assert_eq!(error.retry(), Retry::Never);
}
