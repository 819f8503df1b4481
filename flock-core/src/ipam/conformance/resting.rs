//! What was released rests.

use super::*;

/// Until the last instant of its period, and not after it.
pub async fn released_addresses_rest(subject: Subject) {
    for (n, algorithm) in
        [Algorithm::Sequential, Algorithm::Random, Algorithm::Stable].into_iter().enumerate()
    {
        let prefix = format!("10.0.{n}.0/30");
        subject.ipam.configure(v4_only(&prefix), &[]).await.unwrap();
        let [gone, stays, next] = ["gone", "stays", "next"].map(|name| pod(&format!("{name}-{n}")));
        let request = AddressRequest { algorithm, ..ipv4(FamilyRequest::Any) };
        let rested = subject.get(&gone, request).await;
        subject.get(&stays, request).await;

        subject.release(&gone).await;
        assert_eq!(subject.refuse(&next, request).await, full(&prefix, 2, 1, 1), "{algorithm:?}");
        let instant = Duration::from_nanos(1);
        (subject.advance)(subject.rest.saturating_sub(instant));
        assert_eq!(subject.refuse(&next, request).await, full(&prefix, 2, 1, 1), "{algorithm:?}");
        (subject.advance)(instant);
        assert_eq!(subject.get(&next, request).await, rested, "{algorithm:?}");
    }
}

/// The operator named it: it is given to whoever asks.
pub async fn resting_addresses_are_given_when_asked_for_exactly(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/24")).await;
    subject.get(&pod("gone"), exactly4("10.0.0.7")).await;
    subject.release(&pod("gone")).await;
    assert_eq!(subject.get(&pod("next"), exactly4("10.0.0.7")).await, only4("10.0.0.7"));
    assert_eq!(subject.counts().await, (1, 0));
    // The end of the interrupted rest does not make it free.
    subject.let_rest_pass();
    let given = subject.drain_ipv4("others").await;
    assert!(!given.contains(&v4("10.0.0.7")));
    assert_eq!(given.len(), 253);
}

/// To that pod at once, to others not.
pub async fn resting_addresses_are_given_back_to_their_stable_pod(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/30")).await;
    let held = subject.get(&pod("web-0"), stable4()).await;
    subject.get(&pod("web-1"), stable4()).await;
    subject.release(&pod("web-0")).await;
    for request in [stable4(), ipv4(FamilyRequest::Any)] {
        assert_eq!(subject.refuse(&pod("web-2"), request).await, full("10.0.0.0/30", 2, 1, 1));
    }
    assert_eq!(subject.get(&pod_again("web-0"), stable4()).await, held);
    assert_eq!(subject.counts().await, (2, 0));
}

/// A new prefix and the old one again: what rested rests on.
pub async fn resting_outlasts_configure(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.0/30")).await;
    subject.get(&pod("gone"), exactly4("10.0.0.1")).await;
    subject.release(&pod("gone")).await;
    for prefix in ["10.0.1.0/30", "10.0.0.0/30"] {
        subject.ipam.configure(v4_only(prefix), &[]).await.unwrap();
    }
    assert_eq!(subject.counts().await, (0, 1));
    assert_eq!(subject.drain_ipv4("early").await, BTreeSet::from([v4("10.0.0.2")]));
    subject.let_rest_pass();
    assert_eq!(subject.drain_ipv4("late").await, BTreeSet::from([v4("10.0.0.1")]));
}

/// Given and released again within one period: the new rest counts in full.
pub async fn rest_begins_with_the_last_release(subject: Subject) {
    let subject = subject.with(v4_only("10.0.0.1/32")).await;
    let half = subject.rest / 2;
    for name in ["first", "second"] {
        subject.get(&pod(name), exactly4("10.0.0.1")).await;
        subject.release(&pod(name)).await;
        (subject.advance)(half);
    }
    // The first rest would be over here.
    (subject.advance)(subject.rest.saturating_sub(half * 2));
    assert_eq!(subject.refuse(&pod("next"), ipv4(FamilyRequest::Any)).await, full("10.0.0.1/32", 1, 0, 1));
    (subject.advance)(half);
    assert_eq!(subject.get(&pod("next"), ipv4(FamilyRequest::Any)).await, only4("10.0.0.1"));
}
