//! The handler as a state machine: calls that are interleaved at every call of a backend,
//! dropped at any of them, failing at any of them, and killed all at once.
//!
//! No threads and no clock: calls are futures that the test polls itself, in an order that
//! proptest chooses and shrinks. Every call of a backend yields before and after its effect, so
//! an order of polls is an order of backend calls.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use flock_core::attachment::{Addresses, Attachment, AttachmentKey, AttachmentState};
use flock_core::cni::{CniResult, Verb};
use flock_core::dataplane::{AnycastState, Dataplane};
use flock_core::handler::HandlerError;
use flock_core::ipam::Ipam;
use flock_core::node_config::NodeConfig;
use flock_core::pods::{PodInfo, PodRef, PodSource, PodState};
use flock_core::store::Store;
use futures_util::task::noop_waker;
use proptest::prelude::*;
use tokio::task::unconstrained;

use crate::failures::Asking;
use crate::faults::Faults;
use crate::node::{NODE_CONFIG, Node, World, call, key, moved_config, namespace, pod_key};

/// Few, so that they get in each other's way.
const PODS: u8 = 5;

/// How long an ADD waits for its pod at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// The last pod is another sandbox in the namespace of the first one.
fn netns(pod: u8) -> String {
    namespace(pod % (PODS - 1))
}

#[derive(Debug, Clone)]
enum Step {
    /// A call comes in, and is polled for the first time.
    Start(Call),
    /// The n-th of those that are there goes on so many times.
    Poll(u8, u8),
    /// Its caller is tired of it.
    Drop(u8),
    /// The backend call that is so many calls away fails.
    Fail(u8),
    /// Released addresses have rested.
    Rest,
    /// The pod source no longer knows this pod, or knows it again: who asks for it waits.
    Know(u8, bool),
    /// A pod that the source knows becomes ready, or is not any more.
    Ready(u8, bool),
    /// Whoever waits for a pod has waited too long.
    TimeOut,
    /// The agent is killed, and the next start once more after so many polls.
    Kill(u8),
    /// Everything that is there comes to its end.
    Settle,
}

#[derive(Debug, Clone, Copy)]
enum Call {
    Add(u8, Asking),
    Del(u8),
    Check(u8),
    Reap,
    /// Of all but the pods whose bits are set.
    Gc(u8),
    /// Of the pods whose namespace is gone: there are none.
    Collect,
    Reconfigure(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let asking = prop::sample::select(vec![
        Asking::Nothing,
        Asking::OneFamily,
        Asking::Static,
        Asking::Anycast,
        Asking::Stable,
    ]);
    let call = prop_oneof![
        6 => (0..PODS, asking).prop_map(|(pod, asking)| Call::Add(pod, asking)),
        5 => (0..PODS).prop_map(Call::Del),
        1 => (0..PODS).prop_map(Call::Check),
        3 => Just(Call::Reap),
        1 => any::<u8>().prop_map(Call::Gc),
        1 => Just(Call::Collect),
        1 => any::<bool>().prop_map(Call::Reconfigure),
    ];
    let step = prop_oneof![
        10 => call.prop_map(Step::Start),
        24 => (any::<u8>(), 1..12_u8).prop_map(|(which, times)| Step::Poll(which, times)),
        2 => any::<u8>().prop_map(Step::Drop),
        3 => (0..12_u8).prop_map(Step::Fail),
        1 => Just(Step::Rest),
        2 => (0..PODS, any::<bool>()).prop_map(|(pod, known)| Step::Know(pod, known)),
        3 => (0..PODS, any::<bool>()).prop_map(|(pod, ready)| Step::Ready(pod, ready)),
        1 => Just(Step::TimeOut),
        1 => (0..30_u8).prop_map(Step::Kill),
        2 => Just(Step::Settle),
    ];
    prop::collection::vec(step, 1..120)
}

/// What a call ended with, where the test has something to say about it.
enum Outcome {
    Added(u8, u64, Result<CniResult, HandlerError>),
    Deleted(u8, u64, Result<(), HandlerError>),
    Other,
}

struct Running {
    call: Call,
    future: Pin<Box<dyn Future<Output = Outcome>>>,
}

struct Machine {
    world: World,
    faults: Arc<Faults>,
    node: Arc<Node>,
    running: Vec<Running>,
    /// What follows the pods' readiness, in this life of the agent.
    follower: Pin<Box<dyn Future<Output = ()>>>,
    /// The pods that the source knows as ready.
    ready: BTreeSet<u8>,
    /// Raised whenever a call for a pod begins that may change what it has.
    changes: BTreeMap<u8, u64>,
    /// What an ADD answered that nothing has come after.
    given: BTreeMap<u8, BTreeSet<IpAddr>>,
    /// Whose DEL was answered and nothing has come after.
    deleted: BTreeSet<u8>,
    moved: bool,
}

impl Machine {
    async fn new() -> Self {
        let world = World::new();
        let faults = Faults::failing([]);
        faults.yield_at_each_call();
        let node = Arc::new(world.node(Arc::clone(&faults)));
        let mut machine = Self {
            world,
            faults,
            node,
            running: Vec::new(),
            follower: Box::pin(std::future::pending()),
            ready: (0..PODS).collect(),
            changes: BTreeMap::new(),
            given: BTreeMap::new(),
            deleted: BTreeSet::new(),
            moved: false,
        };
        machine.kill(0).await;
        machine
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Start(call) => {
                self.start(call);
                self.poll(self.running.len() - 1).await;
            }
            Step::Poll(which, times) => {
                for _ in 0..times {
                    if !self.running.is_empty() {
                        self.poll(usize::from(which) % self.running.len()).await;
                    }
                }
            }
            Step::Drop(which) => {
                if !self.running.is_empty() {
                    drop(self.running.remove(usize::from(which) % self.running.len()));
                }
            }
            Step::Fail(away) => self.faults.fail_later(usize::from(away)),
            Step::Rest => self.world.clock.advance(Duration::from_secs(60)),
            Step::Know(pod, true) => {
                self.world.pods.insert(pod_key(pod), PodInfo::default());
                self.ready.insert(pod);
            }
            Step::Know(pod, false) => {
                self.world.pods.remove(&pod_key(pod));
                self.ready.remove(&pod);
            }
            Step::Ready(pod, ready) => self.set_ready(pod, ready).await,
            Step::TimeOut => tokio::time::advance(PATIENCE).await,
            Step::Kill(polls) => self.kill(polls).await,
            Step::Settle => self.settle().await,
        }
        self.poll_follower();
    }

    async fn set_ready(&mut self, pod: u8, ready: bool) {
        let wanted = PodRef { key: pod_key(pod), uid: None };
        if self.world.pods.pod(&wanted, Instant::now()).await.is_err() {
            return;
        }
        let state = if ready { PodState::Ready } else { PodState::NotReady };
        self.world.pods.set_state(&pod_key(pod), state);
        if ready {
            self.ready.insert(pod);
        } else {
            self.ready.remove(&pod);
        }
    }

    fn poll_follower(&mut self) {
        let polled = self.follower.as_mut().poll(&mut Context::from_waker(&noop_waker()));
        assert!(polled.is_pending(), "it follows no more");
    }

    /// What belongs to the call is known from here on, also if it never gets further.
    fn start(&mut self, call: Call) {
        let node = Arc::clone(&self.node);
        let future: Pin<Box<dyn Future<Output = Outcome>>> = match call {
            Call::Add(pod, asking) => {
                let change = self.change(pod);
                Box::pin(async move {
                    let mut call = self::call(Verb::Add, pod, asking.annotations());
                    call.netns = Some(netns(pod).into());
                    let deadline = tokio::time::Instant::now().into_std() + PATIENCE;
                    Outcome::Added(pod, change, node.handler.add(&call, deadline).await)
                })
            }
            Call::Del(pod) => {
                let change = self.change(pod);
                self.given.remove(&pod);
                Box::pin(async move { Outcome::Deleted(pod, change, node.del(pod).await) })
            }
            Call::Check(pod) => Box::pin(async move {
                // What it finds is the test's own doing; that it changes nothing is looked at.
                let _ = node.check(pod).await;
                Outcome::Other
            }),
            Call::Reap => Box::pin(async move {
                node.handler.reap().await;
                Outcome::Other
            }),
            Call::Gc(valid) => {
                let (valid, stale): (Vec<u8>, Vec<u8>) = (0..PODS).partition(|pod| valid & 1 << pod != 0);
                for pod in stale {
                    self.change(pod);
                    self.given.remove(&pod);
                }
                Box::pin(async move {
                    let _ = node.gc(&valid).await;
                    Outcome::Other
                })
            }
            Call::Collect => Box::pin(async move {
                if let Ok(collected) = node.handler.collect().await {
                    assert_eq!(collected, 0, "a living pod was collected");
                }
                Outcome::Other
            }),
            Call::Reconfigure(moved) => {
                self.moved = moved;
                let text = if moved { moved_config() } else { NODE_CONFIG.to_owned() };
                let config = NodeConfig::from_yaml(&text, "test").unwrap();
                Box::pin(async move {
                    // The agent repeats it as well.
                    while node.handler.reconfigure(config.clone()).await.is_err() {}
                    Outcome::Other
                })
            }
        };
        self.running.push(Running { call, future: Box::pin(unconstrained(future)) });
    }

    fn change(&mut self, pod: u8) -> u64 {
        self.deleted.remove(&pod);
        let change = self.changes.entry(pod).or_default();
        *change += 1;
        *change
    }

    async fn poll(&mut self, which: usize) {
        let waker = noop_waker();
        let polled = self.running[which].future.as_mut().poll(&mut Context::from_waker(&waker));
        if let Poll::Ready(outcome) = polled {
            drop(self.running.remove(which));
            self.ended(outcome);
        }
        // The runtime's clock of sleeps gets its turn.
        tokio::task::yield_now().await;
    }

    fn ended(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Added(pod, change, Ok(result)) => {
                assert!(!result.ips.is_empty(), "an ADD gave nothing");
                let ips: BTreeSet<IpAddr> = result.ips.iter().map(|ip| ip.address.addr()).collect();
                if let Some(given) = self.given.get(&pod) {
                    assert_eq!(*given, ips, "pod {pod} was given other addresses without a DEL");
                }
                // A DEL may be under way, or have been cut off.
                if self.changes[&pod] == change && !self.is_deleting(pod) {
                    self.given.insert(pod, ips);
                }
            }
            Outcome::Deleted(pod, change, Ok(())) if self.changes[&pod] == change && !self.is_adding(pod) => {
                self.deleted.insert(pod);
            }
            _ => {}
        }
    }

    fn is_deleting(&self, pod: u8) -> bool {
        self.running.iter().any(|running| match running.call {
            Call::Del(of) => of == pod,
            Call::Gc(valid) => valid & 1 << pod == 0,
            _ => false,
        })
    }

    fn is_adding(&self, pod: u8) -> bool {
        self.running.iter().any(|running| matches!(running.call, Call::Add(of, _) if of == pod))
    }

    async fn kill(&mut self, polls: u8) {
        self.running.clear();
        self.follower = Box::pin(std::future::pending());
        for polls in [Some(polls), None] {
            let config = if self.moved { moved_config() } else { NODE_CONFIG.to_owned() };
            let node = self.world.node_with(Arc::clone(&self.faults), &config, crate::node::settings());
            self.node = Arc::new(node);
            let node = Arc::clone(&self.node);
            let mut start = Box::pin(unconstrained(async move { while node.recover().await.is_err() {} }));
            let mut polled = 0;
            loop {
                let waker = noop_waker();
                if start.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() || polls == Some(polled) {
                    break;
                }
                polled = polled.saturating_add(1);
                tokio::task::yield_now().await;
            }
        }
        let node = Arc::clone(&self.node);
        let follow = async move { node.handler.run_readiness(std::future::pending()).await };
        self.follower = Box::pin(unconstrained(follow));
    }

    /// Whatever the order, all of them end, at the latest by their time-outs.
    async fn settle(&mut self) {
        for round in 0..20_000 {
            if self.running.is_empty() {
                return;
            }
            if round % 1_000 == 999 {
                tokio::time::advance(PATIENCE).await;
            }
            for which in (0..self.running.len()).rev() {
                self.poll(which).await;
            }
            self.poll_follower();
        }
        let stuck: Vec<_> = self.running.iter().map(|running| running.call).collect();
        panic!("calls that wait for each other: {stuck:?}");
    }

    /// What holds between any two backend calls.
    async fn assert_sound(&self) {
        self.world.assert_sound().await;
        let records = self.world.store.list().await.unwrap();
        let leases = self.node.ipam.leases().await.unwrap();
        let leases: BTreeMap<AttachmentKey, Addresses> =
            leases.into_iter().map(|lease| (lease.owner.key, lease.addresses)).collect();
        // From before there is a record until after there is none, whatever it says.
        for record in &records {
            assert_eq!(leases.get(&record.key), Some(&record.addresses), "held by {}", record.key);
        }
        let mut reached: BTreeMap<IpAddr, Option<AttachmentKey>> = BTreeMap::new();
        for link in self.world.dataplane.list().await.unwrap() {
            let recorded = records.iter().any(|record| Some(&record.key) == link.link.owner.as_ref());
            assert!(recorded, "{:?} has a link and no record", link.link.owner);
            for address in link.addresses.iter() {
                let other = reached.insert(address, link.link.owner.clone());
                assert!(other.is_none(), "{address} leads to {other:?} and to {:?}", link.link.owner);
            }
        }
        for (pod, ips) in &self.given {
            for ip in ips {
                let owner = reached.get(ip).cloned().flatten();
                assert_eq!(owner, Some(key(*pod)), "{ip} was given to pod {pod}");
                assert_eq!(self.world.owner(*ip).await, Some(key(*pod)), "{ip} was given to pod {pod}");
            }
        }
        for pod in &self.deleted {
            assert!(
                !reached.values().any(|owner| *owner == Some(key(*pod))),
                "pod {pod} was deleted and is reached"
            );
        }
    }

    /// What holds once nothing is under way and nothing fails.
    async fn assert_consistent(&mut self) {
        self.faults.stop();
        self.settle().await;
        self.start(Call::Reap);
        self.settle().await;
        self.faults.yield_at_no_call();
        self.poll_follower();
        self.assert_sound().await;
        // Every withdrawal is over by then.
        tokio::time::advance(Duration::from_secs(2)).await;
        self.poll_follower();
        let records = self.world.store.list().await.unwrap();
        let committed: Vec<&Attachment> =
            records.iter().filter(|record| record.state == AttachmentState::Committed).collect();
        let by_records: BTreeMap<AttachmentKey, Addresses> =
            committed.iter().map(|record| (record.key.clone(), record.addresses)).collect();
        let links = self.world.dataplane.list().await.unwrap();
        // What a dropped call left half done has its record, which says so.
        let by_kernel: BTreeMap<AttachmentKey, Addresses> = links
            .into_iter()
            .filter_map(|found| Some((found.link.owner?, found.addresses)))
            .filter(|(key, _)| {
                let record = records.iter().find(|record| record.key == *key);
                record.is_some_and(|record| record.state == AttachmentState::Committed)
            })
            .collect();
        assert_eq!(by_kernel, by_records);
        let ready: Vec<_> = self.ready.iter().map(|pod| Some(pod_key(*pod))).collect();
        let served = |by: &[&&Attachment]| -> BTreeSet<IpAddr> {
            by.iter().flat_map(|record| record.anycast.iter().copied()).collect()
        };
        let (serving, others): (Vec<_>, Vec<_>) =
            committed.iter().partition(|record| ready.contains(&record.pod));
        let anycast = served(&serving);
        let standby: BTreeSet<IpAddr> = served(&others).difference(&anycast).copied().collect();
        let dataplane = &self.world.dataplane;
        let routed =
            AnycastState::ALL.map(|state| dataplane.anycast(state).into_keys().collect::<BTreeSet<IpAddr>>());
        let expected = [anycast.clone(), BTreeSet::new(), standby.clone()];
        assert_eq!(routed, expected, "routes that are announced, withdrawn, and stand by");
        let announced = self.world.announcer.announced();
        let announced = announced.map(|announced| (announced.anycast, announced.standby));
        assert_eq!(announced.unwrap_or_default(), (anycast, standby), "announced and standing by");
    }
}

proptest! {
    // 256 cases; PROPTEST_CASES=10000 for a long run.
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// However calls are interleaved, dropped, failed and killed.
    #[test]
    fn an_address_never_belongs_to_two_and_nothing_is_left(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut machine = Machine::new().await;
            for step in steps {
                machine.step(step).await;
                machine.assert_sound().await;
            }
            machine.assert_consistent().await;
            machine.node.delete_all().await;
            machine.world.assert_empty(&machine.node).await;
        });
    }
}
