//! The five traits, each call between two moments.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use flock_core::announcer::{AnnounceError, Announcements, RouteAnnouncer};
use flock_core::attachment::{Addresses, Attachment, AttachmentKey, Netns, NodeCidrs};
use flock_core::dataplane::{
    AnycastRoute, Dataplane, DataplaneError, Disturbance, Drift, FoundLink, Link, NodeDrift, NodeFacts,
    NodeWanted, Stray,
};
use flock_core::handler::Backends;
use flock_core::ipam::{AddressRequest, Ipam, IpamError, Lease, LeaseOwner, Usage};
use flock_core::name::InterfaceName;
use flock_core::pods::{PodChange, PodError, PodInfo, PodRef, PodSource};
use flock_core::store::{Store, StoreError};
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use ipnet::IpNet;

use crate::fate::Fate;

/// The same backends; `fate` sees each call.
pub(crate) fn mortal(backends: Backends, fate: &Arc<Fate>) -> Backends {
    let Backends { ipam, store, dataplane, announcer, pods, clock } = backends;
    Backends {
        ipam: Mortal::wrap(ipam, fate),
        store: Mortal::wrap(store, fate),
        dataplane: Mortal::wrap(dataplane, fate),
        announcer: Mortal::wrap(announcer, fate),
        pods: Mortal::wrap(pods, fate),
        clock,
    }
}

#[derive(Debug)]
struct Mortal<T: ?Sized> {
    inner: Arc<T>,
    fate: Arc<Fate>,
}

impl<T: ?Sized> Mortal<T> {
    fn wrap(inner: Arc<T>, fate: &Arc<Fate>) -> Arc<Self> {
        Arc::new(Self { inner, fate: Arc::clone(fate) })
    }
}

#[async_trait]
impl<T: Ipam + ?Sized> Ipam for Mortal<T> {
    async fn allocate(&self, owner: &LeaseOwner, request: &AddressRequest) -> Result<Addresses, IpamError> {
        self.fate.around("ipam.allocate", self.inner.allocate(owner, request)).await
    }

    async fn restore(&self, owner: &LeaseOwner, addresses: Addresses) -> Result<(), IpamError> {
        self.fate.around("ipam.restore", self.inner.restore(owner, addresses)).await
    }

    async fn release(&self, owner: &AttachmentKey) -> Result<(), IpamError> {
        self.fate.around("ipam.release", self.inner.release(owner)).await
    }

    async fn configure(&self, cidrs: NodeCidrs, own: &[IpAddr]) -> Result<(), IpamError> {
        self.fate.around("ipam.configure", self.inner.configure(cidrs, own)).await
    }

    async fn usage(&self) -> Result<Vec<Usage>, IpamError> {
        self.inner.usage().await
    }

    async fn leases(&self) -> Result<Vec<Lease>, IpamError> {
        self.inner.leases().await
    }
}

#[async_trait]
impl<T: Store + ?Sized> Store for Mortal<T> {
    async fn put(&self, attachment: &Attachment) -> Result<(), StoreError> {
        self.fate.around("store.put", self.inner.put(attachment)).await
    }

    async fn get(&self, key: &AttachmentKey) -> Result<Option<Attachment>, StoreError> {
        self.fate.around("store.get", self.inner.get(key)).await
    }

    async fn delete(&self, key: &AttachmentKey) -> Result<(), StoreError> {
        self.fate.around("store.delete", self.inner.delete(key)).await
    }

    async fn list(&self) -> Result<Vec<Attachment>, StoreError> {
        self.fate.around("store.list", self.inner.list()).await
    }
}

#[async_trait]
impl<T: Dataplane + ?Sized> Dataplane for Mortal<T> {
    async fn prepare(&self) -> Result<NodeFacts, DataplaneError> {
        self.fate.around("dataplane.prepare", self.inner.prepare()).await
    }

    async fn identify(&self, path: &Path) -> Result<Netns, DataplaneError> {
        self.fate.around("dataplane.identify", self.inner.identify(path)).await
    }

    async fn attach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        self.fate.around("dataplane.attach", self.inner.attach(attachment)).await
    }

    async fn detach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        self.fate.around("dataplane.detach", self.inner.detach(attachment)).await
    }

    async fn reap(&self, links: &[Link]) -> Result<(), DataplaneError> {
        self.fate.around("dataplane.reap", self.inner.reap(links)).await
    }

    async fn check(&self, attachments: &[Attachment]) -> Result<Vec<Vec<Drift>>, DataplaneError> {
        self.fate.around("dataplane.check", self.inner.check(attachments)).await
    }

    async fn list(&self) -> Result<Vec<FoundLink>, DataplaneError> {
        self.fate.around("dataplane.list", self.inner.list()).await
    }

    async fn set_summaries(&self, prefixes: &BTreeSet<IpNet>) -> Result<(), DataplaneError> {
        self.fate.around("dataplane.set_summaries", self.inner.set_summaries(prefixes)).await
    }

    async fn set_anycast(&self, routes: &[AnycastRoute]) -> Result<(), DataplaneError> {
        self.fate.around("dataplane.set_anycast", self.inner.set_anycast(routes)).await
    }

    async fn announced_anycast(&self) -> Result<Vec<(IpAddr, InterfaceName)>, DataplaneError> {
        self.fate.around("dataplane.announced_anycast", self.inner.announced_anycast()).await
    }

    /// No call that counts: it waits for others, and changes nothing.
    async fn disturbed(&self) -> Result<Disturbance, DataplaneError> {
        if self.fate.deaf {
            return std::future::pending().await;
        }
        self.inner.disturbed().await
    }

    async fn check_node(&self, wanted: &NodeWanted) -> Result<Vec<NodeDrift>, DataplaneError> {
        self.fate.around("dataplane.check_node", self.inner.check_node(wanted)).await
    }

    async fn remove_strays(&self, strays: &[Stray]) -> Result<(), DataplaneError> {
        self.fate.around("dataplane.remove_strays", self.inner.remove_strays(strays)).await
    }
}

#[async_trait]
impl<T: RouteAnnouncer + ?Sized> RouteAnnouncer for Mortal<T> {
    async fn sync(&self, wanted: &Announcements) -> Result<(), AnnounceError> {
        self.fate.around("announcer.sync", self.inner.sync(wanted)).await
    }
}

#[async_trait]
impl<T: PodSource + ?Sized> PodSource for Mortal<T> {
    async fn pod(&self, wanted: &PodRef, deadline: Instant) -> Result<PodInfo, PodError> {
        self.fate.around("pods.pod", self.inner.pod(wanted, deadline)).await
    }

    fn changes(&self) -> BoxStream<'static, PodChange> {
        if self.fate.unaware {
            return stream::pending().boxed();
        }
        self.inner.changes()
    }
}
