//! Restore, configure, usage.

use super::*;

/// As if they had been allocated: not given to others, given again to their owner.
pub async fn restored_addresses_are_held(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/29")).await;
    let held = Addresses { ipv6: Some(v6("2001:db8::1")), ipv4: Some(v4("10.0.0.1")) };
    subject.ipam.restore(&pod("old"), held).await.unwrap();
    for request in [exactly6("2001:db8::1"), exactly4("10.0.0.1")] {
        match subject.refuse(&pod("new"), request).await {
            IpamError::Taken { holder, .. } => assert_eq!(holder, pod("old")),
            error => panic!("{error}"),
        }
    }
    let given = subject.drain_ipv4("new").await;
    assert_eq!(given, (2..7).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect());
    assert_eq!(subject.get(&pod("old"), both()).await, held);
    subject.release(&pod("old")).await;
    assert_eq!(subject.refuse(&pod("late"), ipv4(FamilyRequest::Any)).await, full("10.0.0.0/29", 6, 5, 1));
}

/// They were given by other prefixes. They count nowhere, and stay as they are until released.
pub async fn restored_addresses_may_be_outside_or_reserved(subject: Subject) {
    subject.ipam.configure(v4_only("10.0.0.0/30"), &[ip("10.0.0.1")]).await.unwrap();
    let old = [("outside", "10.9.9.9"), ("network", "10.0.0.0"), ("own", "10.0.0.1")];
    for (name, address) in old {
        subject.ipam.restore(&pod(name), only4(address)).await.unwrap();
        assert_eq!(subject.get(&pod(name), ipv4(FamilyRequest::Any)).await, only4(address));
    }
    subject.ipam.restore(&pod("six"), only6("2001:db8::1")).await.unwrap();
    assert_eq!(subject.counts().await, (0, 0));
    assert_eq!(subject.drain_ipv4("new").await, BTreeSet::from([v4("10.0.0.2")]));
    for (name, _) in old {
        subject.release(&pod(name)).await;
    }
    subject.let_rest_pass();
    assert_eq!(subject.refuse(&pod("late"), ipv4(FamilyRequest::Any)).await, full("10.0.0.0/30", 1, 1, 0));
}

/// And may come in two parts, or as nothing at all.
pub async fn restore_is_idempotent(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/24")).await;
    subject.ipam.restore(&pod("old"), Addresses::default()).await.unwrap();
    for addresses in [only4("10.0.0.1"), only4("10.0.0.1"), only6("2001:db8::1"), Addresses::default()] {
        subject.ipam.restore(&pod("old"), addresses).await.unwrap();
        assert_eq!(subject.counts().await, (1, 0));
    }
    let both_parts = Addresses { ipv6: Some(v6("2001:db8::1")), ipv4: Some(v4("10.0.0.1")) };
    assert_eq!(subject.get(&pod("old"), both()).await, both_parts);
}

/// Also where only one of the two families is another's.
pub async fn restore_of_what_another_holds_changes_nothing(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/24")).await;
    subject.get(&pod("holder"), exactly4("10.0.0.7")).await;
    let before = subject.ipam.usage().await.unwrap();
    let claimed = Addresses { ipv6: Some(v6("2001:db8::7")), ipv4: Some(v4("10.0.0.7")) };
    let error = subject.ipam.restore(&pod("late"), claimed).await.unwrap_err();
    assert_eq!(error, IpamError::Taken { address: ip("10.0.0.7"), holder: pod("holder") });
    assert_eq!(subject.ipam.usage().await.unwrap(), before);
    assert_eq!(subject.get(&pod("other"), exactly6("2001:db8::7")).await, only6("2001:db8::7"));
}

/// An attachment has at most one address of each family.
pub async fn restore_of_another_address_changes_nothing(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/24")).await;
    let held = subject.get(&pod("one"), exactly4("10.0.0.7")).await;
    let claimed = Addresses { ipv6: Some(v6("2001:db8::7")), ..only4("10.0.0.8") };
    let error = subject.ipam.restore(&pod("one"), claimed).await.unwrap_err();
    assert_eq!(error, IpamError::HoldsOther { owner: pod("one"), held });
    assert_eq!(subject.get(&pod("one"), ipv4(FamilyRequest::Any)).await, held);
    assert_eq!(subject.get(&pod("two"), exactly4("10.0.0.8")).await, only4("10.0.0.8"));
}

/// What is held does not rest, and does not become free by the end of that rest.
pub async fn restore_ends_a_rest(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/30")).await;
    subject.get(&pod("gone"), exactly4("10.0.0.1")).await;
    subject.release(&pod("gone")).await;
    subject.ipam.restore(&pod("old"), only4("10.0.0.1")).await.unwrap();
    assert_eq!(subject.counts().await, (1, 0));
    subject.let_rest_pass();
    assert_eq!(subject.drain_ipv4("new").await, BTreeSet::from([v4("10.0.0.2")]));
}

/// New addresses come from the new ones only.
pub async fn configure_replaces_the_prefixes(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/24")).await;
    subject.ipam.configure(v4_only("10.0.1.0/30"), &[]).await.unwrap();
    let expected =
        IpamError::OutsidePrefix { address: ip("10.0.0.1"), prefix: "10.0.1.0/30".parse().unwrap() };
    assert_eq!(subject.refuse(&pod("one"), exactly4("10.0.0.1")).await, expected);
    let error = subject.refuse(&pod("one"), both()).await;
    assert!(matches!(error, IpamError::NoFamily { family: "IPv6", .. }), "{error}");
    // What was the broadcast address of the old one is an address of a wider one.
    assert_eq!(subject.drain_ipv4("new").await, BTreeSet::from([v4("10.0.1.1"), v4("10.0.1.2")]));
    subject.ipam.configure(v4_only("10.0.0.0/23"), &[]).await.unwrap();
    for address in ["10.0.0.255", "10.0.1.0", "10.0.1.3"] {
        let owner = pod(&address.replace('.', "-"));
        assert_eq!(subject.get(&owner, exactly4(address)).await, only4(address));
    }
}

/// What is no longer the node's own can be given, what has become so can't.
pub async fn configure_replaces_the_own_addresses(subject: Subject) {
    for (own, left) in [("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1")] {
        subject.ipam.configure(v4_only("10.0.0.0/30"), &[ip(own)]).await.unwrap();
        assert_eq!(subject.drain_ipv4("one").await, BTreeSet::from([v4(left)]));
        subject.release(&pod("one-0")).await;
        subject.let_rest_pass();
    }
}

/// Outside the new prefix it is not counted; back in the old one it is not free.
pub async fn configure_keeps_what_is_held(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/30")).await;
    subject.get(&pod("one"), exactly4("10.0.0.1")).await;
    subject.ipam.configure(v4_only("10.0.1.0/30"), &[]).await.unwrap();
    assert_eq!(subject.counts().await, (0, 0));
    let error = subject.ipam.restore(&pod("other"), only4("10.0.0.1")).await.unwrap_err();
    assert_eq!(error, IpamError::Taken { address: ip("10.0.0.1"), holder: pod("one") });
    subject.ipam.configure(v4_only("10.0.0.0/30"), &[]).await.unwrap();
    assert_eq!(subject.counts().await, (1, 0));
    assert_eq!(subject.drain_ipv4("new").await, BTreeSet::from([v4("10.0.0.2")]));
}

/// And only what is configured.
pub async fn usage_lists_ipv6_first(subject: Subject) {
    assert_eq!(subject.ipam.usage().await.unwrap(), []);
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/24")).await;
    let empty = |prefix: &str, size| Usage { prefix: prefix.parse().unwrap(), size, in_use: 0, resting: 0 };
    let expected = [empty("2001:db8::/64", u128::from(u64::MAX)), empty("10.0.0.0/24", 254)];
    assert_eq!(subject.ipam.usage().await.unwrap(), expected);
    let subject = subject.with(v4_only("10.0.0.0/24")).await;
    assert_eq!(subject.ipam.usage().await.unwrap(), expected[1..]);
}

/// At every step of a pod's way.
pub async fn usage_counts_what_is_held_and_rests(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/29")).await;
    subject.get(&pod("one"), ipv4(FamilyRequest::Any)).await;
    subject.get(&pod("two"), from4("10.0.0.4/30")).await;
    assert_eq!(subject.counts().await, (2, 0));
    subject.refuse(&pod("three"), exactly4("10.0.0.0")).await;
    assert_eq!(subject.counts().await, (2, 0));
    subject.release(&pod("one")).await;
    assert_eq!(subject.counts().await, (1, 1));
    let usage = subject.ipam.usage().await.unwrap();
    assert_eq!(usage[0].free(), 4);
    subject.let_rest_pass();
    assert_eq!(subject.counts().await, (1, 0));
}

/// Whether allocated or restored, once each; not what was released.
pub async fn leases_name_every_holder(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/24")).await;
    assert_eq!(subject.ipam.leases().await.unwrap(), []);
    let b = subject.get(&pod("b"), both()).await;
    let c = subject.get(&pod("c"), ipv4(FamilyRequest::Any)).await;
    subject.ipam.restore(&pod("a"), only4("10.9.9.9")).await.unwrap();
    subject.ipam.restore(&pod("none"), Addresses::default()).await.unwrap();
    let lease = |name: &str, addresses| Lease { owner: pod(name), addresses };
    let all = [lease("a", only4("10.9.9.9")), lease("b", b), lease("c", c)];
    assert_eq!(subject.ipam.leases().await.unwrap(), all);
    subject.release(&pod("b")).await;
    let [a, _, c] = all;
    assert_eq!(subject.ipam.leases().await.unwrap(), [a, c]);
}
