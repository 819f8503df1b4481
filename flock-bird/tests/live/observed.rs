//! The sessions with Flock's peers, observed.

use std::time::{Duration, SystemTime};

use flock_bird::peers::{Family, PeerObserver, PeerStatus, Peers};
use tokio::sync::watch;

use crate::lab::{Lab, wanted};

const DEADLINE: Duration = Duration::from_secs(30);

async fn until(peers: &mut watch::Receiver<Peers>, holds: impl Fn(&Peers) -> bool) -> Peers {
    if let Ok(known) = tokio::time::timeout(DEADLINE, peers.wait_for(|peers| holds(peers))).await {
        return known.unwrap().clone();
    }
    panic!("not within {DEADLINE:?}: {:?}", peers.borrow());
}

fn are(peers: &Peers, holds: impl Fn(&PeerStatus) -> bool) -> bool {
    matches!(peers, Peers::Known(all) if all.len() == 2 && all.iter().all(holds))
}

#[tokio::test]
async fn sessions_that_come_and_go_and_a_bird_that_does() {
    let lab = Lab::new(&["203.0.113.0/24"]);
    lab.node.ip("route add blackhole 10.0.1.0/24 proto 70");
    let started = SystemTime::now();
    let (announcer, bird) = lab.announcing(&wanted(&[])).await;
    let observer = PeerObserver::new(bird.client().clone(), announcer.status());
    let mut peers = observer.peers();
    assert_eq!(*peers.borrow(), Peers::Unknown);
    let observing = tokio::spawn(observer.run());

    let routes = |peer: &PeerStatus| -> Vec<_> {
        peer.families.iter().map(|family| (family.family, family.received, family.advertised)).collect()
    };
    let is_known = |peers: &Peers| {
        are(peers, PeerStatus::is_up)
            && matches!(peers, Peers::Known(all) if routes(&all[0]) == [(Family::Ipv4, 1, 1)])
    };
    let Peers::Known(up) = until(&mut peers, is_known).await else { unreachable!() };
    let [v4, v6] = up.as_slice() else { panic!("{up:?}") };
    assert_eq!((v4.name.as_str(), v6.name.as_str()), ("tor-v4", "tor-v6"));
    assert_eq!(v4.address.as_ref().unwrap().to_string(), "192.0.2.254");
    assert_eq!(v6.address.as_ref().unwrap().to_string(), "2001:db8:ffff::1");
    assert_eq!((v4.asn, &v4.last_error), (Some(64500), &None));
    assert_eq!(routes(v6), [(Family::Ipv6, 0, 0)]);
    let since = v4.since.expect("Flock has BIRD tell exact times");
    assert!(since >= started - Duration::from_secs(1) && since <= SystemTime::now(), "{since:?}");

    lab.router.ask("disable node4").await;
    let gone = |peers: &Peers| matches!(peers, Peers::Known(all) if !all[0].is_up() && all[1].is_up());
    let Peers::Known(down) = until(&mut peers, gone).await else { unreachable!() };
    // That the router has ended it, or already that it does not listen.
    assert!(down[0].last_error.is_some(), "{down:?}");
    assert_eq!(down[1].since, v6.since, "that of the other one is the same");

    lab.router.ask("enable node4").await;
    let Peers::Known(again) = until(&mut peers, |peers| are(peers, PeerStatus::is_up)).await else {
        unreachable!()
    };
    assert!(again[0].since > v4.since, "{again:?}");

    bird.kill();
    let away = until(&mut peers, |peers| matches!(peers, Peers::Away(_))).await;
    let Peers::Away(error) = away else { unreachable!() };
    assert!(error.to_string().contains("bird.ctl"), "{error}");
    let _bird = lab.start_bird();
    until(&mut peers, |peers| are(peers, PeerStatus::is_up)).await;
    observing.abort();
}
