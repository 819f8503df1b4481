//! The sessions in the status: how soon, and how often it is written.

use flock_bird::peers::{Family, FamilyRoutes, PeerStatus};
use flock_bird::protocols::SessionState;

use super::passwords::{peers, secret};
use super::*;

fn seen(state: SessionState, received: u64) -> Peers {
    let families = vec![FamilyRoutes { family: Family::Ipv4, received, advertised: 1 }];
    Peers::Known(vec![PeerStatus {
        name: "a".to_owned(),
        address: None,
        asn: None,
        state,
        since: None,
        families,
        last_error: None,
    }])
}

fn bgp_of(status: &Value) -> &Value {
    &status[1]["value"]["bgp"]
}

#[tokio::test(start_paused = true)]
async fn a_session_that_changes_is_told_soon_and_counts_now_and_then() {
    let api = Api::with(peers(&[json!({}), secret("none", "x")]));
    let directory = tempfile::tempdir().unwrap();
    let mut member = api.member(&directory);
    let (handler, _) = handler(member.node_config(&unready()).await).await;
    let bird = watch::Sender::new(seen(SessionState::Active, 0));
    let sessions = Sessions::new(watch::channel(BirdStatus::Idle).1, bird.subscribe());
    let status = "/nodeconfigs/host001/status";
    following(member, &handler, Some(sessions), async {
        let first = api.wrote(status, |status| bgp_of(status)["established"] == "0/2").await;
        assert_eq!(bgp_of(&first)["peers"][0]["state"], "Active");
        let refused = bgp_of(&first)["peers"][1]["lastError"].as_str().unwrap();
        assert!(refused.contains("the key x of the Secret none"), "{refused}");
        // Not only with the next round.
        for (n, state) in
            [(1, SessionState::Established), (2, SessionState::Idle), (3, SessionState::Established)]
        {
            let (started, asked) = (Instant::now(), api.asked().len());
            bird.send_replace(seen(state.clone(), 0));
            api.wrote(status, |status| bgp_of(status)["peers"][0]["state"] == state.as_str()).await;
            let took = started.elapsed();
            assert!(took <= Duration::from_millis(1_200), "{took:?} at {n}");
            assert!(api.asked().len() <= asked + 1, "Secrets are asked for with each change of a session");
        }
        let before = api.count(status);
        for second in 1..=60 {
            bird.send_replace(seen(SessionState::Established, second));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let written = api.count(status) - before;
        assert!((10..=13).contains(&written), "{written} in a minute");
    })
    .await;
}
