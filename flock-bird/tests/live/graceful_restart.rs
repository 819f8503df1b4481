//! A BIRD that is replaced by another one (RFC 4724).

use std::collections::BTreeSet;

use crate::lab::{Lab, eventually, wanted};

#[tokio::test]
async fn neither_the_router_nor_the_kernel_loses_a_route_while_bird_is_replaced() {
    let foreign = ["203.0.113.0/24", "2001:db8:cafe::/48"];
    let lab = Lab::new(&foreign);
    lab.node.ip("route add blackhole 10.0.1.0/24 proto 70");
    lab.node.ip("-6 route add blackhole 2001:db8:1::/64 proto 70");
    let (_announcer, bird) = lab.announcing(&wanted(&[])).await;
    let own = ["10.0.1.0/24", "2001:db8:1::/64"];
    lab.router_has(&own).await;
    let by_bird = BTreeSet::from(foreign.map(str::to_owned));
    eventually("the router's routes are in the kernel", async || lab.node.routes_by_bird() == by_bird).await;
    let before = (lab.router.since("node4").await, lab.router.since("node6").await);

    bird.end_for_restart().await;
    eventually("the router has noticed", async || !lab.router.is_established("node4").await).await;
    assert_eq!(lab.node.routes_by_bird(), by_bird, "while BIRD is away");
    let own: BTreeSet<_> = own.map(|prefix| prefix.parse().unwrap()).into();
    let kept = async || {
        let mut found = lab.router.routes_of("node4").await;
        found.extend(lab.router.routes_of("node6").await);
        assert_eq!(found, own, "the router lost a route");
        assert_eq!(lab.node.routes_by_bird(), by_bird, "the kernel lost a route");
    };
    kept().await;

    let bird = lab.restart_bird();
    for session in ["peer_tor-v4", "peer_tor-v6"] {
        eventually(session, async || {
            kept().await;
            bird.is_established(session).await
        })
        .await;
    }
    // Until both sides are done with what was kept.
    eventually("BIRD has recovered", async || {
        kept().await;
        let status = bird.ask("show status").await;
        !status.lines().any(|line| line.text.contains("Graceful restart recovery in progress"))
    })
    .await;
    let after = (lab.router.since("node4").await, lab.router.since("node6").await);
    assert_ne!(before, after, "the sessions did not end: nothing was shown");
}
