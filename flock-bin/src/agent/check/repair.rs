//! Mending while no agent runs.

use std::sync::Arc;
use std::time::Duration;

use flock_core::announcer::MemoryAnnouncer;
use flock_core::client::SOCKET_NAME;
use flock_core::clock::SystemClock;
use flock_core::dataplane::Dataplane;
use flock_core::handler::{Backends, Handler, Settings};
use flock_core::ipam::MemoryIpam;
use flock_core::node_config::NodeConfig;
use flock_core::server::Claim;

use crate::agent::check::CheckError;
use crate::agent::check::options::CheckOptions;
use crate::agent::pods::NobodyKnows;
use crate::agent::records;

/// Does with records and kernel what a starting agent does. What is announced, and the queue of
/// deletions, are left to the next agent; none can start meanwhile.
pub(super) async fn offline(
    options: &CheckOptions,
    dataplane: Arc<dyn Dataplane>,
    config: NodeConfig,
    boot_id: &str,
) -> Result<(), CheckError> {
    let _alone = Claim::of(&options.run_dir.join(SOCKET_NAME)).map_err(CheckError::AgentRuns)?;
    let clock = Arc::new(SystemClock);
    let compose = |store| {
        let backends = Backends {
            ipam: Arc::new(MemoryIpam::new(clock.clone(), Duration::ZERO, 0)),
            store: Arc::new(store),
            dataplane,
            announcer: Arc::new(MemoryAnnouncer::default()),
            pods: Arc::new(NobodyKnows),
            clock,
        };
        // Nobody would end a withdrawal.
        let settings = Settings { convergence_delay: Duration::ZERO, ..Settings::new(boot_id) };
        Handler::new(backends, config, settings)
    };
    let (handler, _) = records::recovered::<CheckError>(&options.run_dir, compose).await?;
    // The kernel alone is told: there is no announcer.
    Ok(handler.publish().await?)
}
