//! The dataplane as its users see it.

use std::collections::BTreeSet;
use std::path::Path;

use async_trait::async_trait;
use flock_core::attachment::{Attachment, Netns};
use flock_core::dataplane::{AnycastRoute, Dataplane, DataplaneError, Drift, Link, NodeFacts};
use ipnet::IpNet;

use crate::worker::Workers;

/// Two of them use both processors of a small node; the kernel's own lock lets no more in.
const ATTACHING_THREADS: usize = 2;

/// Kernel state by rtnetlink, in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct NetlinkDataplane {
    workers: Workers,
    /// Removing links takes long, and nobody waits for it.
    reaper: Workers,
}

impl NetlinkDataplane {
    /// Opens the node's netlink sockets.
    pub fn new() -> Result<Self, DataplaneError> {
        let start = |name: &str, count| {
            Workers::start(name, count).map_err(|source| DataplaneError::Kernel {
                action: "open a netlink socket".to_owned(),
                source,
            })
        };
        Ok(Self { workers: start("flock-netlink", ATTACHING_THREADS)?, reaper: start("flock-reaper", 1)? })
    }
}

#[async_trait]
impl Dataplane for NetlinkDataplane {
    async fn prepare(&self) -> Result<NodeFacts, DataplaneError> {
        Ok(NodeFacts::default())
    }

    async fn identify(&self, path: &Path) -> Result<Netns, DataplaneError> {
        let path = path.to_owned();
        self.workers.run(move |worker| worker.identify(&path)).await
    }

    async fn attach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        let attachment = attachment.clone();
        self.workers.run(move |worker| worker.attach(&attachment, None)).await
    }

    async fn detach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        let attachment = attachment.clone();
        self.workers.run(move |worker| worker.detach(&attachment)).await
    }

    async fn reap(&self, links: &[Link]) -> Result<(), DataplaneError> {
        let links = links.to_vec();
        self.reaper.run(move |worker| worker.reap(&links)).await
    }

    async fn check(&self, attachments: &[Attachment]) -> Result<Vec<Vec<Drift>>, DataplaneError> {
        Ok(attachments.iter().map(|_| Vec::new()).collect())
    }

    async fn list(&self) -> Result<Vec<Link>, DataplaneError> {
        self.workers.run(|worker| worker.list()).await
    }

    async fn set_summaries(&self, _prefixes: &BTreeSet<IpNet>) -> Result<(), DataplaneError> {
        Ok(())
    }

    async fn set_anycast(&self, _routes: &[AnycastRoute]) -> Result<(), DataplaneError> {
        Ok(())
    }
}
