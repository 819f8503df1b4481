//! [`BirdAnnouncer`], and what can be seen of it from outside.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use flock_core::announcer::{AnnounceError, Announcements, RouteAnnouncer};
use flock_core::node_config::Family;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::BirdConfig;
use crate::control::Client;
use crate::file::ConfigFile;
use crate::render::Renderer;
use crate::speaker::{Speaker, Target};

mod task;

/// Announces routes through BIRD 2.
///
/// [`sync`](RouteAnnouncer::sync) renders the wanted state, which fails at once with
/// [`AnnounceError::Invalid`] if it can't be expressed, hands the text over and returns: who adds
/// a pod does not wait for BIRD. One task owns the file and the way to BIRD. It applies the first
/// change at once and those that follow within [`BirdConfig::debounce`] together; it tries
/// again by itself, with growing pauses of at most 5 s, while BIRD is away, hangs, or the
/// file can't be written. How it goes is logged, and can be watched with [`status`](Self::status)
/// and awaited with [`applied`](Self::applied).
///
/// Dropping it ends the task at once; [`shutdown`](Self::shutdown) applies first what is waiting.
/// BIRD goes on with what it has in both cases.
pub struct BirdAnnouncer {
    renderer: Renderer,
    handed: Mutex<Handed>,
    status: Arc<watch::Sender<Status>>,
    outcomes: Arc<Outcomes>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// How far the last state that was handed over has come. States are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Nothing was handed over yet.
    Idle,
    /// It waits for its turn, or for BIRD.
    Pending {
        /// Which state.
        generation: u64,
    },
    /// BIRD has taken it.
    Applied {
        /// Which state.
        generation: u64,
    },
    /// The last attempt failed. Whether another one follows by itself is what
    /// [`AnnounceError::retry`] says.
    Failed {
        /// Which state.
        generation: u64,
        /// Why.
        error: AnnounceError,
    },
}

/// How many attempts ended how, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// BIRD has taken the configuration.
    pub applied: u64,
    /// BIRD has refused it.
    pub refused: u64,
    /// BIRD was away or hung, or the file could not be written.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Outcomes {
    applied: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Outcomes {
    fn add(&self, outcome: &Result<(), AnnounceError>) {
        let count = match outcome {
            Ok(()) => &self.applied,
            Err(AnnounceError::Refused { .. }) => &self.refused,
            Err(_) => &self.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Status {
    /// The state that is meant; 0 before the first.
    pub fn generation(&self) -> u64 {
        match self {
            Self::Idle => 0,
            Self::Pending { generation } | Self::Applied { generation } | Self::Failed { generation, .. } => {
                *generation
            }
        }
    }
}

/// What the task is to reach. Without `Debug`, as the text holds passwords.
#[derive(Clone)]
struct Wanted {
    generation: u64,
    text: Arc<str>,
    /// Whether BIRD is to take it even if it said that it has.
    again: bool,
}

struct Handed {
    last: Wanted,
    /// Families that have prefixes and no peer, as they were warned of.
    silent: Vec<&'static str>,
    /// Closed by `shutdown`.
    to_task: Option<watch::Sender<Wanted>>,
}

impl BirdAnnouncer {
    /// Starts the task on the current tokio runtime. Nothing is written before the first state.
    pub fn start(config: &BirdConfig) -> Result<Self, AnnounceError> {
        let file = ConfigFile::new(&config.config_path)?;
        let client = Client::new(&config.socket_path, config.timeout);
        Self::with_target(Speaker::new(file, client), config)
    }

    fn with_target(target: impl Target, config: &BirdConfig) -> Result<Self, AnnounceError> {
        let renderer = Renderer::new(config.route_protocol)?
            .with_unannounced_metrics(config.unannounced_metrics.clone());
        let runtime = Handle::try_current()
            .map_err(|error| AnnounceError::Backend(format!("start it on a tokio runtime: {error}")))?;
        let nothing = Wanted { generation: 0, text: Arc::from(""), again: false };
        let (to_task, wanted) = watch::channel(nothing.clone());
        let status = Arc::new(watch::Sender::new(Status::Idle));
        let settled = task::SettledAtEnd(Arc::clone(&status));
        let outcomes = Arc::<Outcomes>::default();
        let task = task::run(target, wanted, settled, Arc::clone(&outcomes), config.debounce);
        let task = runtime.spawn(task);
        Ok(Self {
            renderer,
            handed: Mutex::new(Handed { last: nothing, silent: Vec::new(), to_task: Some(to_task) }),
            status,
            outcomes,
            task: Mutex::new(Some(task)),
        })
    }

    /// How far the last state has come, now and at each change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// How the attempts since the start have ended.
    pub fn counts(&self) -> Counts {
        let Outcomes { applied, refused, failed } = &*self.outcomes;
        let [applied, refused, failed] =
            [applied, refused, failed].map(|count| count.load(Ordering::Relaxed));
        Counts { applied, refused, failed }
    }

    /// Waits until the state that was last handed over is applied, or an attempt at it has
    /// failed. Cancel safe.
    pub async fn applied(&self) -> Result<(), AnnounceError> {
        let generation = lock(&self.handed).last.generation;
        let settled =
            |status: &Status| status.generation() >= generation && !matches!(status, Status::Pending { .. });
        match self.status().wait_for(settled).await.as_deref() {
            Ok(Status::Failed { error, .. }) => Err(error.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(ended()),
        }
    }

    /// Has BIRD take the last state once more, also where it said that it has: somebody else may
    /// have told it otherwise since. Ready when that is done, or has failed.
    pub async fn reapply(&self) -> Result<(), AnnounceError> {
        {
            let mut handed = lock(&self.handed);
            if handed.last.generation == 0 {
                return Ok(());
            }
            let text = Arc::clone(&handed.last.text);
            self.hand_over(&mut handed, text, true)?;
        }
        self.applied().await
    }

    fn hand_over(&self, handed: &mut Handed, text: Arc<str>, again: bool) -> Result<(), AnnounceError> {
        let next = Wanted { generation: handed.last.generation + 1, text, again };
        let Some(to_task) = &handed.to_task else { return Err(ended()) };
        // The status first: the task may be done before this function is.
        self.status.send_replace(Status::Pending { generation: next.generation });
        if to_task.send(next.clone()).is_err() {
            self.status.send_replace(Status::Failed { generation: next.generation, error: ended() });
            return Err(ended());
        }
        handed.last = next;
        Ok(())
    }

    /// Applies what is waiting, once, and ends the task. Takes at most the time of two exchanges
    /// with BIRD. Every later `sync` fails.
    pub async fn shutdown(&self) {
        lock(&self.handed).to_task = None;
        let task = lock(&self.task).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the announcer's task did not end by itself");
        }
    }
}

#[async_trait]
impl RouteAnnouncer for BirdAnnouncer {
    async fn sync(&self, wanted: &Announcements) -> Result<(), AnnounceError> {
        let text = self.renderer.render(wanted)?;
        let mut handed = lock(&self.handed);
        let known = handed.last.generation > 0 && *handed.last.text == *text;
        // A state that failed is tried again when it is asked for again.
        if known && !matches!(*self.status.borrow(), Status::Failed { .. }) {
            return Ok(());
        }
        self.hand_over(&mut handed, Arc::from(text), false)?;
        let silent = families_without_peer(wanted);
        if silent != handed.silent {
            for family in &silent {
                tracing::warn!(
                    family,
                    "the node has prefixes of this family and no BGP peer that takes it: \
                     they are announced to nobody; add such a peer to the NodeConfig"
                );
            }
            handed.silent = silent;
        }
        Ok(())
    }
}

impl Drop for BirdAnnouncer {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

impl fmt::Debug for BirdAnnouncer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BirdAnnouncer").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

/// Only of a node that has peers: one without announces nothing, and means it.
fn families_without_peer(wanted: &Announcements) -> Vec<&'static str> {
    let mut silent = Vec::new();
    for (name, family) in [("IPv6", Family::Ipv6), ("IPv4", Family::Ipv4)] {
        let has_prefix = wanted.summaries.iter().any(|prefix| Family::of(prefix.addr()) == family)
            || wanted
                .anycast
                .iter()
                .chain(&wanted.standby)
                .chain(&wanted.exceptions)
                .any(|host| Family::of(*host) == family);
        let has_peer = wanted.peers.iter().any(|peer| peer.families.contains(&family));
        if has_prefix && !has_peer && !wanted.peers.is_empty() {
            silent.push(name);
        }
    }
    silent
}

fn ended() -> AnnounceError {
    AnnounceError::Backend("the announcer was shut down, nothing is announced any more".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
