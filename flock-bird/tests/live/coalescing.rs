//! Many changes in a short time.

use std::fs;
use std::time::Duration;

use flock_core::announcer::RouteAnnouncer as _;
use tokio::time::{MissedTickBehavior, interval};

use crate::lab::{Lab, wanted};

const CHANGES: usize = 2_000;
/// So that they take ten seconds.
const PAUSE: Duration = Duration::from_millis(5);

#[tokio::test]
async fn two_thousand_changes_in_ten_seconds_are_few_configurations_and_end_with_the_last() {
    let lab = Lab::new(&[]);
    let addresses: Vec<String> = (1..=64).map(|number| format!("2001:db8:a::{number:x}")).collect();
    for address in &addresses {
        lab.node.ip(&format!("-6 route add {address}/128 dev lo proto 70"));
    }
    // Of neighbouring numbers no two are the same.
    let state = |number: usize| -> Vec<&str> {
        let wanted = addresses.iter().enumerate().filter(|(place, _)| (number * 37 + place * 11) % 64 < 20);
        wanted.map(|(_, address)| address.as_str()).collect()
    };
    let (announcer, bird) = lab.announcing(&wanted(&[])).await;
    let before = (bird.since("peer_tor-v6").await, bird.reconfigurations());
    let mut pace = interval(PAUSE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1..=CHANGES {
        pace.tick().await;
        announcer.sync(&wanted(&state(number))).await.unwrap();
    }
    announcer.applied().await.unwrap();
    let last: Vec<String> = state(CHANGES).iter().map(|address| format!("{address}/128")).collect();
    lab.router_has(&last.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // One each half second, or somewhat longer where the machine is busy.
    let configurations = bird.reconfigurations() - before.1;
    assert!((10..=40).contains(&configurations), "{configurations} times");
    assert!(bird.since("peer_tor-v6").await == before.0, "the session was reset");
}

/// What the kernel tells waits for BIRD, which may be busy. Of what there is no room for BIRD would hear
/// only when it looks at the whole table the next time, up to ten seconds later.
#[tokio::test]
async fn of_a_thousand_routes_at_once_none_is_missed() {
    let lab = Lab::new(&[]);
    let addresses: Vec<String> = (1..=1_000).map(|number| format!("2001:db8:a::{number:x}")).collect();
    let state = wanted(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let (_announcer, bird) = lab.announcing(&state).await;
    let prefixes: Vec<String> = addresses.iter().map(|address| format!("{address}/128")).collect();
    let all: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    for (verb, expected) in [("add", &all[..]), ("del", &[])] {
        let lines = all.iter().map(|prefix| format!("route {verb} blackhole {prefix} proto 70\n"));
        let batch = lab.directory.path().join(verb);
        fs::write(&batch, lines.collect::<String>()).unwrap();
        bird.signal("STOP");
        lab.node.ip(&format!("-6 -batch {}", batch.display()));
        bird.signal("CONT");
        lab.router_has(expected).await;
    }
    let said = bird.said();
    assert!(!said.contains("dropped some netlink messages"), "{said}");
}
