//! A node that is drained: what it announces, when, and what the next agent makes of it.

use std::collections::BTreeSet;
use std::time::Duration;

use flock_core::clock::Clock as _;
use flock_core::drain::{DrainPhase, DrainReason, DrainRecord, Draining};
use flock_core::handler::Settings;
use flock_core::node_config::NodeConfig;
use proptest::prelude::*;

use crate::faults::Faults;
use crate::node::{NODE_CONFIG, Node, World, settings};

const TIME: Duration = Duration::from_secs(20);

fn config(drain: bool) -> String {
    NODE_CONFIG.replace("asn: 64512,", &format!("asn: 64512, drain: {drain}, drainTime: 20,"))
}

/// An agent that has announced the node, and knows what the last one left.
async fn agent(world: &World, drain: bool, record: Option<DrainRecord>) -> Node {
    let settings = Settings { drain: record, ..settings() };
    let node = world.node_with(Faults::failing([]), &config(drain), settings);
    node.recover().await.unwrap();
    node
}

async fn reconfigure(node: &Node, drain: bool) {
    let config = NodeConfig::from_yaml(&config(drain), "test").unwrap();
    node.handler.reconfigure(config).await.unwrap();
}

fn announced(world: &World) -> Option<DrainPhase> {
    world.announcer.announced().unwrap().drain
}

/// Lets the drain be followed until that is announced. The clock stands still meanwhile, so that
/// nothing else can come of it.
async fn followed_until(world: &World, node: &Node, expected: Option<DrainPhase>) {
    let reached = async {
        while announced(world) != expected {
            // The paused time goes on only where everybody waits for it.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        biased;
        () = reached => {}
        () = node.handler.run_drain(std::future::pending()) => unreachable!("it never ends"),
        () = tokio::time::sleep(Duration::from_secs(3600)) => {
            panic!("{:?} is announced, expected {expected:?}", announced(world));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_announced_then_withdrawn_after_its_time_and_undone() {
    let world = World::new();
    let node = agent(&world, false, None).await;
    assert_eq!(announced(&world), None);
    reconfigure(&node, true).await;
    assert_eq!(announced(&world), Some(DrainPhase::Marked));
    // All that it was, but for the mark.
    assert_eq!(world.announcer.announced().unwrap().summaries.len(), 2);
    world.clock.advance(TIME.saturating_sub(Duration::from_millis(1)));
    node.handler.publish().await.unwrap();
    assert_eq!(announced(&world), Some(DrainPhase::Marked));
    world.clock.advance(Duration::from_millis(1));
    followed_until(&world, &node, Some(DrainPhase::Withdrawn)).await;
    reconfigure(&node, false).await;
    assert_eq!(announced(&world), None);
    // The next one begins anew.
    reconfigure(&node, true).await;
    assert_eq!(announced(&world), Some(DrainPhase::Marked));
}

/// Whatever else makes the node announce something.
#[tokio::test(start_paused = true)]
async fn the_time_counts_from_the_first_reason_to_the_end_of_the_last_one() {
    let world = World::new();
    let node = agent(&world, false, None).await;
    node.handler.set_drain(DrainReason::Cordon, true);
    followed_until(&world, &node, Some(DrainPhase::Marked)).await;
    world.clock.advance(TIME / 2);
    node.handler.set_drain(DrainReason::Shutdown, true);
    world.clock.advance(TIME / 2);
    followed_until(&world, &node, Some(DrainPhase::Withdrawn)).await;
    node.handler.set_drain(DrainReason::Cordon, false);
    node.add(1, &[("anycast", "2001:db8:a::1")]).await.unwrap();
    assert_eq!(announced(&world), Some(DrainPhase::Withdrawn));
    node.handler.set_drain(DrainReason::Shutdown, false);
    followed_until(&world, &node, None).await;
}

/// A shorter one withdraws at once, also if nothing else changes.
#[tokio::test(start_paused = true)]
async fn another_time_counts_for_the_drain_that_goes_on() {
    let world = World::new();
    let node = agent(&world, false, None).await;
    reconfigure(&node, true).await;
    world.clock.advance(Duration::from_secs(10));
    let shorter = config(true).replace("drainTime: 20", "drainTime: 10");
    node.handler.reconfigure(NodeConfig::from_yaml(&shorter, "test").unwrap()).await.unwrap();
    assert_eq!(announced(&world), Some(DrainPhase::Withdrawn));
    // With a longer one nothing is announced once more.
    reconfigure(&node, true).await;
    assert_eq!(announced(&world), Some(DrainPhase::Withdrawn));
    let record = node.handler.drain_record();
    drop(node);
    agent(&world, true, Some(record)).await;
    assert_eq!(announced(&world), Some(DrainPhase::Withdrawn));
}

/// By NTP after a boot without a clock that runs on, for example.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_neither_hurries_a_drain_nor_begins_it_anew() {
    const DAY_MS: u64 = 86_400_000;
    let world = World::new();
    world.clock.set_unix_ms(10 * DAY_MS);
    let node = agent(&world, false, None).await;
    reconfigure(&node, true).await;
    world.clock.set_unix_ms(11 * DAY_MS);
    node.handler.publish().await.unwrap();
    assert_eq!(announced(&world), Some(DrainPhase::Marked));
    world.clock.advance(TIME);
    world.clock.set_unix_ms(9 * DAY_MS);
    followed_until(&world, &node, Some(DrainPhase::Withdrawn)).await;
}

/// The kernel has no part in it.
#[tokio::test(start_paused = true)]
async fn a_kernel_that_refuses_routes_keeps_no_drain_from_being_announced() {
    let world = World::new();
    let node = agent(&world, false, None).await;
    for (wanted, phase) in [(true, Some(DrainPhase::Marked)), (false, None)] {
        let before = node.faults.log().len();
        node.faults.fail_later(2);
        node.handler.set_drain(DrainReason::Cordon, wanted);
        followed_until(&world, &node, phase).await;
        node.handler.run_drain(tokio::task::yield_now()).await;
        let calls = ["store.list", "announcer.sync", "dataplane.set_anycast"];
        assert_eq!(node.faults.log()[before..before + 2], calls[..2]);
        assert_eq!(node.handler.announced_drain(), phase);
    }
}

/// The phase that was handed over is the one that was taken.
#[tokio::test(start_paused = true)]
async fn a_drain_that_could_not_be_announced_does_not_count_as_announced() {
    let world = World::new();
    let node = agent(&world, false, None).await;
    node.handler.set_drain(DrainReason::Cordon, true);
    node.faults.fail_later(1);
    node.handler.run_drain(tokio::task::yield_now()).await;
    assert_eq!((announced(&world), node.handler.announced_drain()), (None, None));
    node.handler.publish().await.unwrap();
    assert_eq!(node.handler.announced_drain(), Some(DrainPhase::Marked));
}

/// Not even for a moment: that would draw traffic to a node that is to go.
#[tokio::test(start_paused = true)]
async fn the_next_agent_announces_nothing_that_was_withdrawn() {
    let world = World::new();
    let node = agent(&world, false, None).await;
    node.handler.set_drain(DrainReason::Cordon, true);
    world.clock.advance(TIME / 2);
    let record = node.handler.drain_record();
    drop(node);
    let node = agent(&world, false, Some(record)).await;
    assert_eq!(announced(&world), Some(DrainPhase::Marked));
    world.clock.advance(TIME / 2);
    let record = node.handler.drain_record();
    drop(node);
    let world = World { announcer: std::sync::Arc::default(), ..world };
    let node = agent(&world, false, Some(record)).await;
    assert_eq!(announced(&world), Some(DrainPhase::Withdrawn));
    node.handler.set_drain(DrainReason::Cordon, false);
    followed_until(&world, &node, None).await;
}

/// Nobody has ways over a node that has just booted.
#[tokio::test(start_paused = true)]
async fn a_node_that_boots_while_it_is_to_be_drained_announces_nothing() {
    let of_last_boot = DrainRecord { boot_id: "boot-0".to_owned(), draining: None };
    for record in [None, Some(of_last_boot)] {
        let world = World::new();
        // The epoch is long ago.
        world.clock.advance(Duration::from_secs(1_000_000_000));
        let node = agent(&world, true, record).await;
        assert_eq!(announced(&world), Some(DrainPhase::Withdrawn));
        reconfigure(&node, false).await;
        assert_eq!(announced(&world), None);
        reconfigure(&node, true).await;
        assert_eq!(announced(&world), Some(DrainPhase::Marked));
    }
}

/// What the last agent was told must not be lost with it.
#[tokio::test(start_paused = true)]
async fn a_drain_that_began_while_no_agent_ran_is_marked_first() {
    let world = World::new();
    let node = agent(&world, false, None).await;
    let record = node.handler.drain_record();
    drop(node);
    agent(&world, true, Some(record)).await;
    assert_eq!(announced(&world), Some(DrainPhase::Marked));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Want(DrainReason, bool),
    Wait(u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let reason =
        prop::sample::select(vec![DrainReason::NodeConfig, DrainReason::Cordon, DrainReason::Shutdown]);
    let step = prop_oneof![
        4 => (reason, any::<bool>()).prop_map(|(reason, wanted)| Step::Want(reason, wanted)),
        2 => (0..25_u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    /// The model is one line: marked until so long after the first reason, then withdrawn, until
    /// there is no reason any more.
    #[test]
    fn the_phase_follows_from_the_reasons_and_the_time(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().start_paused(true).enable_time().build();
        runtime.unwrap().block_on(async {
            let world = World::new();
            let mut node = agent(&world, false, None).await;
            let (mut reasons, mut since) = (BTreeSet::new(), 0);
            for step in steps {
                match step {
                    Step::Want(DrainReason::NodeConfig, wanted) => reconfigure(&node, wanted).await,
                    Step::Want(reason, wanted) => node.handler.set_drain(reason, wanted),
                    Step::Wait(seconds) => world.clock.advance(Duration::from_secs(seconds)),
                    Step::Restart => {
                        let record = serde_json::to_string(&node.handler.drain_record()).unwrap();
                        let record = serde_json::from_str(&record).unwrap();
                        node = agent(&world, reasons.contains(&DrainReason::NodeConfig), Some(record)).await;
                    }
                }
                if let Step::Want(reason, wanted) = step {
                    if wanted && reasons.is_empty() {
                        since = world.clock.unix_ms();
                    }
                    if wanted { reasons.insert(reason) } else { reasons.remove(&reason) };
                }
                let waited = Duration::from_millis(world.clock.unix_ms() - since);
                let expected = match (reasons.is_empty(), waited < TIME) {
                    (true, _) => None,
                    (false, true) => Some(DrainPhase::Marked),
                    (false, false) => Some(DrainPhase::Withdrawn),
                };
                assert_eq!(node.handler.drain_phase(), expected, "{step:?}");
                followed_until(&world, &node, expected).await;
                let withdrawn = expected == Some(DrainPhase::Withdrawn);
                let going_on = (!reasons.is_empty())
                    .then(|| Draining { since_ms: since, reasons: reasons.clone(), withdrawn });
                assert_eq!(*node.handler.draining().borrow(), going_on);
            }
        });
    }
}
