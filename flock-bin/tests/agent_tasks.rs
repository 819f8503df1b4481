//! An agent of which a part has died ends, so that whoever started it starts it again.
#![cfg(feature = "agent")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_bin::agent::options::{Options, ThisMachine};
use flock_bin::agent::{self, AgentError};
use flock_core::announcer::{AnnounceError, MockRouteAnnouncer};
use flock_core::clock::Clock;
use flock_core::dataplane::{MemoryDataplane, MockDataplane, NodeFacts};
use flock_core::handler::Backends;
use tokio::time::timeout;

/// Nothing here takes longer, unless it is broken.
const AT_MOST: Duration = Duration::from_secs(20);

const NODE_CONFIG: &str = "
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: {name: host001}
spec: {cidr6: 2001:db8:1::/64, bgp: {asn: 64512}}
";

/// Runs an agent, whose node is one in memory, on the backends that `break_one` makes of its own,
/// and tells how it has ended.
async fn end_of_an_agent(break_one: impl FnOnce(Backends) -> Backends + Send) -> AgentError {
    let folder = tempfile::tempdir().unwrap();
    let [config, run] = ["node.yaml", "run"].map(|name| folder.path().join(name));
    std::fs::write(&config, NODE_CONFIG).unwrap();
    let options = [
        "flock-agent".as_ref(),
        "--node-name=host001".as_ref(),
        "--announcer=none".as_ref(),
        "--node-config".as_ref(),
        config.as_os_str(),
        "--run-dir".as_ref(),
        run.as_os_str(),
    ];
    let options = Options::read(options, &ThisMachine).unwrap();
    let in_memory = |backends| Backends { dataplane: Arc::new(MemoryDataplane::new()), ..backends };
    let run = agent::run_with(options, |backends| break_one(in_memory(backends)), pending());
    timeout(AT_MOST, run).await.expect("it goes on as if nothing had happened").unwrap_err()
}

#[tokio::test]
async fn the_end_of_the_collector_ends_the_agent() {
    #[derive(Debug)]
    struct Broken;

    impl Clock for Broken {
        fn now(&self) -> Instant {
            // The start is in no task of its own here.
            assert!(tokio::task::try_id().is_none(), "the clock has stopped");
            Instant::now()
        }

        fn unix_ms(&self) -> u64 {
            0
        }
    }

    let error = end_of_an_agent(|backends| Backends { clock: Arc::new(Broken), ..backends }).await;
    let said = error.to_string();
    assert!(said.contains("the collector") && said.contains("the clock has stopped"), "{said}");
}

#[tokio::test]
async fn the_end_of_the_keeper_ends_the_agent() {
    let mut deaf = MockDataplane::new();
    deaf.expect_prepare().returning(|| Ok(NodeFacts::default()));
    deaf.expect_list().returning(|| Ok(Vec::new()));
    deaf.expect_check().returning(|_| Ok(Vec::new()));
    deaf.expect_check_node().returning(|_| Ok(Vec::new()));
    deaf.expect_set_summaries().returning(|_| Ok(()));
    deaf.expect_set_anycast().returning(|_| Ok(()));
    deaf.expect_disturbed().returning(|| panic!("nothing is heard"));
    let error = end_of_an_agent(|backends| Backends { dataplane: Arc::new(deaf), ..backends }).await;
    let said = error.to_string();
    assert!(said.contains("the keeper") && said.contains("nothing is heard"), "{said}");
}

/// What the start could not announce, the reaper does.
#[tokio::test]
async fn the_end_of_the_reaper_ends_the_agent() {
    let mut mute = MockRouteAnnouncer::new();
    mute.expect_sync().returning(|_| {
        assert!(tokio::task::try_id().is_none(), "nobody is told");
        Err(AnnounceError::Unreachable { endpoint: "bird.ctl".into(), reason: "of this test".into() })
    });
    let error = end_of_an_agent(|backends| Backends { announcer: Arc::new(mute), ..backends }).await;
    let said = error.to_string();
    assert!(said.contains("the reaper") && said.contains("nobody is told"), "{said}");
}
