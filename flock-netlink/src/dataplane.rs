//! The dataplane as its users see it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use flock_core::attachment::{Attachment, GATEWAY_V4, Netns};
use flock_core::dataplane::{
    AnycastRoute, Dataplane, DataplaneError, Disturbance, Drift, FoundLink, Link, NodeDrift, NodeFacts,
    NodeWanted, Stray,
};
use flock_core::name::InterfaceName;
use futures_util::future::try_join_all;
use ipnet::IpNet;
use tokio::sync::Mutex;

use crate::listener::{Listener, OwnPorts};
use crate::sysctl::Sysctls;
use crate::worker::{Worker, Workers};

/// Two of them use both processors of a small node; the kernel's own lock lets no more in.
const ATTACHING_THREADS: usize = 2;

/// Fewer are not worth another listing of the whole node.
const PART_OF_A_CHECK: usize = 64;

/// Kernel state by rtnetlink, in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct NetlinkDataplane {
    workers: Workers,
    listener: Listener,
    /// Removing links takes long, and nobody waits for it. One thread: one after the other.
    reaper: Workers,
    /// Summaries and anycast routes are compared with what is there and then
    /// changed: one after the other. The job holds it, not the caller, who may go away.
    node_routes: Arc<Mutex<()>>,
    /// Found by [`prepare`](Dataplane::prepare): the node has no IPv4 address to talk to pods from.
    has_no_ipv4: AtomicBool,
}

impl NetlinkDataplane {
    /// Opens the node's netlink sockets.
    pub fn new() -> Result<Self, DataplaneError> {
        Self::with_proc(Path::new("/proc"))
    }

    /// As [`new`](Self::new), with another mount of proc to set sysctls through: containers
    /// find their own read-only unless they are privileged.
    pub fn with_proc(proc: &Path) -> Result<Self, DataplaneError> {
        let sysctls = Sysctls::of(proc);
        let ports = OwnPorts::default();
        let start = |name: &str, count| {
            Workers::start(name, count, &sysctls, &ports).map_err(|source| DataplaneError::Kernel {
                action: "open a netlink socket".to_owned(),
                source,
            })
        };
        Ok(Self {
            workers: start("flock-netlink", ATTACHING_THREADS)?,
            reaper: start("flock-reaper", 1)?,
            listener: Listener::start(ports.clone())?,
            node_routes: Arc::default(),
            has_no_ipv4: AtomicBool::new(false),
        })
    }
}

impl NetlinkDataplane {
    /// The address that the node talks to pods from over IPv4 where it has none of its own.
    fn source(&self) -> Option<Ipv4Addr> {
        self.has_no_ipv4.load(Ordering::Relaxed).then_some(GATEWAY_V4)
    }
}

#[async_trait]
impl Dataplane for NetlinkDataplane {
    async fn prepare(&self) -> Result<NodeFacts, DataplaneError> {
        let facts = self.workers.run(Worker::prepare).await?;
        self.has_no_ipv4.store(facts.first_global_ipv4.is_none(), Ordering::Relaxed);
        Ok(facts)
    }

    async fn identify(&self, path: &Path) -> Result<Netns, DataplaneError> {
        let path = path.to_owned();
        self.workers.run(move |worker| worker.identify(&path)).await
    }

    async fn attach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        let (attachment, source) = (attachment.clone(), self.source());
        self.workers.run(move |worker| worker.attach(&attachment, source)).await
    }

    async fn mend(&self, attachment: &Attachment, drifts: &[Drift]) -> Result<(), DataplaneError> {
        let (attachment, drifts, source) = (attachment.clone(), drifts.to_vec(), self.source());
        self.workers.run(move |worker| worker.mend(&attachment, &drifts, source)).await
    }

    async fn detach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        let attachment = attachment.clone();
        self.workers.run(move |worker| worker.detach(&attachment)).await
    }

    async fn reap(&self, links: &[Link]) -> Result<(), DataplaneError> {
        let links = links.to_vec();
        let turn = Arc::clone(&self.node_routes).lock_owned().await;
        let doomed = self.reaper.run(move |worker| {
            let _turn = turn;
            let doomed = worker.doomed(&links)?;
            if !doomed.is_empty() {
                worker.leave_anycast(&doomed)?;
            }
            Ok(doomed)
        });
        let doomed = doomed.await?;
        if doomed.is_empty() {
            return Ok(());
        }
        self.reaper.run(move |worker| worker.remove_links(&doomed)).await
    }

    async fn check(&self, attachments: &[Attachment]) -> Result<Vec<Vec<Drift>>, DataplaneError> {
        // Most of it is to look into the pods' namespaces: every thread takes a part.
        let part = attachments.len().div_ceil(ATTACHING_THREADS).max(PART_OF_A_CHECK);
        let parts = attachments.chunks(part).map(|part| {
            let part = part.to_vec();
            self.workers.run(move |worker| worker.check(&part))
        });
        Ok(try_join_all(parts).await?.concat())
    }

    async fn list(&self) -> Result<Vec<FoundLink>, DataplaneError> {
        self.workers.run(Worker::list).await
    }

    async fn set_summaries(&self, prefixes: &BTreeSet<IpNet>) -> Result<(), DataplaneError> {
        let prefixes = prefixes.clone();
        let turn = Arc::clone(&self.node_routes).lock_owned().await;
        let job = move |worker: &mut Worker| {
            let _turn = turn;
            worker.set_summaries(&prefixes)
        };
        self.workers.run(job).await
    }

    async fn set_anycast(&self, routes: &[AnycastRoute]) -> Result<(), DataplaneError> {
        let routes = routes.to_vec();
        let turn = Arc::clone(&self.node_routes).lock_owned().await;
        let job = move |worker: &mut Worker| {
            let _turn = turn;
            worker.set_anycast(&routes)
        };
        self.workers.run(job).await
    }

    async fn announced_anycast(&self) -> Result<Vec<(IpAddr, InterfaceName)>, DataplaneError> {
        self.workers.run(Worker::announced_anycast).await
    }

    async fn disturbed(&self) -> Result<Disturbance, DataplaneError> {
        self.listener.disturbed().await
    }

    async fn check_node(&self, wanted: &NodeWanted) -> Result<Vec<NodeDrift>, DataplaneError> {
        let wanted = wanted.clone();
        self.workers.run(move |worker| worker.check_node(&wanted)).await
    }

    async fn remove_strays(&self, strays: &[Stray]) -> Result<(), DataplaneError> {
        let strays = strays.to_vec();
        self.workers.run(move |worker| worker.remove_strays(&strays)).await
    }
}
