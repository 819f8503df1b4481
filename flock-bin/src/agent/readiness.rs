//! Whether the node is ready for pods, as it is seen from outside.

/// Whether the node is ready for pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet.
    Starting {
        /// In words for people, to be read after "waiting for": `NodeConfig host001`.
        waiting_for: String,
    },
    /// It is.
    Ready,
    /// No more: the agent was asked to end.
    Stopping,
}

impl Readiness {
    /// Waits for what `what` says.
    pub fn waiting_for(what: impl Into<String>) -> Self {
        Self::Starting { waiting_for: what.into() }
    }
}
