use flock_bird::BirdConfig;
use flock_core::announcer::{MemoryAnnouncer, RouteAnnouncer};
use flock_core::clock::ManualClock;
use flock_core::handler::{Backends, Settings};
use flock_core::node_config::NodeConfig;
use tempfile::TempDir;

use super::*;
use crate::agent::in_memory;

const TIME: Duration = Duration::from_secs(20);

async fn handler(clock: &Arc<ManualClock>, announcer: Arc<dyn RouteAnnouncer>) -> Arc<Handler> {
    let backends = Backends { announcer, ..in_memory::backends(clock.clone()) };
    let config = NodeConfig::from_yaml(
        "{apiVersion: flock.fritzlab.net/v1alpha1, kind: NodeConfig, metadata: {name: host001}, \
         spec: {cidr4: 10.0.1.0/24, bgp: {asn: 64512, drainTime: 20, \
         peers: [{name: tor1, address: 192.0.2.1, asn: 64500}]}}}",
        "test",
    );
    let handler = Handler::new(backends, config.unwrap(), Settings::new("boot-1"));
    handler.recover(&[]).await.unwrap();
    handler.publish().await.unwrap();
    Arc::new(handler)
}

struct Lab {
    directory: TempDir,
    clock: Arc<ManualClock>,
    handler: Arc<Handler>,
    farewell: Arc<Farewell>,
}

impl Lab {
    async fn new() -> Self {
        Self::with(|_| None).await
    }

    /// With a BIRD that has its files in that directory, or none.
    async fn with(bird: impl FnOnce(&Path) -> Option<Arc<BirdAnnouncer>>) -> Self {
        let (directory, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
        let bird = bird(directory.path());
        let announcer = bird.clone().map(|bird| bird as Arc<dyn RouteAnnouncer>);
        let handler = handler(&clock, announcer.unwrap_or_else(|| Arc::new(MemoryAnnouncer::new()))).await;
        let farewell = Arc::new(Farewell::beside(&directory.path().join("bird.ctl")));
        // As an agent has left it that was killed.
        std::fs::write(directory.path().join("shutdown"), "Marked\n").unwrap();
        let (keeping, parted) = (Arc::clone(&farewell), Arc::clone(&handler));
        tokio::spawn(async move { keeping.keep_up(parted, bird, std::future::pending()).await });
        let lab = Self { directory, clock, handler, farewell };
        lab.until(None).await;
        lab
    }

    async fn until(&self, expected: Option<&str>) {
        let read = || std::fs::read_to_string(self.directory.path().join("shutdown")).ok();
        let reached = async {
            while read().as_deref() != expected {
                sleep(Duration::from_millis(10)).await;
            }
        };
        // The time is paused.
        let in_time = timeout(Duration::from_secs(60), reached).await;
        assert!(in_time.is_ok(), "{:?}, expected {expected:?}", read());
    }

    async fn says_all(&self) -> bool {
        timeout(Duration::from_secs(5), self.farewell.said(&self.handler)).await.is_ok()
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_ends_at_once_unless_the_node_shuts_down() {
    let lab = Lab::new().await;
    assert!(lab.says_all().await);
    lab.handler.set_drain(DrainReason::NodeConfig, true);
    assert!(lab.says_all().await);
    lab.until(None).await;
    lab.handler.set_drain(DrainReason::Shutdown, true);
    lab.until(Some("Marked\n")).await;
    assert!(!lab.says_all().await);
    lab.clock.advance(TIME);
    lab.until(Some("Withdrawn\n")).await;
    assert!(lab.says_all().await);
}

/// It may be ended before it has said anything.
#[tokio::test(start_paused = true)]
async fn an_agent_that_has_just_heard_of_the_shutdown_does_not_end() {
    let lab = Lab::new().await;
    lab.handler.set_drain(DrainReason::Shutdown, true);
    assert!(!lab.says_all().await);
}

/// Who is not there announces nothing, and begins with what it finds. In the time of the machine,
/// since files are written meanwhile.
#[tokio::test]
async fn an_agent_ends_though_bird_is_away() {
    let lab = Lab::with(|directory| {
        let config = BirdConfig {
            config_path: directory.join("bird.conf"),
            socket_path: directory.join("bird.ctl"),
            ..BirdConfig::new(70)
        };
        Some(Arc::new(BirdAnnouncer::start(&config).unwrap()))
    })
    .await;
    lab.handler.set_drain(DrainReason::Shutdown, true);
    lab.until(Some("Marked\n")).await;
    lab.clock.advance(TIME);
    lab.until(Some("Withdrawn\n")).await;
    assert!(lab.says_all().await);
    let config = std::fs::read_to_string(lab.directory.path().join("bird.conf")).unwrap();
    assert!(config.contains("export none;"), "{config}");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_was_called_off_leaves_nothing() {
    let lab = Lab::new().await;
    lab.handler.set_drain(DrainReason::Shutdown, true);
    lab.until(Some("Marked\n")).await;
    lab.handler.set_drain(DrainReason::Shutdown, false);
    lab.until(None).await;
    assert!(lab.says_all().await);
}

#[tokio::test(start_paused = true)]
async fn the_next_agent_reads_what_the_last_one_has_kept() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let kept = Kept::of_run_dir(directory.path());
    assert_eq!(kept.read(), None);
    let handler = handler(&clock, Arc::new(MemoryAnnouncer::new())).await;
    tokio::spawn(kept.clone().keep_up(Arc::clone(&handler), std::future::pending()));
    let until = async |expected: Option<Draining>| {
        let expected = Some(DrainRecord { boot_id: "boot-1".to_owned(), draining: expected });
        let reached = async {
            while kept.read() != expected {
                // The paused time goes on only where everybody waits for it.
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(60), reached).await.expect("it is kept in time");
    };
    until(None).await;
    clock.advance(TIME);
    handler.set_drain(DrainReason::Cordon, true);
    until(Some(Draining { since_ms: 20_000, reasons: [DrainReason::Cordon].into(), withdrawn: false })).await;
    handler.set_drain(DrainReason::Cordon, false);
    until(None).await;
    std::fs::write(directory.path().join("drain.json"), "{").unwrap();
    assert_eq!(kept.read(), None);
}
