//! Mending while no agent runs.

use std::sync::Arc;

use flock_core::announcer::MemoryAnnouncer;
use flock_core::client::SOCKET_NAME;
use flock_core::clock::SystemClock;
use flock_core::dataplane::Dataplane;
use flock_core::handler::{Backends, Handler, Settings};
use flock_core::ipam::MemoryIpam;
use flock_core::node_config::NodeConfig;
use flock_core::server::Claim;
use flock_core::store::FileStore;

use crate::agent::check::CheckError;
use crate::agent::check::options::CheckOptions;
use crate::agent::pods::PlainPods;

/// Does what a starting agent does, without announcing anything. No agent can start meanwhile.
pub(super) async fn offline(
    options: &CheckOptions,
    dataplane: Arc<dyn Dataplane>,
    config: NodeConfig,
    boot_id: &str,
) -> Result<(), CheckError> {
    let _alone = Claim::of(&options.run_dir.join(SOCKET_NAME)).map_err(CheckError::AgentRuns)?;
    let (store, set_aside) = FileStore::open(options.run_dir.join("attachments")).await?;
    let clock = Arc::new(SystemClock);
    let backends = Backends {
        ipam: Arc::new(MemoryIpam::new(clock.clone(), std::time::Duration::ZERO, 0)),
        store: Arc::new(store),
        dataplane,
        announcer: Arc::new(MemoryAnnouncer::default()),
        pods: Arc::new(PlainPods),
        clock,
    };
    let unreadable: Vec<_> = set_aside.iter().filter_map(|file| file.key.clone()).collect();
    Handler::new(backends, config, Settings::new(boot_id)).recover(&unreadable).await?;
    Ok(())
}
