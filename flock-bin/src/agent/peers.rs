//! The sessions with the NodeConfig's BGP peers: asked of BIRD, and each change said once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use flock_bird::BirdAnnouncer;
use flock_bird::control::Client;
use flock_bird::peers::{PeerObserver, PeerStatus, Peers};
use flock_bird::query::QueryError;
use tokio::sync::watch;

use crate::agent::metrics::Metrics;
use crate::agent::options::Options;
use crate::agent::tasks::Tasks;

/// Has BIRD asked as long as the agent runs: changes are logged, and `metrics` have what is known.
/// So has whoever takes the receiver.
pub(super) fn observe(
    bird: &BirdAnnouncer,
    options: &Options,
    metrics: &Metrics,
    tasks: &mut Tasks,
) -> watch::Receiver<Peers> {
    let client = Client::new(&options.bird_socket, options.birdc_timeout);
    let observer = PeerObserver::new(client, bird.status());
    let peers = observer.peers();
    metrics.bgp(peers.clone());
    let (mut log, mut logged, stopping) = (Log::default(), peers.clone(), tasks.stopping());
    tasks.spawn("the task that watches BGP sessions", async move {
        let logging = async {
            while logged.changed().await.is_ok() {
                let peers = logged.borrow_and_update().clone();
                log.changes(&peers).iter().for_each(Change::say);
            }
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(observer.run(), logging) } => {}
            () = stopping => {}
        }
    });
    peers
}

/// How many reasons are said for one and the same session that does not come up.
const REASONS: usize = 16;

/// What was said.
#[derive(Debug, Default)]
struct Log {
    away: bool,
    peers: BTreeMap<String, Said>,
}

/// The last word on a peer.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Up {
        since: Option<SystemTime>,
    },
    /// With all reasons that BIRD has given meanwhile: two of them may take turns.
    Down {
        reasons: BTreeSet<String>,
    },
}

/// Something that is to be said.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// A session has come up, maybe once more.
    Up(PeerStatus),
    /// It is there, and not up yet.
    Waiting(PeerStatus),
    /// It is not up any more, or does not come up for another reason.
    Down(PeerStatus),
    /// BIRD has no such session any more.
    Gone(String),
    /// BIRD does not answer.
    Away(QueryError),
    /// It does again.
    Back,
}

impl Log {
    /// What is new in `peers`. While BIRD is away nothing is known, so that nothing changes.
    fn changes(&mut self, peers: &Peers) -> Vec<Change> {
        let known = match peers {
            Peers::Unknown => return Vec::new(),
            Peers::Away(_) if self.away => return Vec::new(),
            Peers::Away(error) => {
                self.away = true;
                return vec![Change::Away(error.clone())];
            }
            Peers::Known(known) => known,
        };
        let mut changes = Vec::new();
        if std::mem::take(&mut self.away) {
            changes.push(Change::Back);
        }
        self.peers.retain(|name, _| {
            let stays = known.iter().any(|peer| peer.name == *name);
            if !stays {
                changes.push(Change::Gone(name.clone()));
            }
            stays
        });
        changes.extend(known.iter().filter_map(|peer| self.change(peer)));
        changes
    }

    fn change(&mut self, peer: &PeerStatus) -> Option<Change> {
        let reasons = || peer.last_error.iter().cloned().collect();
        let said = self.peers.get_mut(&peer.name);
        if peer.is_up() {
            let now = Said::Up { since: peer.since };
            if said.as_deref() == Some(&now) {
                return None;
            }
            self.peers.insert(peer.name.clone(), now);
            return Some(Change::Up(peer.clone()));
        }
        match said {
            Some(Said::Down { reasons }) => {
                let reason = peer.last_error.clone()?;
                let is_new = reasons.len() < REASONS && reasons.insert(reason);
                is_new.then(|| Change::Down(peer.clone()))
            }
            Some(said) => {
                *said = Said::Down { reasons: reasons() };
                Some(Change::Down(peer.clone()))
            }
            None => {
                self.peers.insert(peer.name.clone(), Said::Down { reasons: reasons() });
                Some(if peer.last_error.is_some() { Change::Down } else { Change::Waiting }(peer.clone()))
            }
        }
    }
}

impl Change {
    fn say(&self) {
        match self {
            Self::Up(PeerStatus { name, asn, .. }) => {
                tracing::info!(peer = %name, address = self.address(), asn, "the BGP session is up");
            }
            Self::Waiting(PeerStatus { name, asn, state, .. }) => {
                tracing::info!(peer = %name, address = self.address(), asn, %state, "the BGP session is not up yet");
            }
            Self::Down(PeerStatus { name, asn, state, last_error, .. }) => {
                tracing::warn!(
                    peer = %name, address = self.address(), asn, %state, error = last_error.as_deref(),
                    "the BGP session is down"
                );
            }
            Self::Gone(name) => {
                tracing::info!(peer = %name, "BIRD has no BGP session with this peer any more");
            }
            Self::Away(error) => {
                tracing::warn!(%error, "BIRD does not answer; how the BGP sessions are is not known");
            }
            Self::Back => tracing::info!("BIRD answers again"),
        }
    }

    fn address(&self) -> Option<String> {
        match self {
            Self::Up(peer) | Self::Waiting(peer) | Self::Down(peer) => {
                peer.address.as_ref().map(ToString::to_string)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flock_bird::control::ControlError;
    use flock_bird::protocols::SessionState;

    use super::*;

    fn peer(name: &str, state: SessionState, error: Option<&str>) -> PeerStatus {
        PeerStatus {
            name: name.to_owned(),
            address: None,
            asn: Some(64500),
            state,
            since: Some(SystemTime::UNIX_EPOCH),
            families: Vec::new(),
            last_error: error.map(str::to_owned),
        }
    }

    fn up(name: &str) -> PeerStatus {
        peer(name, SessionState::Established, None)
    }

    fn down(name: &str, error: Option<&str>) -> PeerStatus {
        peer(name, SessionState::Active, error)
    }

    fn away() -> QueryError {
        ControlError::Unreachable { socket: "bird.ctl".into(), reason: "of this test".into() }.into()
    }

    fn said(log: &mut Log, peers: &[PeerStatus]) -> Vec<Change> {
        log.changes(&Peers::Known(peers.to_vec()))
    }

    #[test]
    fn a_session_that_comes_up_is_said_once_and_once_more_if_it_began_anew() {
        let mut log = Log::default();
        assert_eq!(log.changes(&Peers::Unknown), []);
        assert_eq!(said(&mut log, &[down("a", None)]), [Change::Waiting(down("a", None))]);
        assert_eq!(said(&mut log, &[down("a", None)]), []);
        assert_eq!(said(&mut log, &[up("a")]), [Change::Up(up("a"))]);
        assert_eq!(said(&mut log, &[up("a")]), []);
        let later = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(9));
        let again = PeerStatus { since: later, ..up("a") };
        assert_eq!(said(&mut log, std::slice::from_ref(&again)), [Change::Up(again.clone())]);
        let counted = flock_bird::peers::FamilyRoutes {
            family: flock_bird::peers::Family::Ipv4,
            received: 7,
            advertised: 1,
        };
        let busier = PeerStatus { families: vec![counted], ..again };
        assert_eq!(said(&mut log, &[busier]), [], "routes are no change of the session");
    }

    #[test]
    fn each_reason_of_a_session_that_is_down_is_said_once() {
        let mut log = Log::default();
        let (first, second) = (down("a", Some("first")), down("a", Some("second")));
        said(&mut log, &[up("a"), up("b")]);
        assert_eq!(said(&mut log, &[first.clone(), up("b")]), [Change::Down(first.clone())]);
        assert_eq!(said(&mut log, &[second.clone(), up("b")]), [Change::Down(second.clone())]);
        for peer in [&first, &second, &down("a", None), &peer("a", SessionState::Idle, Some("first"))] {
            assert_eq!(said(&mut log, &[peer.clone(), up("b")]), []);
        }
        assert_eq!(said(&mut log, &[up("a"), up("b")]), [Change::Up(up("a"))]);
        assert_eq!(said(&mut log, &[first.clone(), up("b")]), [Change::Down(first)], "it is another time");
        let many: Vec<_> = (0..100).map(|n| down("c", Some(&n.to_string()))).collect();
        let lines: usize = many.iter().map(|peer| said(&mut log, std::slice::from_ref(peer)).len()).sum();
        assert_eq!(lines, REASONS + 2, "and that a and b are gone");
    }

    #[test]
    fn a_bird_that_is_away_is_said_once_and_changes_no_session() {
        let mut log = Log::default();
        said(&mut log, &[up("a"), down("b", Some("first"))]);
        assert_eq!(log.changes(&Peers::Away(away())), [Change::Away(away())]);
        assert_eq!(log.changes(&Peers::Away(away())), []);
        let back = said(&mut log, &[up("a"), down("b", Some("first"))]);
        assert_eq!(back, [Change::Back]);
        assert_eq!(said(&mut log, &[up("a")]), [Change::Gone("b".to_owned())]);
    }
}
