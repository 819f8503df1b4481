//! The agent: composes the backends and serves the plugin.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_bird::{BirdAnnouncer, BirdConfig};
use flock_core::announcer::{AnnounceError, MemoryAnnouncer, RouteAnnouncer};
use flock_core::clock::{Clock, SystemClock};
use flock_core::dataplane::DataplaneError;
use flock_core::handler::{Backends, Handler, HandlerError, Settings};
use flock_core::ipam::MemoryIpam;
use flock_core::name::NodeName;
use flock_core::node_config::{NodeConfig, NodeConfigError};
use flock_core::pods::{PodDirectory, PodSource};
use flock_core::server::{BindError, Server};
use flock_core::store::{FileStore, StoreError};
use flock_netlink::NetlinkDataplane;

use crate::agent::options::{Announcer, Options};
use crate::agent::pods::PlainPods;
use crate::agent::service::AgentService;

pub mod http;
pub mod metered;
pub mod metrics;
pub mod options;
mod pods;
pub mod readiness;
mod service;

/// How long the agent waits for its NodeConfig before it gives up.
const NODE_CONFIG_WAIT: Duration = Duration::from_secs(60);
/// How often it looks whether the file is there.
const NODE_CONFIG_POLL: Duration = Duration::from_millis(200);

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The NodeConfig did not appear.
    #[error(
        "no NodeConfig {node} after {} s: {}: {reason}; write it there or say where it is with --node-config",
        NODE_CONFIG_WAIT.as_secs(),
        .path.display()
    )]
    NoNodeConfig {
        /// Whose.
        node: NodeName,
        /// Where it was looked for.
        path: PathBuf,
        /// The system's answer.
        reason: io::Error,
    },
    /// The NodeConfig can't be used.
    #[error(transparent)]
    NodeConfig(#[from] NodeConfigError),
    /// The NodeConfig is another node's.
    #[error(
        "{} is the NodeConfig of {found}, expected that of {expected}; correct metadata.name or --node-name",
        .path.display()
    )]
    OtherNode {
        /// This node.
        expected: NodeName,
        /// The one it is for.
        found: NodeName,
        /// The file.
        path: PathBuf,
    },
    /// The records can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel can't be talked to.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// BIRD's configuration can't be written.
    #[error(transparent)]
    Announcer(#[from] AnnounceError),
    /// Records of this boot can't be told from those of another.
    #[error("can't read which boot this is from /proc/sys/kernel/random/boot_id: {0}; mount /proc")]
    BootId(#[source] io::Error),
    /// The kernel or the records could not be brought in order.
    #[error("the node can't be brought in order: {0}")]
    Recover(#[from] HandlerError),
}

/// Serves until `shutdown` is ready.
///
/// The socket is there at once; what comes before the node is ready is answered with
/// "try again later" (ADD, CHECK) or waits (DEL).
pub async fn run(options: Options, shutdown: impl Future<Output = ()> + Send) -> Result<(), AgentError> {
    let started = Instant::now();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let until_stopped = || {
        let mut stopped = stopped.clone();
        async move {
            // An error means that the sender is gone, which is a stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };

    let server = Server::bind(options.run_dir.join("flock.sock"))?;
    let service = Arc::new(AgentService::new());
    let serving = tokio::spawn(server.run(Arc::clone(&service) as _, until_stopped()));

    let mut shutdown = std::pin::pin!(shutdown);
    let outcome = tokio::select! {
        () = &mut shutdown => None,
        outcome = start(&options) => Some(outcome),
    };
    let (mut reaper, mut announcer) = (None, None);
    let result = match outcome {
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok(Started { handler, bird })) => {
            announcer = bird;
            service.ready(Arc::clone(&handler));
            tracing::info!(took_ms = started.elapsed().as_millis(), "ready");
            let until = until_stopped();
            reaper = Some(tokio::spawn(async move { handler.run_reaper(until).await }));
            shutdown.await;
            Ok(())
        }
    };
    tracing::info!("stopping; pods keep their addresses, routes and announcements");
    // A receiver that is gone has stopped already.
    let _ = stop.send(true);
    match serving.await {
        Ok(0) => {}
        Ok(unfinished) => {
            tracing::warn!(unfinished, "requests were still at work; the next start takes them up");
        }
        Err(error) => tracing::error!(%error, "the server ended badly"),
    }
    if let Some(reaper) = reaper
        && let Err(error) = reaper.await
    {
        tracing::error!(%error, "the reaper ended badly");
    }
    if let Some(announcer) = announcer {
        // The last requests may have changed what is to be announced.
        announcer.shutdown().await;
    }
    result
}

struct Started {
    handler: Arc<Handler>,
    bird: Option<Arc<BirdAnnouncer>>,
}

async fn start(options: &Options) -> Result<Started, AgentError> {
    let config = node_config(options).await?;
    let (store, set_aside) = FileStore::open(options.run_dir.join("attachments")).await?;
    let clock = Arc::new(SystemClock);
    let dataplane = NetlinkDataplane::new()?;
    let bird = match options.announcer {
        Announcer::None => None,
        Announcer::Bird => Some(Arc::new(start_bird(options)?)),
    };
    let announcer: Arc<dyn RouteAnnouncer> = match &bird {
        None => Arc::new(MemoryAnnouncer::default()),
        Some(bird) => Arc::clone(bird) as _,
    };
    let pods: Arc<dyn PodSource> = match &options.pods {
        Some(directory) => Arc::new(PodDirectory::new(directory)),
        None => Arc::new(PlainPods),
    };
    let backends = Backends {
        ipam: Arc::new(MemoryIpam::new(clock.clone(), options.address_rest, clock_seed())),
        store: Arc::new(store),
        dataplane: Arc::new(dataplane),
        announcer,
        pods,
        clock,
    };
    let unreadable: Vec<_> = set_aside.iter().filter_map(|file| file.key.clone()).collect();
    let handler = Handler::new(backends, config, Settings::new(boot_id()?));
    let recovery = handler.recover(&unreadable).await?;
    tracing::info!(
        committed = recovery.committed,
        repaired = recovery.repaired,
        undone = recovery.undone,
        other_boot = recovery.other_boot,
        orphans = recovery.orphans,
        set_aside = set_aside.len(),
        salvaged = recovery.salvaged,
        "records read"
    );
    Ok(Started { handler: Arc::new(handler), bird })
}

/// Reads the NodeConfig, waiting for the file to appear.
async fn node_config(options: &Options) -> Result<NodeConfig, AgentError> {
    let path = &options.node_config;
    let deadline = tokio::time::Instant::now() + NODE_CONFIG_WAIT;
    let mut told = false;
    let text = loop {
        match tokio::fs::read_to_string(path).await {
            Ok(text) => break text,
            Err(error) if tokio::time::Instant::now() >= deadline => {
                return Err(AgentError::NoNodeConfig {
                    node: options.node_name.clone(),
                    path: path.clone(),
                    reason: error,
                });
            }
            Err(error) => {
                if !told {
                    tracing::warn!(path = %path.display(), %error, "waiting for the NodeConfig");
                    told = true;
                }
                tokio::time::sleep(NODE_CONFIG_POLL).await;
            }
        }
    };
    let config = NodeConfig::from_yaml(&text, &path.display().to_string())?;
    if config.name != options.node_name {
        return Err(AgentError::OtherNode {
            expected: options.node_name.clone(),
            found: config.name,
            path: path.clone(),
        });
    }
    Ok(config)
}

fn start_bird(options: &Options) -> Result<BirdAnnouncer, AgentError> {
    let config = BirdConfig {
        config_path: options.bird_config.clone(),
        socket_path: options.bird_socket.clone(),
        timeout: options.birdc_timeout,
        ..BirdConfig::new(flock_netlink::ROUTE_PROTOCOL)
    };
    Ok(BirdAnnouncer::start(&config)?)
}

/// What tells this boot from another one.
fn boot_id() -> Result<String, AgentError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let id = std::fs::read_to_string(path).map_err(AgentError::BootId)?;
    Ok(id.trim().to_owned())
}

/// Differs from start to start; `ip-algo: random` needs no more.
fn clock_seed() -> u64 {
    SystemClock.unix_ms() ^ (u64::from(std::process::id()) << 32)
}
