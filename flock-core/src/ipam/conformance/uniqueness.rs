//! Unique, all or nothing, idempotent.

use std::collections::HashSet;
use std::sync::Mutex;

use super::*;

/// A prefix is given to the last address, none of them twice.
pub async fn addresses_are_unique_whatever_the_algorithm(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/27")).await;
    let algorithms = [Algorithm::Sequential, Algorithm::Random, Algorithm::Stable];
    let mut given = BTreeSet::new();
    for n in 0..30 {
        let request = AddressRequest { algorithm: algorithms[n % 3], ..both() };
        for address in subject.get(&pod(&format!("p{n}")), request).await.iter() {
            assert!(given.insert(address), "{address} was given twice");
        }
    }
    assert_eq!(given.len(), 60);
}

/// Many tasks at once, one address of each family for each.
pub async fn concurrent_requests_get_different_addresses(subject: Subject) {
    let subject = Arc::new(subject.with(dual("2001:db8::/64", "10.0.0.0/22")).await);
    let algorithms = [Algorithm::Sequential, Algorithm::Random, Algorithm::Stable];
    let tasks = (0..300).map(|n| {
        let subject = Arc::clone(&subject);
        let request = AddressRequest { algorithm: algorithms[n % 3], ..both() };
        tokio::spawn(async move { subject.get(&pod(&format!("p{n}")), request).await })
    });
    let mut given = BTreeSet::new();
    for task in tasks.collect::<Vec<_>>() {
        for address in task.await.unwrap().iter() {
            assert!(given.insert(address), "{address} was given twice");
        }
    }
    assert_eq!(given.len(), 600);
}

/// More tasks than addresses: exactly as many succeed as there are addresses.
pub async fn concurrent_requests_get_all_there_is_and_no_more(subject: Subject) {
    let subject = Arc::new(subject.with(v4_only("10.0.0.0/27")).await);
    let tasks = (0..100).map(|n| {
        let subject = Arc::clone(&subject);
        tokio::spawn(
            async move { subject.ipam.allocate(&pod(&format!("p{n}")), &ipv4(FamilyRequest::Any)).await },
        )
    });
    let mut given = BTreeSet::new();
    for task in tasks.collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(addresses) => assert!(given.insert(addresses.ipv4), "{addresses:?} was given twice"),
            Err(error) => assert_eq!(error, full("10.0.0.0/27", 30, 30, 0)),
        }
    }
    assert_eq!(given.len(), 30);
}

/// Many ask for one address: one gets it, the others are told that it did.
pub async fn one_of_many_gets_the_address_that_all_ask_for(subject: Subject) {
    let subject = Arc::new(subject.with(v4_only("10.0.0.0/24")).await);
    let tasks = (0..50).map(|n| {
        let (subject, owner) = (Arc::clone(&subject), pod(&format!("p{n}")));
        tokio::spawn(async move { (subject.ipam.allocate(&owner, &exactly4("10.0.0.7")).await, owner) })
    });
    let (mut winners, mut named) = (Vec::new(), Vec::new());
    for task in tasks.collect::<Vec<_>>() {
        match task.await.unwrap() {
            (Ok(addresses), owner) => {
                assert_eq!(addresses, only4("10.0.0.7"));
                winners.push(owner);
            }
            (Err(IpamError::Taken { address, holder }), _) => {
                assert_eq!(address, ip("10.0.0.7"));
                named.push(holder);
            }
            (Err(error), owner) => panic!("{owner}: {error}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(named, vec![winners[0].clone(); 49]);
}

/// A runtime that repeats itself does not get two sets of addresses.
pub async fn concurrent_repeats_of_one_owner_agree(subject: Subject) {
    let subject = Arc::new(subject.with(dual("2001:db8::/64", "10.0.0.0/24")).await);
    let tasks = (0..50).map(|_| {
        let subject = Arc::clone(&subject);
        tokio::spawn(async move { subject.get(&pod("one"), both()).await })
    });
    let mut given = BTreeSet::new();
    for task in tasks.collect::<Vec<_>>() {
        given.extend(task.await.unwrap().iter());
    }
    assert_eq!(given.len(), 2, "one address of each family: {given:?}");
    let in_use: Vec<_> = subject.ipam.usage().await.unwrap().iter().map(|usage| usage.in_use).collect();
    assert_eq!(in_use, [1, 1]);
}

/// Tasks that allocate and release all the time, and exact requests among them.
pub async fn concurrent_give_and_take_never_shares_an_address(subject: Subject) {
    let subject = Arc::new(subject.with(v4_only("10.0.0.0/26")).await);
    let in_hand = Arc::new(Mutex::new(HashSet::new()));
    let tasks = (0..16).map(|n| {
        let (subject, in_hand) = (Arc::clone(&subject), Arc::clone(&in_hand));
        tokio::spawn(async move {
            let mut successes = 0;
            for round in 0..50 {
                let owner = pod(&format!("p{n}"));
                let exact = ipv4(FamilyRequest::Exactly(Ipv4Addr::new(10, 0, 0, 1 + round % 8)));
                let request = if n % 4 == 0 { exact } else { stable4() };
                match subject.ipam.allocate(&owner, &request).await {
                    Ok(addresses) => {
                        assert!(in_hand.lock().unwrap().insert(addresses), "{addresses:?} is shared");
                        tokio::task::yield_now().await;
                        in_hand.lock().unwrap().remove(&addresses);
                        subject.release(&owner).await;
                        subject.let_rest_pass();
                        successes += 1;
                    }
                    Err(error @ (IpamError::Taken { .. } | IpamError::Exhausted(_))) => drop(error),
                    Err(error) => panic!("{owner}: {error}"),
                }
            }
            successes
        })
    });
    let mut successes = 0;
    for task in tasks.collect::<Vec<_>>() {
        successes += task.await.unwrap();
    }
    assert!(successes > 0);
    subject.let_rest_pass();
    assert_eq!(subject.counts().await, (0, 0));
}

/// IPv6 would be there, IPv4 is not: neither is given.
pub async fn nothing_is_kept_of_ipv6_when_ipv4_fails(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/30")).await;
    subject.drain_ipv4("first").await;
    let before = subject.ipam.usage().await.unwrap();
    let late = pod("late");
    for ipv4 in
        [FamilyRequest::Any, FamilyRequest::Exactly(v4("10.0.0.1")), FamilyRequest::Exactly(v4("10.9.9.9"))]
    {
        let request = AddressRequest { ipv6: FamilyRequest::Exactly(v6("2001:db8::7")), ipv4, ..both() };
        subject.refuse(&late, request).await;
        assert_eq!(subject.ipam.usage().await.unwrap(), before, "{request:?}");
    }
    // Neither held nor resting: another pod has it at once.
    assert_eq!(subject.get(&pod("other"), exactly6("2001:db8::7")).await, only6("2001:db8::7"));
    // And the one that failed holds nothing that would stand in its way.
    assert_eq!(subject.get(&late, exactly6("2001:db8::8")).await, only6("2001:db8::8"));
}

/// The other way round.
pub async fn nothing_is_kept_of_ipv4_when_ipv6_fails(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/30")).await;
    subject.get(&pod("first"), exactly6("2001:db8::7")).await;
    let before = subject.ipam.usage().await.unwrap();
    let late = pod("late");
    for ipv6 in ["2001:db8::7", "2001:db8::", "2001:db8:1::1"] {
        let request = AddressRequest { ipv6: FamilyRequest::Exactly(v6(ipv6)), ..both() };
        subject.refuse(&late, request).await;
        assert_eq!(subject.ipam.usage().await.unwrap(), before, "{request:?}");
    }
    assert_eq!(subject.drain_ipv4("others").await.len(), 2);
}

/// The same owner, the same addresses, whatever the algorithm.
pub async fn repeated_requests_get_the_same_addresses(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/24")).await;
    for algorithm in [Algorithm::Sequential, Algorithm::Random, Algorithm::Stable] {
        let owner = pod(&format!("{algorithm:?}").to_lowercase());
        let request = AddressRequest { algorithm, ..both() };
        let first = subject.get(&owner, request).await;
        subject.get(&pod(&format!("between-{algorithm:?}").to_lowercase()), both()).await;
        assert_eq!(subject.get(&owner, request).await, first, "{algorithm:?}");
    }
    let usage = subject.ipam.usage().await.unwrap();
    assert_eq!(usage.iter().map(|usage| usage.in_use).collect::<Vec<_>>(), [6, 6]);
}

/// The prefix changed since, or is not there any more.
pub async fn repeated_requests_get_the_same_addresses_after_configure(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/24")).await;
    let first = subject.get(&pod("one"), both()).await;
    for cidrs in [dual("2001:db8:1::/64", "10.0.1.0/24"), NodeCidrs::default()] {
        subject.ipam.configure(cidrs, &[]).await.unwrap();
        assert_eq!(subject.get(&pod("one"), both()).await, first, "{cidrs:?}");
    }
}

/// A held address is neither swapped nor passed off as another one.
pub async fn something_else_than_is_held_needs_a_release(subject: Subject) {
    let subject = subject.with(dual("2001:db8::/64", "10.0.0.0/24")).await;
    let owner = pod("one");
    let held = subject.get(&owner, exactly4("10.0.0.7")).await;
    let before = subject.ipam.usage().await.unwrap();
    let expected = IpamError::HoldsOther { owner: owner.clone(), held };
    for other in [exactly4("10.0.0.8"), from4("10.0.0.128/25"), both(), ipv6(FamilyRequest::Any)] {
        assert_eq!(subject.refuse(&owner, other).await, expected, "{other:?}");
    }
    assert_eq!(subject.ipam.usage().await.unwrap(), before);
    for same in [exactly4("10.0.0.7"), from4("10.0.0.0/25"), ipv4(FamilyRequest::Any), stable4()] {
        assert_eq!(subject.get(&owner, same).await, held, "{same:?}");
    }
    subject.release(&owner).await;
    assert_eq!(subject.get(&owner, exactly4("10.0.0.8")).await, only4("10.0.0.8"));
}

/// Of what is not held any more, and of what never was.
pub async fn release_is_idempotent(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/24")).await;
    subject.release(&pod("unknown")).await;
    assert_eq!(subject.counts().await, (0, 0));
    subject.get(&pod("one"), ipv4(FamilyRequest::Any)).await;
    for _ in 0..2 {
        subject.release(&pod("one")).await;
        assert_eq!(subject.counts().await, (0, 1));
    }
}

/// Another interface of the same container keeps its addresses.
pub async fn release_is_of_one_attachment_only(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/24")).await;
    let eth0 = pod("one");
    let mut net1 = eth0.clone();
    net1.key.interface = InterfaceName::new("net1").unwrap();
    let first = subject.get(&eth0, ipv4(FamilyRequest::Any)).await;
    let second = subject.get(&net1, ipv4(FamilyRequest::Any)).await;
    assert_ne!(first, second);
    subject.release(&eth0).await;
    assert_eq!(subject.counts().await, (1, 1));
    assert_eq!(subject.get(&net1, ipv4(FamilyRequest::Any)).await, second);
}
