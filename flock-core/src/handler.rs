//! The life of an attachment: [`Handler`] carries out the verbs on the five backends.
//!
//! ```text
//! ADD    record committed? answer from it
//!        → annotations → Ipam.allocate → Store.put(pending) → Dataplane.attach
//!        → Store.put(committed) → RouteAnnouncer.sync → result
//! DEL    Store.get (unknown is success) → Store.put(deleting) → withdraw, detach → answer
//!        the reaper removes links in batches, forgets the records, releases the addresses
//! GC     the way of DEL for each attachment of the network that the runtime does not know
//! STATUS Ipam.usage, and how the last announcement ended
//! ```
//!
//! Runtimes lose containers without a DEL, and call no GC: [`Handler::collect`] finds what
//! they leave. [`Handler::run_readiness`] has anycast addresses announced while pods that
//! serve them are ready.
//!
//! # Invariants
//!
//! - An address is held from before the record is pending until after the link is
//!   gone; it never belongs to two attachments.
//! - Whatever exists in the kernel has a record, or is made and removed within one call.
//! - A failed ADD leaves nothing. Where taking away fails too, the reaper goes on
//!   trying, and a restart finds the record and takes it up.
//! - Requests for one attachment are serialised; requests for different ones are not.
//!
//! # Cancel safety
//!
//! Dropping the future of a call stops it between two backend calls. The record tells
//! how far it came, and the next call for the same attachment, the reaper or a restart
//! takes it up; nothing is lost. Callers should nevertheless run each call as a task of
//! its own, as [`Server`](crate::server::Server) does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::announcer::{Announcements, RouteAnnouncer};
use crate::attachment::{Attachment, AttachmentKey, AttachmentState, NodeCidrs};
use crate::clock::Clock;
use crate::dataplane::{AnycastRoute, AnycastState, Dataplane, NodeFacts};
use crate::deletions::QueuedDeletion;
use crate::drain::DrainRecord;
use crate::excerpt;
use crate::ipam::{Ipam, Usage};
use crate::locks::KeyedLocks;
use crate::node_config::{Bgp, NodeConfig};
use crate::pods::PodSource;
use crate::retry::Retry;
use crate::store::Store;

mod add;
mod anycast;
mod check;
mod collect;
mod del;
mod drain;
mod due;
mod error;
mod gc;
mod keeper;
mod mend;
mod queued;
mod readiness;
mod reconfigure;
mod recover;
mod repair;
mod service;
mod status;
mod teardown;
mod view;
mod withdrawal;

pub use error::HandlerError;
pub use keeper::Repaired;
pub use queued::{QueuedDeletions, Replay};
pub use recover::Recovery;
pub use status::Status;

pub(crate) use anycast::{anycast_routes, served_in_kernel};
use collect::Suspects;
use drain::Drain;
use due::{Due, Untold};
use readiness::Readiness;
use withdrawal::Withdrawals;

/// One of each backend. Tests swap a field.
#[derive(Debug, Clone)]
pub struct Backends {
    /// Gives addresses.
    pub ipam: Arc<dyn Ipam>,
    /// Keeps records.
    pub store: Arc<dyn Store>,
    /// Makes links and routes.
    pub dataplane: Arc<dyn Dataplane>,
    /// Tells the network.
    pub announcer: Arc<dyn RouteAnnouncer>,
    /// Knows the pods' annotations.
    pub pods: Arc<dyn PodSource>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// What does not change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Identifies the boot; records of another boot describe a kernel that is gone.
    pub boot_id: String,
    /// How long the reaper gathers links before it removes them together. Removing one
    /// link holds up every other change of the kernel's networking for milliseconds.
    pub reap_delay: Duration,
    /// How long the reaper waits after a failure.
    pub retry_delay: Duration,
    /// For how long a container has to be seen as gone before its attachment is collected.
    pub collect_grace: Duration,
    /// For how long the pods that served an anycast address get what is still sent to it after the
    /// last one is not ready any more, before the node takes a route of its peers to the same address:
    /// until the routers have heard of the withdrawal (RFC 8333, local convergence delay). Zero is no
    /// delay; any other is ended by [`Handler::run_readiness`].
    pub convergence_delay: Duration,
    /// How long the kernel keeps the summaries of prefixes that the node had before: until the
    /// announcer tells of the pods that are still in them.
    pub summary_grace: Duration,
    /// Whether an earlier agent may have announced something, so that a node without BGP must
    /// make sure that nothing is.
    pub announced_before: bool,
    /// What the last agent has told of a drain ([`Handler::drain_record`]). Without it, or with one of
    /// another boot, the node has announced nothing yet: a drain withdraws at once.
    pub drain: Option<DrainRecord>,
}

impl Settings {
    /// The defaults, in the boot named by `boot_id`.
    pub fn new(boot_id: impl Into<String>) -> Self {
        Self {
            boot_id: boot_id.into(),
            reap_delay: Duration::from_millis(250),
            retry_delay: Duration::from_secs(1),
            collect_grace: Duration::from_secs(60),
            convergence_delay: Duration::from_secs(1),
            summary_grace: Duration::from_secs(2),
            announced_before: false,
            drain: None,
        }
    }
}

/// Carries out the verbs. Cheap to share behind an `Arc`.
///
/// [`recover`](Self::recover) comes first, once, and [`replay`](Self::replay) of what was
/// queued where that is done, beside which there may be [`del`](Self::del) already,
/// [`withhold`](Self::withhold) where the node may be drained, and [`publish`](Self::publish); then [`add`](Self::add), [`del`](Self::del), [`check`](Self::check), [`gc`](Self::gc) and
/// [`status`](Self::status) in any order and concurrency, with [`run_reaper`](Self::run_reaper),
/// [`run_collector`](Self::run_collector), [`run_keeper`](Self::run_keeper),
/// [`run_readiness`](Self::run_readiness) and [`run_drain`](Self::run_drain) going on beside them.
pub struct Handler {
    backends: Backends,
    settings: Settings,
    node: RwLock<Arc<Node>>,
    locks: Arc<KeyedLocks>,
    /// What the reaper has to take away, by key.
    doomed: Mutex<BTreeMap<AttachmentKey, Doomed>>,
    reaper_wakes: Notify,
    queued: Mutex<Queued>,
    /// Held while links are removed: who finds one in the way that is being removed
    /// already waits until it is gone.
    reaping: tokio::sync::Mutex<()>,
    /// Held while the announced set is worked out and handed over, so that of two
    /// changes the later one is handed over last.
    announcing: tokio::sync::Mutex<Announced>,
    /// Whether the start of this agent is over. Until then, what an earlier one has announced stays.
    published: AtomicBool,
    drain: Drain,
    /// Held while a configuration is put in force: of two the later one stays.
    configuring: tokio::sync::Mutex<()>,
    /// What is still to be announced.
    due: Due,
    /// Why the last attempt failed, also where it is not tried again.
    unannounced: Mutex<Option<String>>,
    /// Which pods are ready.
    readiness: Mutex<Readiness>,
    withdrawals: Mutex<Withdrawals>,
    withdrawal_wakes: Notify,
    /// What looked dead at the last look.
    suspects: Mutex<Suspects>,
    /// How many of them were deleted so far.
    collected: AtomicU64,
}

/// What the node is at the moment.
#[derive(Debug)]
struct Node {
    config: NodeConfig,
    facts: NodeFacts,
}

impl Handler {
    /// Composes a handler for the node that `config` describes. Nothing is done yet.
    pub fn new(backends: Backends, config: NodeConfig, settings: Settings) -> Self {
        let something = settings.announced_before;
        let drain = Drain::new(settings.drain.as_ref(), &settings.boot_id, &*backends.clock);
        Self {
            backends,
            settings,
            node: RwLock::new(Arc::new(Node { config, facts: NodeFacts::default() })),
            locks: Arc::default(),
            doomed: Mutex::default(),
            reaper_wakes: Notify::new(),
            queued: Mutex::default(),
            reaping: tokio::sync::Mutex::new(()),
            announcing: tokio::sync::Mutex::new(Announced { something }),
            published: AtomicBool::new(false),
            drain,
            configuring: tokio::sync::Mutex::new(()),
            due: Due::default(),
            unannounced: Mutex::default(),
            readiness: Mutex::default(),
            withdrawals: Mutex::default(),
            withdrawal_wakes: Notify::new(),
            suspects: Mutex::default(),
            collected: AtomicU64::new(0),
        }
    }

    /// The configuration in force.
    pub fn node_config(&self) -> NodeConfig {
        self.node().config.clone()
    }

    /// How full the node's prefixes are.
    pub async fn usage(&self) -> Result<Vec<Usage>, HandlerError> {
        Ok(self.backends.ipam.usage().await?)
    }

    fn node(&self) -> Arc<Node> {
        Arc::clone(&self.node.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_node(&self, node: Node) {
        *self.node.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(node);
        self.take_up_drain();
    }

    fn is_published(&self) -> bool {
        self.published.load(Ordering::Acquire)
    }

    /// Makes the kernel's anycast routes and the announcements equal to what the
    /// committed records say. A failure must not fail the pod: the reaper says
    /// everything again until it succeeds.
    async fn announce(&self, change: Change) {
        self.tell(self.untold(), change).await;
    }

    /// Begins a change that has to be announced.
    fn untold(&self) -> Untold<'_> {
        Untold::new(&self.due, &self.reaper_wakes)
    }

    /// As [`announce`](Self::announce), of a change that began earlier.
    async fn tell(&self, untold: Untold<'_>, change: Change) {
        let mut announced = self.announcing.lock().await;
        let changes = self.due.changes();
        let done = self.try_announce(change, &mut announced).await;
        // What will never be taken is not tried again before the next change.
        let again = done.as_ref().is_err_and(|error| error.retry() == Retry::Later);
        self.set_unannounced(done.as_ref().err().map(ToString::to_string));
        drop(announced);
        if let Err(error) = done {
            tracing::warn!(%error, again, "announcements are not up to date");
        }
        if !again {
            self.due.told(changes);
            untold.settle();
        }
    }

    async fn try_announce(&self, change: Change, announced: &mut Announced) -> Result<(), HandlerError> {
        let records = self.backends.store.list().await?;
        self.expire_withdrawals();
        let routes = self.anycast_routes(&records);
        match change {
            Change::Gain => {
                self.set_anycast(&routes).await?;
                self.sync(&records, &routes, announced).await
            }
            Change::Loss => {
                let silent = self.sync(&records, &routes, announced).await;
                // Even so: on this node, nothing is to reach a pod that is gone.
                self.set_anycast(&routes).await?;
                silent
            }
        }
    }

    /// The anycast routes of `records` as they should be now.
    fn anycast_routes(&self, records: &[Attachment]) -> Vec<AnycastRoute> {
        let ready = self.ready_servers(records);
        let is_ready = |record: &Attachment| ready.contains(&record.key);
        anycast_routes(records, &self.node().config.allowed, is_ready, &self.served())
    }

    async fn sync(
        &self,
        records: &[Attachment],
        routes: &[AnycastRoute],
        announced: &mut Announced,
    ) -> Result<(), HandlerError> {
        // Nobody is sent here before the node is ready for pods.
        if !self.is_published() {
            return Ok(());
        }
        let node = self.node();
        // A node that never had BGP needs no speaker; one that has lost it must fall silent.
        if node.config.bgp.is_none() && !announced.something {
            self.drain.tell(self.drain_phase());
            return Ok(());
        }
        announced.something = true;
        let (anycast, others): (Vec<_>, Vec<_>) =
            routes.iter().partition(|route| route.state == AnycastState::Announced);
        let addresses = |routes: Vec<&AnycastRoute>| routes.iter().map(|route| route.address).collect();
        // Without BGP there are no peers for these to have a meaning.
        let bgp = node.config.bgp.clone().unwrap_or_else(|| Bgp::new(0));
        let wanted = Announcements {
            asn: bgp.asn,
            router_id: router_id(&node),
            maximum_paths: bgp.maximum_paths,
            peers: bgp.resolved_peers().cloned().collect(),
            export: bgp.export,
            summaries: node.config.cidrs.iter().collect(),
            anycast: addresses(anycast),
            standby: addresses(others),
            exceptions: exceptions(records, node.config.cidrs),
            drain: self.take_drain_phase(),
        };
        self.backends.announcer.sync(&wanted).await?;
        self.drain.tell(wanted.drain);
        Ok(())
    }

    /// Whether `attachment` is announced by itself, in one way or another.
    fn is_announced(&self, attachment: &Attachment) -> bool {
        let cidrs = self.node().config.cidrs;
        attachment.state == AttachmentState::Committed
            && (!attachment.anycast.is_empty()
                || attachment.addresses.iter().any(|address| !cidrs.contain(address)))
    }
}

/// What the reaper has to take away.
#[derive(Debug)]
struct Doomed {
    attachment: Attachment,
    attempts: Attempts,
}

/// Of what is tried until it succeeds.
#[derive(Debug)]
struct Attempts {
    since: Instant,
    /// Why the last one has failed.
    error: Option<String>,
}

impl Attempts {
    fn since(now: Instant) -> Self {
        Self { since: now, error: None }
    }

    fn failed(&mut self, error: &HandlerError) {
        self.error = Some(excerpt::line(error).to_string());
    }
}

/// Deletions that were queued while no agent ran.
#[derive(Debug, Default)]
struct Queued {
    /// What was not carried out yet.
    waiting: BTreeMap<AttachmentKey, Unsettled>,
    /// How many attachments were deleted so.
    replayed: u64,
}

/// The queued deletions of one attachment, in the order of the queue.
#[derive(Debug)]
struct Unsettled {
    entries: Vec<QueuedDeletion>,
    attempts: Attempts,
}

/// What was handed to the announcer.
#[derive(Debug)]
struct Announced {
    /// Whether there may have been anything so far.
    something: bool,
}

/// What happens to the anycast addresses of this node: a route is there before its
/// address is announced, and goes after the address has been withdrawn. One that gets another
/// state does not go.
#[derive(Debug, Clone, Copy)]
enum Change {
    Gain,
    Loss,
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler").field("backends", &self.backends).finish_non_exhaustive()
    }
}

/// The addresses of pods that got them before the node's prefixes were changed to `cidrs`.
pub(crate) fn exceptions<'a>(
    records: impl IntoIterator<Item = &'a Attachment>,
    cidrs: NodeCidrs,
) -> BTreeSet<IpAddr> {
    let committed = records.into_iter().filter(|record| record.state == AttachmentState::Committed);
    committed.flat_map(|record| record.addresses.iter()).filter(|address| !cidrs.contain(*address)).collect()
}

/// The configured one, else the node's first global IPv4 address, else 32 bits of
/// the node's name.
fn router_id(node: &Node) -> Ipv4Addr {
    let configured = node.config.bgp.as_ref().and_then(|bgp| bgp.router_id);
    configured.or(node.facts.first_global_ipv4).unwrap_or_else(|| {
        let hash = crate::attachment::fnv1a_32(node.config.name.as_str().as_bytes());
        // Zero is no identifier (RFC 6286).
        Ipv4Addr::from_bits(hash.max(1))
    })
}
