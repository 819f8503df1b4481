//! What somebody else does is told, and what the backend does itself is not.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::timeout;

use super::{DataplaneHarness, anycast_v6, attached, attached_server, server};
use crate::dataplane::{AnycastRoute, Dataplane, Disturbance, Link};

/// After this, nothing is going to be told any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Of two attachments, the one whose route it was.
pub async fn a_lost_route_is_told(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let (one, two) = (attached(harness, 1).await, attached(harness, 2).await);
    for attachment in [&two, &one] {
        harness.lose_route(attachment).await;
        let expected = Disturbance::of_interface(attachment.host_interface.clone());
        assert_eq!(told(dataplane).await, expected);
        dataplane.attach(attachment).await.unwrap();
    }
}

/// The node's own routes are told as such.
pub async fn a_lost_summary_is_told(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.set_summaries(&BTreeSet::from([prefix()])).await.unwrap();
    harness.lose_summary(prefix()).await;
    assert_eq!(told(dataplane).await, Disturbance::of_node());
}

/// Also when nobody was listening, or somebody was who has gone away.
pub async fn what_happens_between_two_calls_is_told(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let attachment = attached(harness, 1).await;
    let waited = timeout(Duration::from_millis(1), dataplane.disturbed()).await;
    assert!(waited.is_err(), "{waited:?}");
    harness.lose_route(&attachment).await;
    assert_eq!(told(dataplane).await, Disturbance::of_interface(attachment.host_interface));
}

/// The life of an attachment is no disturbance, whatever it shares with others.
pub async fn own_changes_are_not_told(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    dataplane.set_summaries(&BTreeSet::from([prefix()])).await.unwrap();
    let (one, two) = (attached_server(harness, 1).await, attached_server(harness, 2).await);
    let both = [AnycastRoute::announced(anycast_v6(), vec![server(&one), server(&two)])];
    dataplane.set_anycast(&both).await.unwrap();
    dataplane.attach(&one).await.unwrap();
    let left = [AnycastRoute::announced(anycast_v6(), vec![server(&two)])];
    dataplane.set_anycast(&left).await.unwrap();
    dataplane.detach(&one).await.unwrap();
    dataplane.reap(&[Link::of(&one)]).await.unwrap();
    dataplane.set_summaries(&BTreeSet::new()).await.unwrap();
    dataplane.prepare().await.unwrap();

    // Notices come in order: what was told of all that would come first, or with this.
    harness.lose_route(&two).await;
    assert_eq!(told(dataplane).await, Disturbance::of_interface(two.host_interface.clone()));
    dataplane.attach(&two).await.unwrap();
    dataplane.set_anycast(&[]).await.unwrap();
    dataplane.reap(&[Link::of(&two)]).await.unwrap();
    let three = attached(harness, 3).await;
    harness.lose_route(&three).await;
    assert_eq!(told(dataplane).await, Disturbance::of_interface(three.host_interface));
}

async fn told(dataplane: &dyn Dataplane) -> Disturbance {
    timeout(PATIENCE, dataplane.disturbed()).await.unwrap().unwrap()
}

fn prefix() -> IpNet {
    "2001:db8:1::/64".parse().unwrap()
}
