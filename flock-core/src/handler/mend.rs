//! Making an attachment as its record says: at the start, on request, and when others
//! have changed something.

use std::fmt::Display;

use crate::attachment::Attachment;
use crate::dataplane::{DataplaneError, Drift, NodeWanted, Side};
use crate::handler::Handler;

/// What became of an attachment that was compared with the kernel.
#[derive(Debug)]
pub(super) enum Mending {
    /// There was nothing to be done.
    Fine,
    /// Nothing can be done: its container is gone, or its namespace is out of reach. It is left
    /// for the runtime's DEL, or for the collector.
    Left { found: String },
    /// It is as it should be again.
    Mended { found: String },
    /// It could not be mended.
    Failed { found: String, error: DataplaneError },
}

impl Handler {
    /// Mends a complete attachment of which `drifts` are known. Nobody else may be at work on it.
    /// Of one whose namespace is out of reach, that is the node's side.
    pub(super) async fn mend(&self, record: &Attachment, drifts: &[Drift]) -> Mending {
        if drifts.is_empty() {
            return Mending::Fine;
        }
        if is_beyond_mending(drifts) {
            return Mending::Left { found: in_a_line(drifts) };
        }
        let (out_of_reach, others): (Vec<_>, Vec<_>) =
            drifts.iter().partition(|drift| is_out_of_reach(drift));
        let found = in_a_line(&others);
        match self.backends.dataplane.mend(record, drifts).await {
            Ok(()) => Mending::Mended { found },
            Err(DataplaneError::NotANamespace { .. } | DataplaneError::NamespaceChanged { .. })
                if !out_of_reach.is_empty() =>
            {
                Mending::Mended { found }
            }
            Err(error) => Mending::Failed { found, error },
        }
    }

    /// What the node itself is to have, beside these records' attachments.
    pub(super) fn node_wanted(&self, records: Vec<Attachment>) -> NodeWanted {
        NodeWanted {
            summaries: self.summaries(),
            anycast: self.anycast_routes(&records),
            attachments: records,
        }
    }
}

/// A link that went with its namespace is gone for good. Where the link is there, the namespace
/// lives on without its path, and nothing of it can be looked at.
pub(super) fn is_beyond_mending(drifts: &[Drift]) -> bool {
    let is_gone =
        |drift: &Drift| matches!(drift, Drift::LinkMissing(Side::Host) | Drift::LinkForeign(Side::Host));
    drifts.iter().any(is_out_of_reach) && (drifts.iter().all(is_out_of_reach) || drifts.iter().any(is_gone))
}

fn is_out_of_reach(drift: &Drift) -> bool {
    matches!(drift, Drift::NamespaceGone(_))
}

/// All of them, for a message.
pub(super) fn in_a_line(found: &[impl Display]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
