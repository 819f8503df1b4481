//! What the agent counts and measures, in the formats that Prometheus reads.
//!
//! `docs/metrics.md` lists every metric; a test holds it to this module.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use flock_bird::peers::Peers;
use flock_core::drain::DrainPhase;
use flock_core::handler::{QueuedDeletions, Recovery};
use flock_core::ipam::Ipam;
use flock_core::store::Store;
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

use crate::agent::readiness::Readiness;

mod bgp;
mod format;
mod labels;
mod process;
mod state;

pub use format::Format;
pub use labels::{
    AddressState, AttachmentState, BirdResult, Code, Family as AddressFamily, Phase, Repair, Step, Verb,
    Watch,
};

use bgp::Bgp;
use labels::{RepairLabels, RequestLabels, StepLabels, VerbLabels};
use process::Process;
use state::State;

/// In seconds: a CNI answers in a few milliseconds, and a runtime waits for a minute or two.
const REQUEST_BUCKETS: [f64; 17] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0,
];
/// In seconds: the same, from what a look into memory takes on.
const STEP_BUCKETS: [f64; 17] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
    10.0, 60.0,
];

/// Everything that is counted and measured.
///
/// What follows from the agent's state (addresses, attachments, watches) is not kept here
/// but asked for at each [`scrape`](Self::scrape); until it is known where, those metrics
/// are absent.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_durations: Family<VerbLabels, Histogram, fn() -> Histogram>,
    step_durations: Family<StepLabels, Histogram, fn() -> Histogram>,
    step_failures: Family<StepLabels, Counter>,
    repairs: Family<RepairLabels, Counter>,
    state: Arc<State>,
    bgp: Arc<Bgp>,
}

impl Metrics {
    /// Nothing counted yet. The process counts as started now.
    pub fn new(readiness: watch::Receiver<Readiness>) -> Self {
        let mut registry = Registry::default();
        let flock = registry.sub_registry_with_prefix("flock");

        let build = [("version", env!("CARGO_PKG_VERSION"))];
        flock.register("build", "Which flock-agent this is", Info::new(build));
        let requests = Family::<RequestLabels, Counter>::default();
        flock.register("requests", "Requests of the CNI plugin that were answered", requests.clone());
        let request_durations =
            Family::new_with_constructor((|| Histogram::new(REQUEST_BUCKETS)) as fn() -> Histogram);
        flock.register_with_unit(
            "request_duration",
            "How long requests of the CNI plugin took",
            Unit::Seconds,
            request_durations.clone(),
        );
        let step_durations =
            Family::new_with_constructor((|| Histogram::new(STEP_BUCKETS)) as fn() -> Histogram);
        flock.register_with_unit(
            "step_duration",
            "How long a step took, of a request all its calls together",
            Unit::Seconds,
            step_durations.clone(),
        );
        let step_failures = Family::<StepLabels, Counter>::default();
        flock.register("step_failures", "Calls of a step that failed", step_failures.clone());
        let repairs = Family::<RepairLabels, Counter>::default();
        flock.register("repairs", "What was found out of order and brought in order", repairs.clone());
        let state = Arc::new(State::new(readiness));
        flock.register_collector(Box::new(Arc::clone(&state)));
        let bgp = Arc::<Bgp>::default();
        flock.register_collector(Box::new(Arc::clone(&bgp)));
        registry.register_collector(Box::new(Process::started_now()));

        let metrics = Self {
            registry,
            requests,
            request_durations,
            step_durations,
            step_failures,
            repairs,
            state,
            bgp,
        };
        metrics.begin_at_zero();
        metrics
    }

    /// Series that are not there until something happens make the first happening
    /// invisible to `rate()`.
    fn begin_at_zero(&self) {
        for verb in [Verb::Add, Verb::Check, Verb::Del, Verb::Gc, Verb::Status] {
            drop(self.requests.get_or_create(&RequestLabels { verb, code: Code::Success }));
            drop(self.request_durations.get_or_create(&VerbLabels { verb }));
        }
        for kind in Repair::ALL.iter().copied() {
            drop(self.repairs.get_or_create(&RepairLabels { kind }));
        }
    }

    /// A request was answered.
    pub fn request(&self, verb: Verb, code: Code, took: Duration) {
        self.requests.get_or_create(&RequestLabels { verb, code }).inc();
        self.request_durations.get_or_create(&VerbLabels { verb }).observe(took.as_secs_f64());
    }

    /// A request, or work that no request waits for, spent `took` in a step.
    pub fn step(&self, verb: Verb, step: Step, took: Duration) {
        self.step_durations.get_or_create(&StepLabels { verb, step }).observe(took.as_secs_f64());
    }

    /// A call of a step failed.
    pub fn step_failed(&self, verb: Verb, step: Step) {
        self.step_failures.get_or_create(&StepLabels { verb, step }).inc();
    }

    /// `count` things were brought in order.
    pub fn repaired(&self, kind: Repair, count: usize) {
        // No platform has a usize of more than 64 bits.
        self.repairs.get_or_create(&RepairLabels { kind }).inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// What the start brought in order.
    pub fn recovered(&self, recovery: &Recovery) {
        self.repaired(Repair::Mended, recovery.repaired);
        self.repaired(Repair::Undone, recovery.undone);
        self.repaired(Repair::Orphan, recovery.orphans);
        self.repaired(Repair::Salvaged, recovery.salvaged);
        self.repaired(Repair::OtherBoot, recovery.other_boot);
    }

    /// From the start of the agent until the node was ready for pods. Only the first call counts.
    pub fn started(&self, took: Duration) {
        self.state.started(took);
    }

    /// From now on, addresses and attachments are counted here.
    /// [`metered`](crate::agent::metered::metered) says it. Only the first call counts.
    pub fn observe(&self, ipam: Arc<dyn Ipam>, store: Arc<dyn Store>) {
        self.state.observe(ipam, store);
    }

    /// Where to read how the configurations for BIRD have ended. Must return at once. Only
    /// the first call counts.
    pub fn bird_configurations(&self, counts: impl Fn() -> BirdConfigurations + Send + Sync + 'static) {
        self.state.bird(Box::new(counts));
    }

    /// Where to read how BIRD and the sessions with the NodeConfig's peers are. Only the first call
    /// counts.
    pub fn bgp(&self, peers: watch::Receiver<Peers>) {
        self.bgp.observe(peers);
    }

    /// Where to read how often `watch` began anew. Must return at once. Only the first call
    /// for a watch counts.
    pub fn watch_restarts(&self, watch: Watch, count: impl Fn() -> u64 + Send + Sync + 'static) {
        self.state.watch(watch, Box::new(count));
    }

    /// Where to read how the queued deletions stand. Must return at once. Only the first call
    /// counts.
    pub fn queued_deletions(&self, counts: impl Fn() -> QueuedDeletions + Send + Sync + 'static) {
        self.state.queued_deletions(Box::new(counts));
    }

    /// Where to read how many Events were left out. Must return at once. Only the first call counts.
    pub fn events_dropped(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        self.state.events_dropped(Box::new(count));
    }

    /// Where to read how many attachments were collected. Must return at once. Only the first
    /// call counts.
    pub fn collected(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        self.state.collected(Box::new(count));
    }

    /// Where to read how far the node is drained. Must return at once. Only the first call counts.
    pub fn drain(&self, phase: impl Fn() -> Option<DrainPhase> + Send + Sync + 'static) {
        self.bgp.drain(Box::new(phase));
    }

    /// Everything, as text. Fails if a part can't be written, which is a defect.
    pub async fn scrape(&self, format: Format) -> Result<String, fmt::Error> {
        self.state.refresh().await;
        let mut written = String::new();
        match format {
            Format::Prometheus => prometheus_text::encode(&mut written, &self.registry)?,
            Format::OpenMetrics => text::encode(&mut written, &self.registry)?,
        }
        Ok(written)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// How the configurations for BIRD have ended since the agent was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BirdConfigurations {
    /// It took them.
    pub applied: u64,
    /// It did not, and the last good one stays.
    pub refused: u64,
    /// It could not be asked, or the file could not be written; tried again.
    pub failed: u64,
}
