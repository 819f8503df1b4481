//! The agent: composes the backends and serves the plugin.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_bird::announcer::Status;
use flock_bird::control::Client;
use flock_bird::{BirdAnnouncer, BirdConfig};
use flock_core::announcer::{MemoryAnnouncer, RouteAnnouncer};
use flock_core::boot;
use flock_core::clock::{Clock, SystemClock};
use flock_core::deletions::DeletionQueue;
use flock_core::drain::DrainPhase;
use flock_core::handler::{Backends, Handler, Replay, Settings};
use flock_core::ipam::MemoryIpam;
use flock_core::name::NodeName;
use flock_core::node_config::NodeConfig;
use flock_core::pods::PodSource;
use flock_core::server::{Server, Service};
use flock_netlink::NetlinkDataplane;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::agent::bird_limits::BirdLimits;
use crate::agent::cluster::Membership;
use crate::agent::drain::{Farewell, Kept};
use crate::agent::http::{Endpoints, HttpServer};
use crate::agent::inspected::Inspected;
use crate::agent::metered::{MeteredService, metered};
use crate::agent::metrics::{BirdConfigurations, Metrics};
use crate::agent::options::{Announcer, Options, Source};
use crate::agent::readiness::Readiness;
use crate::agent::reporting::ReportingService;
use crate::agent::service::AgentService;
use crate::agent::sessions::Sessions;
use crate::agent::tasks::Tasks;

mod bird_limits;
pub mod check;
mod cluster;
mod drain;
mod error;
mod files;
pub mod http;
#[cfg(test)]
mod in_memory;
mod inspected;
pub mod log;
pub mod metered;
pub mod metrics;
pub mod options;
mod passwords;
mod peers;
mod pods;
pub mod readiness;
mod records;
mod remembered;
mod reporting;
mod service;
mod sessions;
mod tasks;
mod teller;

pub use error::AgentError;

/// How long the agent waits for its NodeConfig before it gives up.
const NODE_CONFIG_WAIT: Duration = Duration::from_secs(60);

/// Serves until `shutdown` is ready.
///
/// The socket is there at once; what comes before the node is ready is answered with
/// "try again later" (ADD, CHECK) or queued (DEL).
pub async fn run(options: Options, shutdown: impl Future<Output = ()> + Send) -> Result<(), AgentError> {
    run_with(options, |backends| backends, shutdown).await
}

/// The same on the backends that `wrap` makes of the real ones, for agents that look at
/// the calls, or break them. It is called once, before anything is asked of a backend.
pub async fn run_with(
    options: Options,
    wrap: impl FnOnce(Backends) -> Backends + Send,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AgentError> {
    let started = Instant::now();
    let mut tasks = Tasks::new();
    let readiness = watch::Sender::new(Readiness::waiting_for("the start"));
    let metrics = Arc::new(Metrics::new(readiness.subscribe()));

    let server = Server::bind(options.run_dir.join("flock.sock"))?;
    let bird = match options.announcer {
        Announcer::None => None,
        Announcer::Bird => Some(Arc::new(start_bird(&options)?)),
    };
    let sessions = bird
        .as_ref()
        .map(|bird| Sessions::new(bird.status(), peers::observe(bird, &options, &metrics, &mut tasks)));
    if let Some(address) = options.http_address {
        let endpoints = endpoints(&metrics, &readiness, bird.clone());
        tasks.spawn("the HTTP server", HttpServer::bind(address)?.run(endpoints, tasks.stopping()));
    }
    let supply = Supply::begin(&options, &metrics).await?;
    let service = Arc::new(AgentService::new(
        bird.as_deref().map(|bird| bird_limits(bird, &options)),
        readiness.subscribe(),
        DeletionQueue::of_run_dir(&options.run_dir),
    ));
    let speaker = bird.clone().map(|bird| (bird, options.bird_socket.clone()));
    let server = server.with_inspection(Arc::new(Inspected::new(Arc::clone(&service), speaker)));
    let mut answering: Arc<dyn Service> = Arc::clone(&service) as _;
    if let Supply::Cluster(membership) = &supply {
        answering = Arc::new(ReportingService::new(answering, membership.events(), readiness.subscribe()));
    }
    let answering = Arc::new(MeteredService::new(answering, &metrics));
    let serving = server.run(answering, tasks.stopping());
    tasks.spawn("the server", async move {
        let unfinished = serving.await;
        if unfinished > 0 {
            tracing::warn!(unfinished, "requests were still at work; the next start takes them up");
        }
    });

    let mut shutdown = std::pin::pin!(shutdown);
    let outcome = tokio::select! {
        () = &mut shutdown => None,
        ended = tasks.ended() => Some(Err(ended)),
        outcome = start(&options, supply, wrap, &metrics, &readiness, &service, bird.clone()) => Some(outcome),
    };
    let result = match outcome {
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok((handler, supply))) => {
            service.ready(Arc::clone(&handler));
            readiness.send_replace(Readiness::Ready);
            metrics.started(started.elapsed());
            tracing::info!(took_ms = started.elapsed().as_millis(), "ready");
            let following: Pin<Box<dyn Future<Output = ()> + Send>> = match supply {
                Supply::Cluster(membership) => Box::pin(membership.follow(Arc::clone(&handler), sessions)),
                Supply::Files { node_config, .. } => {
                    Box::pin(files::follow(options.node_name.clone(), node_config, Arc::clone(&handler)))
                }
            };
            let stopping = tasks.stopping();
            tasks.spawn("the task that follows the NodeConfig", async move {
                tokio::select! {
                    () = following => {}
                    () = stopping => {}
                }
            });
            let (draining, stopping) = (Arc::clone(&handler), tasks.stopping());
            tasks.spawn("the drain", async move { draining.run_drain(stopping).await });
            let (keeping, stopping) = (Kept::of_run_dir(&options.run_dir), tasks.stopping());
            tasks.spawn("the record of the drain", keeping.keep_up(Arc::clone(&handler), stopping));
            let farewell = Arc::new(Farewell::beside(&options.bird_socket));
            let (leaving, parted, speaker, stopping) =
                (Arc::clone(&farewell), Arc::clone(&handler), bird.clone(), tasks.stopping());
            tasks.spawn("the farewell", async move { leaving.keep_up(parted, speaker, stopping).await });
            let (reaping, stopping) = (Arc::clone(&handler), tasks.stopping());
            tasks.spawn("the reaper", async move { reaping.run_reaper(stopping).await });
            let (keeping, counting, stopping) =
                (Arc::clone(&handler), Arc::clone(&metrics), tasks.stopping());
            tasks.spawn("the keeper", async move {
                keeping.run_keeper(|repaired| counting.repaired(repaired.into(), 1), stopping).await;
            });
            let (following, stopping) = (Arc::clone(&handler), tasks.stopping());
            tasks.spawn("the task that follows the pods' readiness", async move {
                following.run_readiness(stopping).await;
            });
            let (interval, stopping) = (options.gc_interval, tasks.stopping());
            let collecting = Arc::clone(&handler);
            tasks.spawn("the collector", async move { collecting.run_collector(interval, stopping).await });
            let ending = async {
                shutdown.await;
                farewell.said(&handler).await;
            };
            tokio::select! {
                () = ending => Ok(()),
                ended = tasks.ended() => Err(ended),
            }
        }
    };
    tracing::info!("stopping; pods keep their addresses, routes and announcements");
    readiness.send_replace(Readiness::Stopping);
    tasks.stop().await;
    if let Some(bird) = bird {
        // The last requests may have changed what is to be announced.
        bird.shutdown().await;
    }
    result
}

/// Where NodeConfig and pods come from.
enum Supply {
    Files { node_config: PathBuf, pods: Option<PathBuf> },
    Cluster(Box<Membership>),
}

impl Supply {
    async fn begin(options: &Options, metrics: &Metrics) -> Result<Self, AgentError> {
        Ok(match options.source.clone() {
            Source::Files { node_config, pods } => Self::Files { node_config, pods },
            Source::Kubernetes { startup_taint } => {
                let membership =
                    Membership::begin(&options.node_name, &options.run_dir, startup_taint, metrics).await?;
                Self::Cluster(Box::new(membership))
            }
        })
    }

    async fn node_config(
        &mut self,
        node: &NodeName,
        readiness: &watch::Sender<Readiness>,
    ) -> Result<NodeConfig, AgentError> {
        match self {
            Self::Files { node_config, .. } => files::node_config(node, node_config).await,
            Self::Cluster(membership) => Ok(membership.node_config(readiness).await),
        }
    }

    fn pods(&self) -> Arc<dyn PodSource> {
        match self {
            Self::Files { pods, .. } => files::pods(pods.as_deref()),
            Self::Cluster(membership) => membership.pods(),
        }
    }
}

async fn start(
    options: &Options,
    mut supply: Supply,
    wrap: impl FnOnce(Backends) -> Backends + Send,
    metrics: &Arc<Metrics>,
    readiness: &watch::Sender<Readiness>,
    service: &AgentService,
    bird: Option<Arc<BirdAnnouncer>>,
) -> Result<(Arc<Handler>, Supply), AgentError> {
    let node = &options.node_name;
    readiness.send_replace(Readiness::waiting_for(format!("NodeConfig {node}")));
    let config = supply.node_config(node, readiness).await?;
    readiness.send_replace(Readiness::waiting_for("the records and the kernel to be brought in order"));
    let started = async {
        let handler = recovered(options, config, supply.pods(), wrap, metrics, bird.clone()).await?;
        service.recovered(Arc::clone(&handler));
        replay(&handler, options, metrics).await?;
        if let Supply::Cluster(membership) = &mut supply {
            membership.take_up_leaving(&handler).await;
        }
        handler.withhold().await;
        if handler.announced_drain() == Some(DrainPhase::Withdrawn) {
            // One that is away begins with what it finds.
            if let Some(bird) = bird.as_deref() {
                let _ = timeout(options.birdc_timeout, bird.applied()).await;
            }
        }
        handler.publish().await?;
        Ok(handler)
    };
    match (started.await, supply) {
        (Ok(handler), supply) => Ok((handler, supply)),
        (Err(error), Supply::Files { .. }) => Err(error),
        (Err(error), Supply::Cluster(membership)) => {
            membership.last_words(&error).await;
            Err(error)
        }
    }
}

/// A handler on the real backends that has taken up what the last agent left.
async fn recovered(
    options: &Options,
    config: NodeConfig,
    pods: Arc<dyn PodSource>,
    wrap: impl FnOnce(Backends) -> Backends + Send,
    metrics: &Arc<Metrics>,
    bird: Option<Arc<BirdAnnouncer>>,
) -> Result<Arc<Handler>, AgentError> {
    let settings = settings(options)?;
    let dataplane = Arc::new(NetlinkDataplane::with_proc(&options.proc_dir)?);
    let clock = Arc::new(SystemClock);
    let announcer: Arc<dyn RouteAnnouncer> = match bird {
        None => Arc::new(MemoryAnnouncer::default()),
        Some(bird) => bird,
    };
    let compose = |store| {
        let backends = Backends {
            ipam: Arc::new(MemoryIpam::new(clock.clone(), options.address_rest, clock_seed())),
            store: Arc::new(store),
            dataplane,
            announcer,
            pods,
            clock,
        };
        Handler::new(metered(wrap(backends), metrics), config, settings)
    };
    let (handler, recovery) = records::recovered::<AgentError>(&options.run_dir, compose).await?;
    metrics.recovered(&recovery);
    let handler = Arc::new(handler);
    let counting = Arc::clone(&handler);
    metrics.collected(move || counting.collected());
    let draining = Arc::clone(&handler);
    metrics.drain(move || draining.drain_phase());
    Ok(handler)
}

/// The queue is nobody's else by now: the socket listens, and deletions go to the handler.
async fn replay(handler: &Arc<Handler>, options: &Options, metrics: &Metrics) -> Result<(), AgentError> {
    let replay = handler.replay(&DeletionQueue::of_run_dir(&options.run_dir)).await?;
    if replay != Replay::default() {
        tracing::info!(
            done = replay.done,
            failed = replay.failed,
            other_boot = replay.other_boot,
            set_aside = replay.set_aside,
            "queued deletions carried out"
        );
    }
    let counting = Arc::clone(handler);
    metrics.queued_deletions(move || counting.queued_deletions());
    Ok(())
}

/// What is seen over HTTP. That BIRD is away makes no node unready: pods reach each other on it.
fn endpoints(
    metrics: &Arc<Metrics>,
    readiness: &watch::Sender<Readiness>,
    bird: Option<Arc<BirdAnnouncer>>,
) -> Endpoints {
    if let Some(bird) = bird.clone() {
        metrics.bird_configurations(move || {
            let counts = bird.counts();
            BirdConfigurations { applied: counts.applied, refused: counts.refused, failed: counts.failed }
        });
    }
    let notes = move || match bird.as_ref().map(|bird| bird.status().borrow().clone()) {
        Some(Status::Failed { error, .. }) => vec![format!("BIRD: {error}")],
        _ => Vec::new(),
    };
    Endpoints { metrics: Arc::clone(metrics), readiness: readiness.subscribe(), notes: Arc::new(notes) }
}

/// STATUS has two seconds in all.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

fn bird_limits(bird: &BirdAnnouncer, options: &Options) -> BirdLimits {
    let timeout = options.birdc_timeout.min(STATUS_TIMEOUT);
    BirdLimits::new(bird.status(), Client::new(&options.bird_socket, timeout))
}

fn start_bird(options: &Options) -> Result<BirdAnnouncer, AgentError> {
    let config = BirdConfig {
        config_path: options.bird_config.clone(),
        socket_path: options.bird_socket.clone(),
        timeout: options.birdc_timeout,
        unannounced_metrics: flock_netlink::UNANNOUNCED_METRICS.to_vec(),
        ..BirdConfig::new(flock_netlink::ROUTE_PROTOCOL)
    };
    Ok(BirdAnnouncer::start(&config)?)
}

/// Whatever stands in BIRD's configuration may have been written by an earlier agent.
fn settings(options: &Options) -> Result<Settings, AgentError> {
    let announced_before = options.announcer == Announcer::Bird && options.bird_config.exists();
    let boot_id = boot::id().map_err(AgentError::BootId)?;
    Ok(Settings {
        announced_before,
        collect_grace: options.gc_grace,
        drain: Kept::of_run_dir(&options.run_dir).read(),
        ..Settings::new(boot_id)
    })
}

/// Differs from start to start; `ip-algo: random` needs no more.
fn clock_seed() -> u64 {
    SystemClock.unix_ms() ^ (u64::from(std::process::id()) << 32)
}
