//! The sessions with BGP peers as the NodeConfig's status shows them: [`Sessions`].

use std::collections::BTreeMap;

use flock_bird::announcer::Status as BirdStatus;
use flock_bird::peers::{Family, PeerStatus as Seen, Peers};
use flock_core::announcer::AnnounceError;
use flock_core::node_config::{Bgp, Peer};
use flock_k8s::node_config::{BgpStatus, PeerStatus, RoutesStatus};
use tokio::sync::watch;

/// The one that has the sessions, as far as somebody watches it.
#[derive(Debug)]
pub(super) struct Sessions {
    bird: watch::Receiver<BirdStatus>,
    peers: watch::Receiver<Peers>,
    /// What [`changed`](Self::changed) has seen.
    seen: Peers,
}

impl Sessions {
    pub(super) fn new(bird: watch::Receiver<BirdStatus>, peers: watch::Receiver<Peers>) -> Self {
        Self { bird, peers, seen: Peers::Unknown }
    }

    /// Waits until something else than counts of routes is different. Cancel safe.
    pub(super) async fn changed(&mut self) {
        while self.peers.changed().await.is_ok() {
            let now = without_counts(&self.peers.borrow_and_update());
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Why the network does not hear of the node, where it does not.
    pub(super) fn failure(&self) -> Option<AnnounceError> {
        match &*self.bird.borrow() {
            BirdStatus::Failed { error, .. } => Some(error.clone()),
            BirdStatus::Idle | BirdStatus::Pending { .. } | BirdStatus::Applied { .. } => None,
        }
    }

    /// How the sessions with the peers of `bgp` are now.
    pub(super) fn status(&self, bgp: &Bgp) -> BgpStatus {
        status(bgp, &self.peers.borrow())
    }
}

fn without_counts(peers: &Peers) -> Peers {
    match peers {
        Peers::Known(known) => {
            Peers::Known(known.iter().map(|peer| Seen { families: Vec::new(), ..peer.clone() }).collect())
        }
        other => other.clone(),
    }
}

/// Every peer of `bgp`, whatever BIRD has; those that are refused behind the others.
fn status(bgp: &Bgp, peers: &Peers) -> BgpStatus {
    let known: BTreeMap<&str, &Seen> = match peers {
        Peers::Known(known) => known.iter().map(|peer| (peer.name.as_str(), peer)).collect(),
        Peers::Unknown | Peers::Away(_) => BTreeMap::new(),
    };
    let message = match peers {
        Peers::Away(error) => Some(format!("BIRD does not answer: {error}")),
        Peers::Unknown | Peers::Known(_) => None,
    };
    let valid = bgp.peers.iter().map(|peer| session(peer, known.get(peer.name.as_str()).copied()));
    let refused = bgp.refused.iter().map(|refused| PeerStatus {
        name: refused.name.clone(),
        state: "Refused".to_owned(),
        last_error: Some(refused.problems.join("; ")),
        ..PeerStatus::default()
    });
    let up = bgp.peers.iter().filter(|peer| known.get(peer.name.as_str()).is_some_and(|seen| seen.is_up()));
    let up = if message.is_some() { "?".to_owned() } else { up.count().to_string() };
    let established = format!("{up}/{}", bgp.peers.len() + bgp.refused.len());
    BgpStatus { established, message, peers: valid.chain(refused).collect(), ..BgpStatus::default() }
}

fn session(peer: &Peer, seen: Option<&Seen>) -> PeerStatus {
    let configured = PeerStatus {
        name: peer.name.clone(),
        address: Some(peer.neighbor.to_string()),
        asn: Some(peer.asn),
        state: "Unknown".to_owned(),
        ..PeerStatus::default()
    };
    let Some(seen) = seen else { return configured };
    let routes = |family| {
        let of_family = seen.families.iter().find(|routes| routes.family == family)?;
        Some(RoutesStatus::new(of_family.received, of_family.advertised))
    };
    let status = PeerStatus {
        // That of a peer without one is known once it has opened the session.
        address: seen.address.as_ref().map(ToString::to_string).or(configured.address),
        state: seen.state.to_string(),
        last_error: seen.last_error.clone(),
        ipv4: routes(Family::Ipv4),
        ipv6: routes(Family::Ipv6),
        ..configured
    };
    status.since(seen.since)
}

#[cfg(test)]
mod tests;
