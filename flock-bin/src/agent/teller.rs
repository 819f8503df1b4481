//! What the agent tells people about its NodeConfig: the status, and Events where something
//! is wrong.

use flock_core::announcer::AnnounceError;
use flock_core::ipam::Usage;
use flock_core::name::NodeName;
use flock_k8s::events::{Event, Events, Severity};
use flock_k8s::node_config::{BgpStatus, NodeConfigState, Status, StatusWriter};
use flock_k8s::{Cluster, Readiness as Condition};

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// In one word for programs.
    reason: &'static str,
    /// In words for people.
    message: String,
}

impl Problem {
    /// The NodeConfig is good and could not be put in force.
    pub(super) fn not_in_force(message: String) -> Self {
        Self { reason: "NotInForce", message }
    }

    /// Pods get their addresses, and the network does not hear of them.
    pub(super) fn not_announced(error: &AnnounceError) -> Self {
        Self { reason: "NotAnnounced", message: error.to_string() }
    }

    fn invalid(problems: &[String]) -> Self {
        Self { reason: "Invalid", message: problems.join("; ") }
    }
}

/// Writes the status of a node's NodeConfig, and its Events.
#[derive(Debug)]
pub(super) struct Teller {
    node: NodeName,
    status: StatusWriter,
    events: Events,
    /// What the last Event said.
    last: Option<(String, i64, Problem)>,
}

impl Teller {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self {
            node: cluster.node_name().clone(),
            status: cluster.node_config_status(),
            events: cluster.events(),
            last: None,
        }
    }

    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    /// The status of the NodeConfig, where there is one, and an Event for a problem that was
    /// not told yet. That it can't be used comes before any other `problem`.
    pub(super) fn tell(
        &mut self,
        state: &NodeConfigState,
        problem: Option<Problem>,
        usage: Vec<Usage>,
        bgp: Option<BgpStatus>,
    ) {
        let (uid, generation, problem) = match state {
            NodeConfigState::Unknown | NodeConfigState::Missing => return,
            NodeConfigState::Valid { uid, generation, .. } => (uid, *generation, problem),
            NodeConfigState::Invalid { uid, generation, error } => {
                (uid, *generation, Some(Problem::invalid(&error.problems)))
            }
        };
        let readiness = condition(problem.as_ref());
        self.status.publish(Status { uid: uid.clone(), generation, readiness, usage, bgp });
        let telling = problem.map(|problem| (uid.clone(), generation, problem));
        if telling == self.last {
            return;
        }
        self.last = telling;
        if let Some((uid, _, Problem { reason, message })) = self.last.clone() {
            self.events.node_config(&self.node, &uid, Event { severity: Severity::Warning, reason, message });
        }
    }
}

fn condition(problem: Option<&Problem>) -> Condition {
    match problem {
        Some(Problem { reason, message }) => {
            Condition { ready: false, reason: (*reason).to_owned(), message: message.clone() }
        }
        None => Condition {
            ready: true,
            reason: "InForce".to_owned(),
            message: "new pods of the node get their addresses by this NodeConfig".to_owned(),
        },
    }
}
