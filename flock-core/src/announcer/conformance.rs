//! Contract tests of [`RouteAnnouncer`], one public function per case.
//!
//! A backend implements [`AnnouncerHarness`], which looks at what is announced in
//! the backend's own way (a speaker is asked), and runs all cases with
//! [`announcer_conformance!`](crate::announcer_conformance):
//!
//! ```
//! use async_trait::async_trait;
//! use flock_core::announcer::conformance::{AnnouncerHarness, Observed, example};
//! use flock_core::announcer::{Announcements, MemoryAnnouncer, RouteAnnouncer};
//!
//! #[derive(Default)]
//! struct Harness(MemoryAnnouncer);
//!
//! #[async_trait]
//! impl AnnouncerHarness for Harness {
//!     fn announcer(&self) -> &dyn RouteAnnouncer {
//!         &self.0
//!     }
//!
//!     fn wanted(&self) -> Announcements {
//!         example()
//!     }
//!
//!     async fn observe(&self) -> Observed {
//!         self.0.announced().as_ref().map(Observed::expected).unwrap_or_default()
//!     }
//!
//!     async fn changes(&self) -> u64 {
//!         self.0.changes()
//!     }
//! }
//!
//! flock_core::announcer_conformance!(Harness::default());
//! ```
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "these are tests, they fail by panicking")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use async_trait::async_trait;
use ipnet::IpNet;

use super::{Announcements, RouteAnnouncer};
use crate::node_config::Peer;

/// What a backend supplies to be tested.
#[async_trait]
pub trait AnnouncerHarness: Send + Sync {
    /// The backend, which has announced nothing yet.
    fn announcer(&self) -> &dyn RouteAnnouncer;

    /// A state that the backend can reach, with at least two peers: [`example`],
    /// or one with peers that are really there. The cases change its prefixes and
    /// the number and order of its peers.
    fn wanted(&self) -> Announcements;

    /// What is announced, once the state that was accepted last is applied.
    async fn observe(&self) -> Observed;

    /// How often the announced state was changed so far (a speaker: how often it
    /// was given a configuration), once the state that was accepted last is applied.
    async fn changes(&self) -> u64;
}

/// What the network hears.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The announced prefixes; an anycast address is a /128 or /32.
    pub prefixes: BTreeSet<IpNet>,
    /// The peers they are announced to, or would be once the session is up.
    pub peers: BTreeSet<IpAddr>,
}

impl Observed {
    /// What is to be observed when `wanted` is reached.
    pub fn expected(wanted: &Announcements) -> Self {
        let anycast = wanted.anycast.iter().map(|&address| IpNet::from(address));
        Self {
            prefixes: wanted.summaries.iter().copied().chain(anycast).collect(),
            peers: wanted.peers.iter().filter_map(|peer| peer.neighbor.address()).collect(),
        }
    }
}

/// Makes one `#[tokio::test]` of each case of [`announcer::conformance`](crate::announcer::conformance).
///
/// Takes an expression for an [`AnnouncerHarness`](crate::announcer::conformance::AnnouncerHarness),
/// which is evaluated anew in each test. The crate that uses it needs tokio with
/// `macros` and `rt`.
#[macro_export]
macro_rules! announcer_conformance {
    (@cases $harness:expr; $($case:ident)*) => {
        $(
            #[::tokio::test]
            async fn $case() {
                let harness = $harness;
                $crate::announcer::conformance::$case(&harness).await;
            }
        )*
    };
    ($harness:expr) => {
        $crate::announcer_conformance! { @cases $harness;
            the_wanted_state_is_announced
            only_what_is_wanted_is_announced
            what_is_no_longer_wanted_is_withdrawn
            the_last_call_wins
            a_repeated_call_changes_nothing
            the_order_of_peers_has_no_meaning
            peers_come_and_go
        }
    };
}

/// Summaries and anycast addresses of both families, to all peers.
pub async fn the_wanted_state_is_announced(harness: &dyn AnnouncerHarness) {
    let wanted = harness.wanted();
    assert!(wanted.peers.len() >= 2, "the harness has {} peers, expected at least 2", wanted.peers.len());
    harness.announcer().sync(&wanted).await.unwrap();
    assert_eq!(harness.observe().await, Observed::expected(&wanted));
}

/// Nothing, if nothing is wanted.
pub async fn only_what_is_wanted_is_announced(harness: &dyn AnnouncerHarness) {
    let nothing = Announcements { summaries: BTreeSet::new(), anycast: BTreeSet::new(), ..harness.wanted() };
    harness.announcer().sync(&nothing).await.unwrap();
    assert_eq!(harness.observe().await.prefixes, BTreeSet::new());

    let summary_only = Announcements { anycast: BTreeSet::new(), ..harness.wanted() };
    harness.announcer().sync(&summary_only).await.unwrap();
    assert_eq!(harness.observe().await, Observed::expected(&summary_only));
}

/// An anycast address and a summary, and nothing beside them.
pub async fn what_is_no_longer_wanted_is_withdrawn(harness: &dyn AnnouncerHarness) {
    let mut wanted = harness.wanted();
    wanted.anycast.insert(another_anycast());
    harness.announcer().sync(&wanted).await.unwrap();
    assert!(harness.observe().await.prefixes.contains(&IpNet::from(another_anycast())));

    wanted.anycast.remove(&another_anycast());
    wanted.summaries.pop_last();
    harness.announcer().sync(&wanted).await.unwrap();
    assert_eq!(harness.observe().await, Observed::expected(&wanted));
}

/// However quickly the calls follow each other.
pub async fn the_last_call_wins(harness: &dyn AnnouncerHarness) {
    let with =
        |anycast: &[IpAddr]| Announcements { anycast: anycast.iter().copied().collect(), ..harness.wanted() };
    let last = with(&[another_anycast()]);
    for wanted in [harness.wanted(), with(&[]), harness.wanted(), last.clone()] {
        harness.announcer().sync(&wanted).await.unwrap();
    }
    assert_eq!(harness.observe().await, Observed::expected(&last));
}

/// The speaker is left alone.
pub async fn a_repeated_call_changes_nothing(harness: &dyn AnnouncerHarness) {
    harness.announcer().sync(&harness.wanted()).await.unwrap();
    let before = harness.changes().await;
    assert_ne!(before, 0, "the first call changed nothing");
    for _ in 0..3 {
        harness.announcer().sync(&harness.wanted()).await.unwrap();
    }
    assert_eq!(harness.changes().await, before);
    assert_eq!(harness.observe().await, Observed::expected(&harness.wanted()));
}

/// The same peers in another order are the same state.
pub async fn the_order_of_peers_has_no_meaning(harness: &dyn AnnouncerHarness) {
    harness.announcer().sync(&harness.wanted()).await.unwrap();
    let before = harness.changes().await;
    let mut turned = harness.wanted();
    turned.peers.reverse();
    harness.announcer().sync(&turned).await.unwrap();
    assert_eq!(harness.changes().await, before);
}

/// As the node's configuration changes.
pub async fn peers_come_and_go(harness: &dyn AnnouncerHarness) {
    let all = harness.wanted();
    let mut fewer = all.clone();
    fewer.peers.truncate(1);
    for wanted in [&fewer, &all, &fewer] {
        harness.announcer().sync(wanted).await.unwrap();
        assert_eq!(harness.observe().await, Observed::expected(wanted));
    }
}

/// A dual-stack node with two peers and an anycast address of each family, all
/// from the documentation ranges.
pub fn example() -> Announcements {
    Announcements {
        peers: vec![
            Peer::new("tor1", Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into(), 64500),
            Peer::new("tor2", Ipv4Addr::new(192, 0, 2, 254).into(), 64501),
        ],
        summaries: ["2001:db8:1::/64", "10.0.1.0/24"].map(|net| net.parse().unwrap()).into(),
        anycast: ["2001:db8:a::53", "198.51.100.53"].map(|address| address.parse().unwrap()).into(),
        ..Announcements::new(64512, Ipv4Addr::new(192, 0, 2, 1))
    }
}

/// Not one of [`example`]'s.
fn another_anycast() -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x54).into()
}
