//! What Flock's peers are in BIRD's answers, one after the other.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use flock_core::excerpt;
use jiff::civil::DateTime;
use tokio::time::Instant;

use super::{Family, FamilyRoutes, PeerStatus};
use crate::protocols::{Channel, Protocol, SessionState};
use crate::render::{dynamic_peer_of, peer_of};

/// BIRD reckons each time anew from its monotonic clock, and takes a moment to answer. What differs
/// by less is the same time; a session takes longer to come back.
const SAME: Duration = Duration::from_millis(500);

/// Since when each peer's session is as it is.
#[derive(Debug, Default)]
pub(super) struct Seen {
    since: BTreeMap<String, Since>,
}

#[derive(Debug, Clone, Copy)]
struct Since {
    /// How long it had been so when BIRD was asked.
    age: Duration,
    asked: Instant,
    /// For people.
    at: SystemTime,
}

impl Seen {
    /// Flock's peers among `protocols`, by name. BIRD's time was `bird_now` when it was asked, and the
    /// machine's `now` and `wall`.
    pub(super) fn take(
        &mut self,
        protocols: &[Protocol],
        bird_now: Option<DateTime>,
        now: Instant,
        wall: SystemTime,
    ) -> Vec<PeerStatus> {
        let mut since = BTreeMap::new();
        let mut peers: BTreeMap<&str, PeerStatus> = BTreeMap::new();
        for protocol in protocols {
            let of_peer = peer_of(&protocol.name).or_else(|| dynamic_peer_of(&protocol.name));
            let Some(name) = of_peer else { continue };
            let Some(session) = &protocol.bgp else { continue };
            let age = bird_now.and_then(|bird_now| protocol.since.age(bird_now));
            let began = age.and_then(|age| self.since(&protocol.name, age, now, wall));
            since.extend(began.map(|began| (protocol.name.clone(), began)));
            let is_up = session.state == SessionState::Established;
            let error = session.last_error.as_deref().filter(|_| !is_up);
            let peer = PeerStatus {
                name: name.to_owned(),
                address: session.neighbor.clone(),
                asn: session.neighbor_asn,
                state: session.state.clone(),
                since: began.map(|began| began.at),
                families: protocol.channels.iter().filter_map(routes).collect(),
                last_error: error.map(|error| excerpt::line(error).to_string()),
            };
            // The protocol of an unnumbered peer goes on waiting while another one has the session.
            let is_news = peers.get(name).is_none_or(|other| rank(&peer.state) > rank(&other.state));
            if is_news {
                peers.insert(name, peer);
            }
        }
        self.since = since;
        peers.into_values().collect()
    }

    fn since(&self, protocol: &str, age: Duration, asked: Instant, wall: SystemTime) -> Option<Since> {
        let before = self.since.get(protocol).filter(|before| {
            let expected = before.age + asked.duration_since(before.asked);
            expected.abs_diff(age) < SAME
        });
        let at = before.map_or_else(|| wall.checked_sub(age), |before| Some(before.at))?;
        Some(Since { age, asked, at })
    }
}

/// Which of an unnumbered peer's protocols says more of the session.
fn rank(state: &SessionState) -> u8 {
    match state {
        SessionState::Established => 2,
        SessionState::Passive => 0,
        _ => 1,
    }
}

/// Of a channel with one of the names that Flock gives them.
fn routes(channel: &Channel) -> Option<FamilyRoutes> {
    let family = match channel.name.as_str() {
        "ipv4" => Family::Ipv4,
        "ipv6" => Family::Ipv6,
        _ => return None,
    };
    let counts = channel.routes.unwrap_or_default();
    Some(FamilyRoutes {
        family,
        received: counts.imported.unwrap_or_default(),
        advertised: counts.exported.unwrap_or_default(),
    })
}
