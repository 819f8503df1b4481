//! The contract's own suite, with a BIRD that runs and a router that listens.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flock_bird::{BirdAnnouncer, BirdConfig};
use flock_core::announcer::conformance::{AnnouncerHarness, Observed};
use flock_core::announcer::{AnnounceError, Announcements, RouteAnnouncer};
use ipnet::IpNet;

use crate::lab::{Bird, Lab, wanted};

/// How long BIRD and the router may take after a state was applied.
const DEADLINE: Duration = Duration::from_secs(20);

struct Harness {
    announcer: Noting,
    bird: Bird,
    lab: Lab,
}

impl Harness {
    async fn new() -> Self {
        let lab = Lab::new(&[]);
        // The Dataplane's part: more routes than are wanted at any time.
        for prefix in ["10.0.1.0/24", "2001:db8:1::/64"] {
            lab.node.ip(&format!("route add blackhole {prefix} proto 70"));
        }
        for address in ["198.51.100.53/32", "2001:db8:a::53/128", "2001:db8:a::54/128"] {
            lab.node.ip(&format!("route add {address} dev lo proto 70"));
        }
        // BIRD runs already, with a configuration of somebody else's.
        fs::write(lab.config().config_path, "router id 192.0.2.9;\nlog stderr all;\nprotocol device {}\n")
            .unwrap();
        let bird = lab.start_bird();
        assert!(bird.ask("show status").await.is_success());
        let config = BirdConfig { debounce: Duration::from_millis(50), ..lab.config() };
        let announcer = BirdAnnouncer::start(&config).unwrap();
        Self { announcer: Noting { announcer, accepted: Mutex::default() }, bird, lab }
    }

    /// What the router has; of a family that no session carries, what BIRD would tell it.
    async fn announced(&self, accepted: &Announcements) -> Observed {
        let mut prefixes = BTreeSet::new();
        for (version, is_v4) in [("4", true), ("6", false)] {
            let has_session =
                accepted.peers.iter().any(|peer| peer.neighbor.address().unwrap().is_ipv4() == is_v4);
            let routes: BTreeSet<IpNet> = if has_session {
                self.lab.router.routes_of(&format!("node{version}")).await
            } else {
                self.bird.routes_of(&format!("flock_kernel{version}")).await
            };
            prefixes.extend(routes);
        }
        Observed { prefixes, peers: self.bird.neighbors().await }
    }
}

#[async_trait]
impl AnnouncerHarness for Harness {
    fn announcer(&self) -> &dyn RouteAnnouncer {
        &self.announcer
    }

    fn wanted(&self) -> Announcements {
        wanted(&["198.51.100.53", "2001:db8:a::53"])
    }

    async fn observe(&self) -> Observed {
        self.announcer.announcer.applied().await.unwrap();
        let accepted = self.announcer.accepted.lock().unwrap().clone().unwrap();
        // BGP takes its time: what is wrong at the deadline is wrong.
        let deadline = Instant::now() + DEADLINE;
        loop {
            let observed = self.announced(&accepted).await;
            if observed == Observed::expected(&accepted) || Instant::now() > deadline {
                return observed;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn changes(&self) -> u64 {
        self.announcer.announcer.applied().await.unwrap();
        self.bird.reconfigurations().try_into().unwrap()
    }
}

/// Remembers what was accepted.
#[derive(Debug)]
struct Noting {
    announcer: BirdAnnouncer,
    accepted: Mutex<Option<Announcements>>,
}

#[async_trait]
impl RouteAnnouncer for Noting {
    async fn sync(&self, wanted: &Announcements) -> Result<(), AnnounceError> {
        self.announcer.sync(wanted).await?;
        *self.accepted.lock().unwrap() = Some(wanted.clone());
        Ok(())
    }
}

flock_core::announcer_conformance!(Harness::new().await);
