//! How the sessions with Flock's peers are, asked of BIRD again and again.
//!
//! A [`PeerObserver`] asks; whoever wants to know [subscribes](PeerObserver::peers). What is
//! published is what BIRD said last: while it does not answer, that is what is published, and
//! nothing of what it said before.
//!
//! ```no_run
//! # async fn example(announcer: &flock_bird::BirdAnnouncer) {
//! use std::time::Duration;
//! use flock_bird::control::Client;
//! use flock_bird::peers::{PeerObserver, Peers};
//!
//! let client = Client::new("/run/flock/bird.ctl", Duration::from_secs(5));
//! let observer = PeerObserver::new(client, announcer.status());
//! let mut peers = observer.peers();
//! tokio::spawn(observer.run());
//! while peers.changed().await.is_ok() {
//!     if let Peers::Known(all) = &*peers.borrow_and_update() {
//!         println!("{} of {} sessions are up", all.iter().filter(|peer| peer.is_up()).count(), all.len());
//!     }
//! }
//! # }
//! ```

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::announcer::Status as Applied;
use crate::control::Client;
use crate::protocols::{self, NeighborAddress, Protocol, SessionState};
use crate::query::QueryError;
use crate::status::{self, Status};

mod seen;

use seen::Seen;

/// Between an answer and the next question. BIRD tells why a session has ended for no longer than it
/// waits before the next attempt, and that is a second at least. A round costs a BIRD with 64 peers a
/// quarter of a millisecond.
const ROUND: Duration = Duration::from_secs(1);

/// What is known of the sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Peers {
    /// BIRD was not asked yet: nothing was to be announced.
    #[default]
    Unknown,
    /// BIRD's answer, ordered by name. A peer that BIRD was not told of is not in there.
    Known(Vec<PeerStatus>),
    /// BIRD does not answer. Its sessions may go on or not.
    Away(QueryError),
}

/// The session with one of Flock's peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name in the NodeConfig.
    pub name: String,
    /// Its address.
    pub address: Option<NeighborAddress>,
    /// Its AS number.
    pub asn: Option<u32>,
    /// How far the session is.
    pub state: SessionState,
    /// Since when it is up; where it is not, since when BIRD tries, or does not. It stays the same
    /// for as long as that lasts. `None` if BIRD's times are not exact enough.
    pub since: Option<SystemTime>,
    /// The routes of each family that the session is configured for.
    pub families: Vec<FamilyRoutes>,
    /// Why it is not up, in BIRD's words, as an [`excerpt`](flock_core::excerpt); `None` if it is up, or nothing went wrong.
    pub last_error: Option<String>,
}

/// The routes of one family in a session; none while it is down, unless they are kept for the peer's
/// return (RFC 4724).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FamilyRoutes {
    /// Which family.
    pub family: Family,
    /// How many were taken from the peer.
    pub received: u64,
    /// How many the peer is told.
    pub advertised: u64,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl PeerStatus {
    /// Whether routes are exchanged.
    pub fn is_up(&self) -> bool {
        self.state == SessionState::Established
    }
}

/// Asks a BIRD every second.
#[derive(Debug)]
pub struct PeerObserver {
    client: Client,
    announcer: watch::Receiver<Applied>,
    peers: watch::Sender<Peers>,
}

impl PeerObserver {
    /// `announcer` is the status of the one that configures the BIRD that `client` asks.
    pub fn new(client: Client, announcer: watch::Receiver<Applied>) -> Self {
        Self { client, announcer, peers: watch::Sender::new(Peers::Unknown) }
    }

    /// What is known, now and at each change.
    pub fn peers(&self) -> watch::Receiver<Peers> {
        self.peers.subscribe()
    }

    /// Asks for ever. It begins once there is something to announce: a node without BGP needs
    /// no BIRD. Dropping the future is safe; what is known stays what it was.
    pub async fn run(self) {
        let Self { client, announcer, peers } = self;
        follow(&client, announcer, &peers).await;
    }
}

/// What BIRD says of itself and of its protocols, at about the same time.
struct Answer {
    status: Status,
    protocols: Vec<Protocol>,
}

/// Who is asked. Tests have another one than [`Client`].
#[async_trait]
trait Ask: Sync {
    async fn ask(&self) -> Result<Answer, QueryError>;
}

#[async_trait]
impl Ask for Client {
    async fn ask(&self) -> Result<Answer, QueryError> {
        let status = status::status(self).await?;
        Ok(Answer { status, protocols: protocols::protocols(self).await?.known })
    }
}

async fn follow(bird: &impl Ask, mut announcer: watch::Receiver<Applied>, peers: &watch::Sender<Peers>) {
    // An error means that the announcer has ended: nothing new is applied, and BIRD goes on.
    let _ = announcer.wait_for(|status| *status != Applied::Idle).await;
    let mut seen = Seen::default();
    loop {
        let now = match bird.ask().await {
            Ok(Answer { status, protocols }) => {
                Peers::Known(seen.take(&protocols, status.now, Instant::now(), SystemTime::now()))
            }
            Err(error) => Peers::Away(error),
        };
        peers.send_if_modified(|known| {
            let is_new = *known != now;
            *known = now;
            is_new
        });
        sleep(ROUND).await;
    }
}

#[cfg(test)]
mod tests;
