//! What is never given, and what the node does not have.

use super::*;

/// The network and the broadcast address (RFC 1122, section 3.2.1.3).
pub async fn edges_of_ipv4_prefixes_are_never_given(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/29")).await;
    for address in ["10.0.0.0", "10.0.0.7"] {
        assert_reserved(&subject.refuse(&pod("one"), exactly4(address)).await, address);
    }
    let expected: BTreeSet<_> = (1..7).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect();
    assert_eq!(subject.drain_ipv4("all").await, expected);
}

/// The subnet-router anycast address (RFC 4291, section 2.6.1). The last one is like others.
pub async fn edges_of_ipv6_prefixes_are_never_given(subject: Subject) {
    let subject = subject.with(v6_only("2001:db8::/125")).await;
    assert_reserved(&subject.refuse(&pod("one"), exactly6("2001:db8::")).await, "2001:db8::");
    let mut given = BTreeSet::new();
    for n in 0..7 {
        given.extend(subject.get(&pod(&format!("p{n}")), ipv6(FamilyRequest::Any)).await.ipv6);
    }
    let expected: BTreeSet<_> = (1..8).map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n)).collect();
    assert_eq!(given, expected);
    let error = subject.refuse(&pod("one"), ipv6(FamilyRequest::Any)).await;
    assert_eq!(error, full("2001:db8::/125", 7, 7, 0));
}

/// Those inside the prefix; others are nobody's business.
pub async fn own_addresses_are_never_given(subject: Subject) {
    let own = ["10.0.0.1", "10.0.0.1", "10.0.0.2", "192.0.2.1", "2001:db8::1"].map(ip);
    subject.ipam.configure(dual("2001:db8::/126", "10.0.0.0/29"), &own).await.unwrap();
    for address in ["10.0.0.1", "10.0.0.2"] {
        assert_reserved(&subject.refuse(&pod("one"), exactly4(address)).await, address);
    }
    assert_reserved(&subject.refuse(&pod("one"), exactly6("2001:db8::1")).await, "2001:db8::1");
    let sizes: Vec<_> = subject.ipam.usage().await.unwrap().iter().map(|usage| usage.size).collect();
    assert_eq!(sizes, [2, 4]);
    let expected: BTreeSet<_> = (3..7).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect();
    assert_eq!(subject.drain_ipv4("all").await, expected);
}

/// RFC 3021 and RFC 6164, and prefixes of a single address.
pub async fn every_address_of_a_point_to_point_prefix_is_given(subject: Subject) {
    let cases = [("2001:db8::/127", "10.0.0.0/31", 2), ("2001:db8:1::/128", "10.0.1.0/32", 1)];
    for (ipv6, ipv4, size) in cases {
        subject.ipam.configure(dual(ipv6, ipv4), &[]).await.unwrap();
        let mut given = BTreeSet::new();
        for n in 0..size {
            given.extend(subject.get(&pod(&format!("p{n}-of-{size}")), both()).await.iter());
        }
        let hosts6 = ipv6.parse::<ipnet::Ipv6Net>().unwrap().hosts().map(IpAddr::V6);
        let hosts4 = ipv4.parse::<ipnet::Ipv4Net>().unwrap().hosts().map(IpAddr::V4);
        assert_eq!(given, hosts6.chain(hosts4).collect());
    }
}

/// A part is a pool, not a subnet.
pub async fn parts_give_their_first_and_last_address(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/24")).await;
    let mut given = BTreeSet::new();
    for n in 0..4 {
        given.extend(subject.get(&pod(&format!("p{n}")), from4("10.0.0.64/30")).await.ipv4);
    }
    assert_eq!(given, (64..68).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect());
}

/// Not even where the part ends with the prefix.
pub async fn parts_do_not_give_what_the_prefix_never_gives(subject: Subject) {
    subject.ipam.configure(v4_only("10.0.0.0/24"), &[ip("10.0.0.253")]).await.unwrap();
    for (part, left) in [("10.0.0.0/30", 3), ("10.0.0.252/30", 2)] {
        for n in 0..left {
            subject.get(&pod(&format!("p{n}-of-{left}")), from4(part)).await;
        }
        let error = subject.refuse(&pod("late"), from4(part)).await;
        assert_eq!(error, full(part, left, left, 0));
    }
}

/// Wherever it is, to one owner, and without a word of it in the usage of the prefix. Inside the
/// prefix it is like any other.
pub async fn a_granted_address_may_be_outside_the_prefix(subject: Subject) {
    let granted = |address| ipv4(FamilyRequest::Granted(v4(address)));
    let before = subject.get(&pod("before"), granted("203.0.113.1")).await;
    assert_eq!(before.ipv4, Some(v4("203.0.113.1")));
    let subject = subject.with(v4_only("10.0.0.0/29")).await;
    let outside = subject.get(&pod("one"), granted("203.0.113.7")).await;
    assert_eq!(outside.ipv4, Some(v4("203.0.113.7")));
    assert_eq!(subject.get(&pod("one"), granted("203.0.113.7")).await, outside, "asked again");
    let error = subject.refuse(&pod("two"), granted("203.0.113.7")).await;
    assert!(matches!(error, IpamError::Taken { .. }), "{error}");
    assert_eq!(subject.counts().await, (0, 0));
    assert_reserved(&subject.refuse(&pod("two"), granted("10.0.0.7")).await, "10.0.0.7");
    assert_eq!(subject.get(&pod("two"), granted("10.0.0.2")).await.ipv4, Some(v4("10.0.0.2")));
    assert_eq!(subject.counts().await, (1, 0));
    subject.release(&pod("one")).await;
    assert_eq!(subject.get(&pod("three"), granted("203.0.113.7")).await, outside, "asked for exactly");
}

/// And no address at all where none was asked for.
pub async fn only_families_that_were_asked_for_are_given(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/24")).await;
    let six = subject.get(&pod("six"), ipv6(FamilyRequest::Any)).await;
    assert!(six.ipv6.is_some() && six.ipv4.is_none(), "{six:?}");
    let four = subject.get(&pod("four"), ipv4(FamilyRequest::Any)).await;
    assert!(four.ipv6.is_none() && four.ipv4.is_some(), "{four:?}");
    assert_eq!(subject.get(&pod("none"), AddressRequest::default()).await, Addresses::default());
    let in_use: Vec<_> = subject.ipam.usage().await.unwrap().iter().map(|usage| usage.in_use).collect();
    assert_eq!(in_use, [1, 1]);
}

/// However it is asked for, and before anything was configured.
pub async fn families_without_a_prefix_are_refused(subject: Subject) {
    let error = subject.refuse(&pod("one"), ipv6(FamilyRequest::Any)).await;
    assert_no_family(&error, "IPv6", "cidr6");
    let subject = subject.with(v6_only("2001:db8::/64")).await;
    for request in [both(), exactly4("10.0.0.1"), from4("10.0.0.0/24")] {
        assert_no_family(&subject.refuse(&pod("one"), request).await, "IPv4", "cidr4");
    }
    assert_eq!(subject.counts().await, (0, 0));
}

fn assert_reserved(error: &IpamError, expected: &str) {
    match error {
        IpamError::Reserved { address, reason } => {
            assert_eq!(*address, ip(expected));
            assert!(!reason.is_empty(), "it must say which kind of address {address} is");
        }
        error => panic!("expected that {expected} is reserved, got: {error}"),
    }
}

fn assert_no_family(error: &IpamError, expected: &str, key: &str) {
    match error {
        IpamError::NoFamily { family, key: found } => {
            assert_eq!(*family, expected);
            assert!(found.contains(key), "{found}");
        }
        error => panic!("expected that the node has no {expected}, got: {error}"),
    }
}
