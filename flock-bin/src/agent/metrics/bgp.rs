//! What BIRD says of the sessions with the NodeConfig's peers.

use std::fmt;
use std::sync::OnceLock;

use flock_bird::peers::{self, PeerStatus, Peers};
use flock_core::drain::DrainPhase;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;

use super::labels::{Family, Phase};

/// Where that is known; nothing without BIRD.
#[derive(Default)]
pub(super) struct Bgp {
    peers: OnceLock<watch::Receiver<Peers>>,
    drain: OnceLock<Drain>,
}

type Drain = Box<dyn Fn() -> Option<DrainPhase> + Send + Sync>;

impl Bgp {
    /// The first call counts.
    pub(super) fn observe(&self, peers: watch::Receiver<Peers>) {
        let _ = self.peers.set(peers);
    }

    /// The first call counts.
    pub(super) fn drain(&self, phase: Drain) {
        let _ = self.drain.set(phase);
    }

    fn encode_drain(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Some(drain) = self.drain.get() else { return Ok(()) };
        let now = drain().map(|phase| match phase {
            DrainPhase::Marked => Phase::Marked,
            DrainPhase::Withdrawn => Phase::Withdrawn,
        });
        let help = "Whether the node is drained: 1 for the phase that it is in, else 0.";
        let phases =
            Phase::ALL.iter().map(|phase| ([("phase", phase.as_str())], i64::from(now == Some(*phase))));
        gauges(encoder, "drain", help, phases)
    }
}

impl fmt::Debug for Bgp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bgp").field("peers", &self.peers).finish_non_exhaustive()
    }
}

impl Collector for Bgp {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        self.encode_drain(encoder)?;
        let known = self.peers.get().map(|peers| peers.borrow().clone());
        let (answers, peers) = match known {
            None | Some(Peers::Unknown) => return Ok(()),
            Some(Peers::Away(_)) => (false, Vec::new()),
            Some(Peers::Known(peers)) => (true, peers),
        };
        let help = "Whether BIRD answers: 1 if it does, 0 if not.";
        let up = ConstGauge::new(i64::from(answers));
        up.encode(encoder.encode_descriptor("bird_up", help, None, MetricType::Gauge)?)?;
        if !answers {
            return Ok(());
        }
        let up = peers.iter().map(|peer| ([("peer", peer.name.as_str())], i64::from(peer.is_up())));
        let help = "Whether the BGP session is up: 1 if it is, 0 if not.";
        gauges(encoder, "bgp_session_up", help, up)?;
        let help = "Prefixes that were taken from the peer.";
        gauges(encoder, "bgp_prefixes_received", help, counts(&peers, |routes| routes.received))?;
        let help = "Prefixes that the peer is told.";
        gauges(encoder, "bgp_prefixes_advertised", help, counts(&peers, |routes| routes.advertised))
    }
}

fn counts(
    peers: &[PeerStatus],
    count: fn(&peers::FamilyRoutes) -> u64,
) -> impl Iterator<Item = ([(&'static str, &str); 2], i64)> {
    peers.iter().flat_map(move |peer| {
        peer.families.iter().map(move |routes| {
            let family = match routes.family {
                peers::Family::Ipv4 => Family::Ipv4,
                peers::Family::Ipv6 => Family::Ipv6,
            };
            (
                [("peer", peer.name.as_str()), ("family", family.as_str())],
                i64::try_from(count(routes)).unwrap_or(i64::MAX),
            )
        })
    })
}

fn gauges<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, i64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
