//! The agent as a part of a Kubernetes cluster.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use flock_core::drain::{DrainReason, Draining};
use flock_core::handler::Handler;
use flock_core::ipam::Usage;
use flock_core::name::NodeName;
use flock_core::node_config::NodeConfig;
use flock_core::pods::PodSource;
use flock_k8s::events::Events;
use flock_k8s::node::{Leaving, LeavingWatch, NodeWriter};
use flock_k8s::node_config::{BgpStatus, DrainStatus, NodeConfigState, NodeConfigWatch};
use flock_k8s::pods::KubePods;
use flock_k8s::{Cluster, Readiness as Condition};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::agent::AgentError;
use crate::agent::metrics::{Metrics, Watch};
use crate::agent::passwords::{Passwords, of_secrets};
use crate::agent::readiness::Readiness;
use crate::agent::remembered::Remembered;
use crate::agent::sessions::Sessions;
use crate::agent::teller::{Problem, Teller};

/// How long the API server is waited for before the node starts with what it remembers.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long the Node object is waited for beyond that.
const LEAVING_WAIT: Duration = Duration::from_secs(1);
/// How often it is said that the NodeConfig is waited for.
const REMINDER: Duration = Duration::from_secs(60);
/// How often addresses are counted for the status and Secrets are looked at, and how soon a
/// configuration that could not be put in force is tried again.
const ROUND: Duration = Duration::from_secs(5);
/// How long an agent that fails gives what it has to say to reach the API server.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What connects the agent with the API server.
#[derive(Debug)]
pub(super) struct Membership {
    name: NodeName,
    remembered: Remembered,
    passwords: Passwords,
    node_config: NodeConfigWatch,
    pods: Arc<KubePods>,
    leaving: LeavingWatch,
    teller: Teller,
    node: NodeWriter,
}

impl Membership {
    /// Starts the watches of the node's pods and NodeConfig. The API server may be away.
    pub(super) async fn begin(
        name: &NodeName,
        run_dir: &Path,
        startup_taint: Option<String>,
        metrics: &Metrics,
    ) -> Result<Self, AgentError> {
        let cluster = Cluster::connect(name.clone()).await?;
        Ok(Self::of(&cluster, run_dir, startup_taint, metrics))
    }

    fn of(cluster: &Cluster, run_dir: &Path, startup_taint: Option<String>, metrics: &Metrics) -> Self {
        let (node_config, pods) = (cluster.node_config(), Arc::new(cluster.pods()));
        let watch = node_config.clone();
        metrics.watch_restarts(Watch::NodeConfig, move || watch.health().restarts);
        let watch = Arc::clone(&pods);
        metrics.watch_restarts(Watch::Pods, move || watch.health().restarts);
        let leaving = cluster.leaving();
        let watch = leaving.clone();
        metrics.watch_restarts(Watch::Node, move || watch.health().restarts);
        let teller = Teller::new(cluster);
        let events = teller.events().clone();
        metrics.events_dropped(move || events.dropped());
        Self {
            name: cluster.node_name().clone(),
            remembered: Remembered::new(run_dir),
            passwords: Passwords::new(cluster.secrets()),
            node_config,
            pods,
            leaving,
            teller,
            node: cluster.node(startup_taint),
        }
    }

    /// The node's pods.
    pub(super) fn pods(&self) -> Arc<dyn PodSource> {
        Arc::clone(&self.pods) as _
    }

    /// Where to say what happens to pods.
    pub(super) fn events(&self) -> Events {
        self.teller.events().clone()
    }

    /// Waits for a NodeConfig that can be used, as long as it takes: one that is applied is
    /// taken up at once. Why there is none is said wherever somebody may look.
    ///
    /// Where one was in force before, it has to do, be it that the API server is away, that
    /// the NodeConfig is invalid or that it was deleted: pods are deleted then too.
    pub(super) async fn node_config(&mut self, readiness: &watch::Sender<Readiness>) -> NodeConfig {
        let (remembered, known) = self.remembered.read(&self.name).await.unzip();
        let known = known.unwrap_or_default();
        let mut patience = ANSWER_WAIT;
        loop {
            let state = match timeout(patience, self.node_config.changed()).await {
                Ok(state) => state,
                Err(_) => self.node_config.current(),
            };
            let (reason, missing) = match &state {
                NodeConfigState::Valid { config, .. } => {
                    return self.passwords.resolve(config.clone(), &known).await;
                }
                NodeConfigState::Invalid { error, .. } => {
                    ("NodeConfigInvalid", format!("the one that is there can't be used: {error}"))
                }
                NodeConfigState::Missing => {
                    let hint = "apply one with the name of this node";
                    ("NodeConfigMissing", format!("there is none in the cluster; {hint}, {}", self.name))
                }
                NodeConfigState::Unknown => {
                    let silence = "the API server has not answered".to_owned();
                    let said = self.node_config.health().error;
                    ("ApiServerAway", said.map_or(silence.clone(), |error| format!("{silence}: {error}")))
                }
            };
            self.teller.tell(&state, None, Vec::new(), None);
            let message = format!("NodeConfig {}: {missing}", self.name);
            if let Some(config) = remembered {
                tracing::warn!(reason = message, "starting with the NodeConfig that was in force last");
                return match state {
                    NodeConfigState::Unknown => self.passwords.recall(config, &known),
                    _ => self.passwords.resolve(config, &known).await,
                };
            }
            tracing::warn!(reason = message, "waiting for the NodeConfig");
            readiness.send_replace(Readiness::waiting_for(message.clone()));
            self.node.publish(Condition { ready: false, reason: reason.to_owned(), message });
            // Where nothing is known, the reason may soon be.
            patience = if state == NodeConfigState::Unknown { ANSWER_WAIT } else { REMINDER };
        }
    }

    /// Takes up whether the node is to be drained, if that is known by now: it should be before the
    /// node announces anything.
    pub(super) async fn take_up_leaving(&mut self, handler: &Handler) {
        if let Ok(leaving) = timeout(LEAVING_WAIT, self.leaving.changed()).await {
            leave(handler, leaving);
        }
    }

    /// Says that the node is ready, then puts each change of the NodeConfig, and of the passwords
    /// that it names, in force and tells the cluster how it is, for ever.
    pub(super) async fn follow(mut self, handler: Arc<Handler>, mut sessions: Option<Sessions>) {
        self.node.publish(Condition {
            ready: true,
            reason: "FlockReady".to_owned(),
            message: "flock-agent gives pods their addresses and routes".to_owned(),
        });
        self.remembered.write(&handler.node_config()).await;
        let mut state = self.node_config.current();
        let mut draining = handler.draining();
        // What is not in force yet, or only half, also if the NodeConfig can't be used any more.
        let mut due: Option<NodeConfig> = None;
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let NodeConfigState::Valid { config, .. } = &state {
                let in_force = handler.node_config();
                let known = of_secrets(due.as_ref().unwrap_or(&in_force));
                let config = self.passwords.resolve(config.clone(), &known).await;
                if due.is_some() || config != in_force {
                    due = Some(config);
                }
            }
            let failed = match &due {
                Some(config) => self.put_in_force(&handler, config).await.err(),
                None => None,
            };
            if failed.is_none() {
                due = None;
            }
            loop {
                let problem = failed.clone().map(Problem::not_in_force);
                let problem = problem.or_else(|| unannounced(sessions.as_ref()));
                draining.borrow_and_update();
                let bgp = bgp(&handler, sessions.as_ref());
                let usage = usage(&handler).await;
                self.teller.tell(&state, problem, usage, bgp);
                tokio::select! {
                    changed = self.node_config.changed() => {
                        state = changed;
                        log(&state);
                        break;
                    }
                    _ = round.tick() => break,
                    leaving = self.leaving.changed() => leave(&handler, leaving),
                    // The sender is the handler's.
                    _ = draining.changed() => {}
                    // Only told: whatever peers do, nobody is asked for Secrets more often.
                    () = changed(sessions.as_mut()) => {}
                }
            }
        }
    }

    /// The error in words for the status; the log has it too.
    async fn put_in_force(&self, handler: &Handler, config: &NodeConfig) -> Result<(), String> {
        let done = handler.reconfigure(config.clone()).await;
        self.remembered.write(&handler.node_config()).await;
        match done {
            Ok(()) => {
                tracing::info!("the changed NodeConfig is in force");
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "the changed NodeConfig can't be put in force; trying again");
                Err(error.to_string())
            }
        }
    }

    /// Says why the node does not become ready, before the agent ends.
    pub(super) async fn last_words(mut self, error: &AgentError) {
        let message = error.to_string();
        let state = self.node_config.current();
        self.teller.tell(&state, Some(Problem::not_in_force(message.clone())), Vec::new(), None);
        self.node.publish(Condition { ready: false, reason: "AgentFailed".to_owned(), message });
        sleep(LAST_WORDS).await;
    }
}

fn leave(handler: &Handler, Leaving { cordoned, shutting_down }: Leaving) {
    handler.set_drain(DrainReason::Cordon, cordoned);
    handler.set_drain(DrainReason::Shutdown, shutting_down);
}

/// What keeps the network from hearing of the node.
fn unannounced(sessions: Option<&Sessions>) -> Option<Problem> {
    sessions?.failure().as_ref().map(Problem::not_announced)
}

fn bgp(handler: &Handler, sessions: Option<&Sessions>) -> Option<BgpStatus> {
    let drain = handler.drain_phase().zip(handler.draining().borrow().clone());
    let drain = drain.map(|(phase, Draining { since_ms, reasons, .. })| {
        let since = (since_ms > 0).then(|| UNIX_EPOCH + Duration::from_millis(since_ms));
        DrainStatus::new(&phase, since, &reasons)
    });
    Some(BgpStatus { drain, ..sessions?.status(handler.node_config().bgp.as_ref()?) })
}

async fn changed(sessions: Option<&mut Sessions>) {
    match sessions {
        Some(sessions) => sessions.changed().await,
        None => std::future::pending().await,
    }
}

async fn usage(handler: &Handler) -> Vec<Usage> {
    handler.usage().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the addresses can't be counted");
        Vec::new()
    })
}

fn log(state: &NodeConfigState) {
    match state {
        NodeConfigState::Invalid { error, .. } => {
            tracing::error!(%error, "the NodeConfig can't be used; what was in force stays");
        }
        NodeConfigState::Missing => {
            tracing::warn!("the NodeConfig was deleted; what it said stays in force");
        }
        NodeConfigState::Valid { .. } | NodeConfigState::Unknown => {}
    }
}

#[cfg(test)]
mod tests;
