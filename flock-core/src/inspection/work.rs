//! What is worked on for longer than that takes.

use std::time::Duration;

use crate::attachment::{Attachment, AttachmentKey};
use crate::inspection::attachments::shown;
use crate::inspection::look::Look;
use crate::inspection::{Busy, Difference, PATIENCE, Remedy, View, Work};

/// A request takes less than two minutes, and few come for one attachment without a break; the
/// links of a whole node are removed in some seconds.
const LIMIT: Duration = Duration::from_secs(300);

impl Look {
    /// Nothing else is said of what is worked on: without this, what never ends would hide
    /// everything that is wrong with it.
    pub(super) fn compare_work(&self, found: &mut Vec<Difference>) {
        let Some([before, after]) = &self.views else { return };
        for busy in after.busy.iter().filter(|busy| busy.is_overdue() && before.is_busy(&busy.key)) {
            let what = match busy.work {
                Work::Request => "a request is at work on it",
                Work::Deletion => "it is being deleted",
            };
            let remedy = match busy.error {
                Some(_) => Remedy::ByHand("remove what is in the way; flock-agent goes on trying".to_owned()),
                None => Remedy::Restart,
            };
            let error = busy.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            let so_far = format!("for {} s{error}", busy.lasts().as_secs());
            let difference = Difference::new(self.subject(&busy.key), what, remedy);
            found.push(Difference { so_far: Some(so_far), ..difference });
        }
        // An agent that serves has read the queue, and works on what is left of it.
        let is_known = |key: &AttachmentKey| before.is_busy(key) || after.is_busy(key);
        for waiting in self.deletions.iter().filter(|waiting| !is_known(&waiting.deletion.key)) {
            let path = waiting.path().display();
            let what = format!("its deletion waits in {path}, and the agent does not know of it");
            found.push(Difference::new(self.subject(&waiting.deletion.key), what, Remedy::Restart));
        }
    }

    fn subject(&self, key: &AttachmentKey) -> String {
        self.after().records.get(key).map_or_else(|| shown(key), Attachment::owner)
    }
}

impl View {
    /// Whether the attachment is worked on.
    pub(super) fn is_busy(&self, key: &AttachmentKey) -> bool {
        self.busy.binary_search_by(|busy| busy.key.cmp(key)).is_ok()
    }
}

impl Busy {
    fn lasts(&self) -> Duration {
        Duration::from_millis(self.for_ms)
    }

    /// An attempt that has failed may succeed a moment later.
    fn is_overdue(&self) -> bool {
        self.lasts() >= if self.error.is_some() { PATIENCE } else { LIMIT }
    }
}
