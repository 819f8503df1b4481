//! What is asked for at a scrape instead of being counted along.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use flock_core::attachment;
use flock_core::handler::QueuedDeletions;
use flock_core::ipam::{Ipam, Usage};
use flock_core::store::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::BirdConfigurations;
use super::labels::{AddressState, AttachmentState, BirdResult, Family, Watch};
use crate::agent::readiness::Readiness;

/// Scrapes that follow each other faster get the same numbers: they must not become load.
const FRESH: Duration = Duration::from_secs(1);
/// A backend that takes longer is left out of the scrape.
const PATIENCE: Duration = Duration::from_secs(1);

type BirdCounts = Box<dyn Fn() -> BirdConfigurations + Send + Sync>;
type QueueCounts = Box<dyn Fn() -> QueuedDeletions + Send + Sync>;
type Count = Box<dyn Fn() -> u64 + Send + Sync>;

/// Where to ask, and what was answered last.
pub(super) struct State {
    readiness: watch::Receiver<Readiness>,
    start_duration: OnceLock<Duration>,
    bird: OnceLock<BirdCounts>,
    queued: OnceLock<QueueCounts>,
    pods: OnceLock<Count>,
    node_config: OnceLock<Count>,
    node: OnceLock<Count>,
    events_dropped: OnceLock<Count>,
    collected: OnceLock<Count>,
    backends: OnceLock<(Arc<dyn Ipam>, Arc<dyn Store>)>,
    /// When `counts` was asked for. Held while that is done, so that scrapes wait for each
    /// other and do not ask twice.
    asked: tokio::sync::Mutex<Option<Instant>>,
    counts: Mutex<Counts>,
}

/// As they were when the backends were asked last; `None` where one did not answer.
#[derive(Debug, Default)]
struct Counts {
    addresses: Option<Vec<Usage>>,
    attachments: Option<[u64; AttachmentState::ALL.len()]>,
}

impl State {
    pub(super) fn new(readiness: watch::Receiver<Readiness>) -> Self {
        Self {
            readiness,
            start_duration: OnceLock::new(),
            bird: OnceLock::new(),
            queued: OnceLock::new(),
            pods: OnceLock::new(),
            node_config: OnceLock::new(),
            node: OnceLock::new(),
            events_dropped: OnceLock::new(),
            collected: OnceLock::new(),
            backends: OnceLock::new(),
            asked: tokio::sync::Mutex::new(None),
            counts: Mutex::default(),
        }
    }

    pub(super) fn started(&self, took: Duration) {
        // The first call counts, here and below.
        let _ = self.start_duration.set(took);
    }

    pub(super) fn observe(&self, ipam: Arc<dyn Ipam>, store: Arc<dyn Store>) {
        let _ = self.backends.set((ipam, store));
    }

    pub(super) fn bird(&self, counts: BirdCounts) {
        let _ = self.bird.set(counts);
    }

    pub(super) fn queued_deletions(&self, counts: QueueCounts) {
        let _ = self.queued.set(counts);
    }

    pub(super) fn watch(&self, watch: Watch, count: Count) {
        let _ = self.restarts(watch).set(count);
    }

    pub(super) fn events_dropped(&self, count: Count) {
        let _ = self.events_dropped.set(count);
    }

    pub(super) fn collected(&self, count: Count) {
        let _ = self.collected.set(count);
    }

    fn restarts(&self, watch: Watch) -> &OnceLock<Count> {
        match watch {
            Watch::Pods => &self.pods,
            Watch::NodeConfig => &self.node_config,
            Watch::Node => &self.node,
        }
    }

    /// Asks the backends, unless that was done just now.
    pub(super) async fn refresh(&self) {
        let Some((ipam, store)) = self.backends.get() else { return };
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let addresses = match timeout(PATIENCE, ipam.usage()).await {
            Ok(Ok(usage)) => Some(usage),
            Ok(Err(error)) => {
                tracing::warn!(%error, "addresses can't be counted");
                None
            }
            Err(_) => None,
        };
        let attachments = match timeout(PATIENCE, store.list()).await {
            Ok(Ok(records)) => Some(count(&records)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "attachments can't be counted");
                None
            }
            Err(_) => None,
        };
        *self.counts() = Counts { addresses, attachments };
        *asked = Some(Instant::now());
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By state, in the order of [`AttachmentState::ALL`].
fn count(records: &[attachment::Attachment]) -> [u64; AttachmentState::ALL.len()] {
    let mut counts = [0; AttachmentState::ALL.len()];
    for record in records {
        let state = match record.state {
            attachment::AttachmentState::Pending => AttachmentState::Pending,
            attachment::AttachmentState::Committed => AttachmentState::Committed,
            attachment::AttachmentState::Deleting => AttachmentState::Deleting,
        };
        counts[state as usize] += 1;
    }
    counts
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        self.encode_start(encoder)?;
        self.encode_counts(encoder)?;
        self.encode_queue(encoder)?;
        self.encode_bird(encoder)?;
        self.encode_watches(encoder)?;
        self.encode_events(encoder)?;
        self.encode_collected(encoder)
    }
}

impl State {
    fn encode_start(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let ready = *self.readiness.borrow() == Readiness::Ready;
        let help = "Whether the node is ready for pods: 1 if it is, 0 if not.";
        let ready = ConstGauge::new(if ready { 1.0 } else { 0.0 });
        ready.encode(encoder.encode_descriptor("ready", help, None, MetricType::Gauge)?)?;
        let Some(took) = self.start_duration.get() else { return Ok(()) };
        let took = ConstGauge::new(took.as_secs_f64());
        let help = "How long it took from the start of the agent until the node was ready for pods.";
        took.encode(encoder.encode_descriptor(
            "start_duration",
            help,
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?)
    }

    fn encode_counts(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let counts = self.counts();
        if let Some(usages) = &counts.addresses {
            let values = Family::ALL.iter().flat_map(|family| addresses(*family, usages));
            gauges(encoder, "addresses", "Addresses of the node's prefixes.", values)?;
        }
        if let Some(attachments) = &counts.attachments {
            let values = AttachmentState::ALL.iter().zip(attachments);
            let values = values.map(|(state, count)| ([("state", state.as_str())], float((*count).into())));
            gauges(encoder, "attachments", "Attachments that have a record.", values)?;
        }
        Ok(())
    }

    fn encode_queue(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Some(queued) = self.queued.get().map(|counts| counts()) else { return Ok(()) };
        let waiting = ConstGauge::new(i64::try_from(queued.waiting).unwrap_or(i64::MAX));
        let help = "Attachments whose queued deletion failed so far and is tried again.";
        waiting.encode(encoder.encode_descriptor(
            "queued_deletions_waiting",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let help = "Attachments that were deleted as plugins had queued it while no agent ran.";
        let encoder = encoder.encode_descriptor("queued_deletions", help, None, MetricType::Counter)?;
        ConstCounter::new(queued.replayed).encode(encoder)
    }

    fn encode_bird(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Some(counts) = self.bird.get().map(|counts| counts()) else { return Ok(()) };
        let values = [
            (BirdResult::Applied, counts.applied),
            (BirdResult::Refused, counts.refused),
            (BirdResult::Failed, counts.failed),
        ];
        let values = values.map(|(result, count)| ([("result", result.as_str())], count));
        counters(encoder, "bird_configurations", "Configurations that BIRD was asked to take.", values)
    }

    fn encode_watches(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let values = Watch::ALL.iter().filter_map(|watch| {
            let count = self.restarts(*watch).get()?;
            Some(([("watch", watch.as_str())], count()))
        });
        let help = "How often a watch on the API server had to begin anew.";
        counters(encoder, "watch_restarts", help, values)
    }

    fn encode_events(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Events of pods and NodeConfigs that were left out.";
        counter(encoder, "events_dropped", help, self.events_dropped.get())
    }

    fn encode_collected(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Attachments that were deleted because their container was gone though no DEL came.";
        counter(encoder, "collected", help, self.collected.get())
    }
}

/// Nothing while nobody knows.
fn counter(encoder: &mut DescriptorEncoder, name: &str, help: &str, count: Option<&Count>) -> fmt::Result {
    let Some(count) = count.map(|count| count()) else { return Ok(()) };
    ConstCounter::new(count).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

type AddressLabels = [(&'static str, &'static str); 2];

/// Nothing for a family that the node has no prefix of.
fn addresses(family: Family, usages: &[Usage]) -> Vec<(AddressLabels, f64)> {
    let of_family = |usage: &&Usage| match usage.prefix.addr() {
        IpAddr::V6(_) => family == Family::Ipv6,
        IpAddr::V4(_) => family == Family::Ipv4,
    };
    let usages: Vec<&Usage> = usages.iter().filter(of_family).collect();
    if usages.is_empty() {
        return Vec::new();
    }
    let sum = |part: fn(&Usage) -> u128| usages.iter().map(|usage| part(usage)).fold(0, u128::saturating_add);
    let states = [
        (AddressState::InUse, sum(|usage| usage.in_use)),
        (AddressState::Resting, sum(|usage| usage.resting)),
        (AddressState::Free, sum(Usage::free)),
    ];
    let labelled =
        states.map(|(state, count)| ([("family", family.as_str()), ("state", state.as_str())], float(count)));
    labelled.to_vec()
}

/// The nearest value: a prefix has up to 2^128 addresses.
#[allow(clippy::cast_precision_loss, reason = "samples are doubles; 53 bits are what they can hold")]
fn float(count: u128) -> f64 {
    count as f64
}

fn gauges<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, f64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn counters<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut values = values.into_iter().peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("counts", &*self.counts()).finish_non_exhaustive()
    }
}
