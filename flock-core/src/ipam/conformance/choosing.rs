//! What was asked for, and how the choice is made where it is free.

use super::*;

/// In both families, also beside a free choice.
pub async fn exact_addresses_are_given_as_asked(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/24")).await;
    let request = AddressRequest {
        ipv6: FamilyRequest::Exactly(v6("2001:db8::ffff:ffff:ffff:ffff")),
        ipv4: FamilyRequest::Exactly(v4("10.0.0.254")),
        algorithm: Algorithm::Random,
    };
    let expected =
        Addresses { ipv6: Some(v6("2001:db8::ffff:ffff:ffff:ffff")), ipv4: Some(v4("10.0.0.254")) };
    assert_eq!(subject.get(&pod("one"), request).await, expected);
    let request = AddressRequest { ipv6: FamilyRequest::Exactly(v6("2001:db8::1:0")), ..both() };
    let mixed = subject.get(&pod("two"), request).await;
    assert_eq!(mixed.ipv6, Some(v6("2001:db8::1:0")));
    assert!(mixed.ipv4.is_some());
}

/// They say what the prefix is.
pub async fn exact_addresses_outside_the_prefix_are_refused(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.1.0/24")).await;
    for address in ["10.0.0.255", "10.0.2.0", "0.0.0.0", "255.255.255.255"] {
        let expected =
            IpamError::OutsidePrefix { address: ip(address), prefix: "10.0.1.0/24".parse().unwrap() };
        assert_eq!(subject.refuse(&pod("one"), exactly4(address)).await, expected);
    }
    for address in ["2001:db8:0:1::", "::", "::10.0.1.1"] {
        let expected =
            IpamError::OutsidePrefix { address: ip(address), prefix: "2001:db8::/64".parse().unwrap() };
        assert_eq!(subject.refuse(&pod("one"), exactly6(address)).await, expected);
    }
}

/// By pod where it is known, by container where not.
pub async fn taken_addresses_say_by_whom(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/24")).await;
    let holders = [
        (pod("web-0"), "10.0.0.7", "10.0.0.7 is already in use by pod default/web-0 (container web-0, eth0)"),
        (container("0a1b"), "10.0.0.8", "10.0.0.8 is already in use by container 0a1b (eth0)"),
    ];
    for (holder, address, message) in holders {
        subject.get(&holder, exactly4(address)).await;
        let error = subject.refuse(&pod("late"), exactly4(address)).await;
        assert_eq!(error, IpamError::Taken { address: ip(address), holder });
        assert_eq!(error.to_string(), message);
    }
}

/// Also where they overlap it, or are larger than it.
pub async fn parts_outside_the_prefix_are_refused(subject: Subject) {
    let subject = subject.with(v4_only("10.0.1.0/24")).await;
    for part in ["10.0.2.0/25", "10.0.0.0/23", "0.0.0.0/0", "10.0.0.255/32"] {
        let expected = IpamError::PoolOutsidePrefix {
            pool: part.parse().unwrap(),
            prefix: "10.0.1.0/24".parse().unwrap(),
        };
        assert_eq!(subject.refuse(&pod("one"), from4(part)).await, expected);
    }
    assert_eq!(subject.counts().await, (0, 0));
}

/// With their own numbers, while the rest of the prefix goes on.
pub async fn parts_are_exhausted_by_themselves(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/24")).await;
    let part: ipnet::Ipv4Net = "10.0.0.8/30".parse().unwrap();
    for (n, algorithm) in [Algorithm::Sequential, Algorithm::Random, Algorithm::Stable, Algorithm::Stable]
        .into_iter()
        .enumerate()
    {
        let request = AddressRequest { algorithm, ..from4("10.0.0.8/30") };
        let given = subject.get(&pod(&format!("p{n}")), request).await;
        assert!(part.contains(&given.ipv4.unwrap()), "{given:?}");
    }
    subject.release(&pod("p0")).await;
    for algorithm in [Algorithm::Sequential, Algorithm::Random, Algorithm::Stable] {
        let request = AddressRequest { algorithm, ..from4("10.0.0.8/30") };
        assert_eq!(subject.refuse(&pod("late"), request).await, full("10.0.0.8/30", 4, 3, 1));
    }
    let elsewhere = subject.get(&pod("late"), ipv4(FamilyRequest::Any)).await;
    assert!(!part.contains(&elsewhere.ipv4.unwrap()), "{elsewhere:?}");
}

/// Every address of the prefix is given once, whoever asks for it how.
pub async fn exact_pooled_and_free_requests_share_a_prefix(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/28")).await;
    let mut given = BTreeSet::new();
    for address in ["10.0.0.2", "10.0.0.5", "10.0.0.9"] {
        given.extend(subject.get(&pod(&address.replace('.', "-")), exactly4(address)).await.ipv4);
    }
    for n in 0..2 {
        given.extend(subject.get(&pod(&format!("pooled-{n}")), from4("10.0.0.4/30")).await.ipv4);
    }
    given.extend(subject.drain_ipv4("free").await);
    assert_eq!(given, (1..15).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect());
    assert_eq!(subject.counts().await, (14, 0));
    assert_eq!(subject.refuse(&pod("late"), from4("10.0.0.4/30")).await, full("10.0.0.4/30", 4, 4, 0));
}

/// How large, how many in use, how many resting, in the message too.
pub async fn exhaustion_says_how_much_of_what(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/28")).await;
    subject.drain_ipv4("p").await;
    for n in 0..5 {
        subject.release(&pod(&format!("p-{n}"))).await;
    }
    let error = subject.refuse(&pod("late"), ipv4(FamilyRequest::Any)).await;
    assert_eq!(error, full("10.0.0.0/28", 14, 9, 5));
    let message = error.to_string();
    assert!(
        message.starts_with("10.0.0.0/28 is exhausted: 14 addresses in all, 9 in use, 5 resting"),
        "{message}"
    );
}

/// What was released comes last, also after its rest.
pub async fn sequential_goes_round(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/29")).await;
    for (names, request) in [("whole", ipv4(FamilyRequest::Any)), ("part", from4("10.0.0.4/30"))] {
        let first = subject.get(&pod(&format!("{names}-first")), request).await;
        subject.release(&pod(&format!("{names}-first"))).await;
        subject.let_rest_pass();
        let mut order = Vec::new();
        // One more than there are: a backend that gives without end must fail here, not hang.
        for n in 0..9 {
            order.extend(subject.ipam.allocate(&pod(&format!("{names}-{n}")), &request).await);
        }
        assert!(order.len() < 9, "{order:?}");
        assert!(order.len() > 1);
        assert_eq!(order.iter().position(|next| *next == first), Some(order.len() - 1), "{order:?}");
        for n in 0..order.len() {
            subject.release(&pod(&format!("{names}-{n}"))).await;
        }
        subject.let_rest_pass();
    }
}

/// Bad luck is no reason to fail.
pub async fn random_stays_inside_and_finds_the_last_free_address(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/24")).await;
    let request = AddressRequest { algorithm: Algorithm::Random, ..from4("10.0.0.128/26") };
    let mut given = Vec::new();
    for n in 0..64 {
        given.extend(subject.get(&pod(&format!("p{n}")), request).await.ipv4);
    }
    let in_order: Vec<_> = (128..192).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect();
    let sorted: BTreeSet<_> = given.iter().copied().collect();
    assert!(sorted.iter().eq(&in_order), "{sorted:?}");
    assert_ne!(given, in_order, "random is not one after the other");
}

/// Not from what happened before: another order, another container, the same address.
pub async fn stable_addresses_derive_from_the_pod(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/16")).await;
    let request = AddressRequest { algorithm: Algorithm::Stable, ..both() };
    let names = ["web-0", "web-1", "web-2"];
    let mut first = Vec::new();
    for name in names {
        first.push(subject.get(&pod(name), request).await);
    }
    let without_pod = subject.get(&container("0a1b"), request).await;
    for owner in names.map(pod).iter().chain([&container("0a1b")]) {
        subject.release(owner).await;
    }
    // Past the rest, nothing is known of who had what.
    subject.let_rest_pass();
    for (name, expected) in names.iter().zip(&first).rev() {
        assert_eq!(subject.get(&pod_again(name), request).await, *expected, "{name}");
    }
    assert_eq!(subject.get(&container("0a1b"), request).await, without_pod);
}

/// An address that another pod has is not given twice; the pod gets another one.
pub async fn stable_addresses_give_way_when_taken(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/28")).await;
    let derived = subject.get(&pod("web-0"), stable4()).await;
    subject.release(&pod("web-0")).await;
    let request = ipv4(FamilyRequest::Exactly(derived.ipv4.unwrap()));
    assert_eq!(subject.get(&pod("squatter"), request).await, derived);
    assert_ne!(subject.get(&pod_again("web-0"), stable4()).await, derived);
}
