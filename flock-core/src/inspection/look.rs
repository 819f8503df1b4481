//! Looking at everything once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::attachment::{Attachment, AttachmentKey, AttachmentState};
use crate::dataplane::{Dataplane, DataplaneError, Drift, FoundLink, NodeDrift, NodeWanted};
use crate::deletions::QueuedDeletion;
use crate::drain::Draining;
use crate::handler::{anycast_routes, served_in_kernel};
use crate::inspection::{Difference, Spoken, View};
use crate::node_config::NodeConfig;
use crate::store::Contents;

/// What was seen of a node at about one time.
///
/// Records and the agent's view are looked at before and after all the rest: only what has not
/// changed in between is judged.
#[derive(Debug, Clone)]
pub struct Look {
    /// What is in force.
    pub config: NodeConfig,
    /// The boot of the running kernel.
    pub boot_id: String,
    /// Before and after the kernel was looked at.
    pub records: [Contents; 2],
    /// The same of the agent's view; `None` offline: nobody works on anything, and nobody
    /// knows of leases.
    pub views: Option<[View; 2]>,
    /// The deletions that wait in files, looked at between the two.
    pub deletions: Vec<QueuedDeletion>,
    /// The kernel.
    pub kernel: Kernel,
    /// What the speaker has, or why that can't be told; `None` where nobody announces.
    pub spoken: Option<Result<Spoken, String>>,
}

/// What the kernel has of Flock's.
#[derive(Debug, Clone, Default)]
pub struct Kernel {
    /// All links.
    pub links: Vec<FoundLink>,
    /// How complete attachments differ from their records.
    pub drifts: Vec<(Attachment, Vec<Drift>)>,
    /// How the node differs beside them.
    pub node: Vec<NodeDrift>,
    /// Which attachments with anycast addresses are taken to serve them.
    pub ready: BTreeSet<AttachmentKey>,
    /// Which anycast addresses are taken to have been withdrawn a moment ago, and who served them.
    pub withdrawing: BTreeMap<IpAddr, BTreeSet<AttachmentKey>>,
}

impl Kernel {
    /// Compares the kernel with what `records` and `config` say. Where there is no `view` of an
    /// agent, nobody knows which pods are ready: those are taken for it that the kernel's routes
    /// announce.
    pub async fn look(
        dataplane: &dyn Dataplane,
        records: &Contents,
        config: &NodeConfig,
        boot_id: &str,
        view: Option<&View>,
    ) -> Result<Self, DataplaneError> {
        let of_boot = || records.records.values().filter(|record| record.boot_id == boot_id);
        let committed: Vec<Attachment> =
            of_boot().filter(|record| record.state == AttachmentState::Committed).cloned().collect();
        let ready = if let Some(view) = view {
            view.ready.clone()
        } else {
            let announced = dataplane.announced_anycast().await?;
            served_in_kernel(&committed, &announced).into_values().flatten().collect()
        };
        let withdrawing = view.map(|view| view.withdrawing.clone()).unwrap_or_default();
        let is_ready = |record: &Attachment| ready.contains(&record.key);
        let wanted = NodeWanted {
            summaries: config.cidrs.iter().collect(),
            anycast: anycast_routes(&committed, &config.allowed, is_ready, &withdrawing),
            attachments: of_boot().cloned().collect(),
        };
        let links = dataplane.list().await?;
        let drifts = dataplane.check(&committed).await?;
        let node = dataplane.check_node(&wanted).await?;
        Ok(Self { links, drifts: committed.into_iter().zip(drifts).collect(), node, ready, withdrawing })
    }

    fn has_link_of(&self, key: &AttachmentKey) -> bool {
        self.links.iter().any(|found| found.link.owner.as_ref() == Some(key))
    }
}

impl Look {
    /// How many attachments there are.
    pub fn attachments(&self) -> usize {
        self.after().records.len()
    }

    /// Everything that does not agree, attachments first. Empty if all does.
    pub fn differences(&self) -> Vec<Difference> {
        let mut found = Vec::new();
        self.compare_work(&mut found);
        self.compare_files(&mut found);
        self.compare_records(&mut found);
        self.compare_leases(&mut found);
        self.compare_links(&mut found);
        self.compare_drifts(&mut found);
        self.compare_node(&mut found);
        self.compare_speaker(&mut found);
        found
    }

    /// What a person should know and what is not wrong.
    pub fn notes(&self) -> Vec<String> {
        // The others are differences: what mends those needs them.
        let is_needed =
            |key: &AttachmentKey| self.after().kept_of(key).is_some() && self.kernel.has_link_of(key);
        let set_aside = self.after().set_aside.iter();
        let set_aside = set_aside.filter(|kept| !kept.key.as_ref().is_some_and(is_needed)).map(|kept| {
            format!(
                "{} was set aside at an earlier start because it could not be read; \
                 remove it once nobody wants to look at it",
                kept.path.display()
            )
        });
        let salvaged = self.after().records.values().filter(|record| record.is_salvaged()).map(|record| {
            format!(
                "the record of {} was made anew from its link, so its side in the pod can't be looked at",
                record.owner()
            )
        });
        // While an agent serves, one that waits is a difference.
        let waiting = Some(self.deletions.len()).filter(|count| self.views.is_none() && *count > 0);
        let waiting = waiting.map(|count| {
            let (deletions, them) =
                if count == 1 { ("deletion waits", "it") } else { ("deletions wait", "them") };
            format!("{count} {deletions} for the agent, which carries {them} out when it starts")
        });
        let drain = self.config.bgp.as_ref().and(self.draining()).map(|drain| {
            let reasons: Vec<String> = drain.reasons.iter().map(ToString::to_string).collect();
            let follows = if drain.withdrawn {
                "nothing is announced"
            } else {
                "what it announces carries GRACEFUL_SHUTDOWN"
            };
            format!("the node is drained ({}): {follows}", reasons.join(", "))
        });
        set_aside.chain(salvaged).chain(waiting).chain(drain).collect()
    }

    /// As the agent has said last.
    fn draining(&self) -> Option<&Draining> {
        let [_, after] = self.views.as_ref()?;
        after.draining.as_ref()
    }

    pub(super) fn before(&self) -> &Contents {
        &self.records[0]
    }

    pub(super) fn after(&self) -> &Contents {
        &self.records[1]
    }

    /// Whether nothing happened to the attachment, and nobody works on it.
    pub(super) fn is_steady(&self, key: &AttachmentKey) -> bool {
        let mut ready = self.views.iter().flatten().map(|view| view.ready.contains(key));
        self.before().records.get(key) == self.after().records.get(key)
            && ready.all(|ready| ready == self.kernel.ready.contains(key))
            && self.views.iter().flatten().all(|view| !view.is_busy(key))
    }

    /// Those records of this boot that nobody works on.
    pub(super) fn steady(&self) -> impl Iterator<Item = &Attachment> {
        self.after().records.values().filter(|record| self.is_steady(&record.key))
    }

    /// The records that count: of this boot, complete.
    pub(super) fn is_committed(&self, record: &Attachment) -> bool {
        record.boot_id == self.boot_id && record.state == AttachmentState::Committed
    }
}
