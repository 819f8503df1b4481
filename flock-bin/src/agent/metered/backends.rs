//! The five traits, each call measured as its step.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use async_trait::async_trait;
use flock_core::announcer::{AnnounceError, Announcements, RouteAnnouncer};
use flock_core::attachment::{Addresses, Attachment, AttachmentKey, Netns, NodeCidrs};
use flock_core::dataplane::{
    AnycastRoute, Dataplane, DataplaneError, Disturbance, Drift, FoundLink, Link, NodeDrift, NodeFacts,
    NodeWanted, Stray,
};
use flock_core::ipam::{AddressRequest, Ipam, IpamError, Lease, LeaseOwner, Usage};
use flock_core::name::InterfaceName;
use flock_core::pods::{PodChange, PodError, PodInfo, PodRef, PodSource};
use flock_core::store::{Store, StoreError};
use futures_core::stream::BoxStream;
use ipnet::IpNet;

use super::Metered;
use crate::agent::metrics::Step;

#[async_trait]
impl<T: Ipam + ?Sized> Ipam for Metered<T> {
    async fn allocate(&self, owner: &LeaseOwner, request: &AddressRequest) -> Result<Addresses, IpamError> {
        self.measure(Step::Allocation, self.inner.allocate(owner, request)).await
    }

    async fn restore(&self, owner: &LeaseOwner, addresses: Addresses) -> Result<(), IpamError> {
        self.measure(Step::Allocation, self.inner.restore(owner, addresses)).await
    }

    async fn release(&self, owner: &AttachmentKey) -> Result<(), IpamError> {
        self.measure(Step::Allocation, self.inner.release(owner)).await
    }

    async fn configure(&self, cidrs: NodeCidrs, own: &[IpAddr]) -> Result<(), IpamError> {
        self.measure(Step::Allocation, self.inner.configure(cidrs, own)).await
    }

    async fn usage(&self) -> Result<Vec<Usage>, IpamError> {
        // Asked for by those who show it: no step of anything.
        self.inner.usage().await
    }

    async fn leases(&self) -> Result<Vec<Lease>, IpamError> {
        self.inner.leases().await
    }
}

#[async_trait]
impl<T: Store + ?Sized> Store for Metered<T> {
    async fn put(&self, attachment: &Attachment) -> Result<(), StoreError> {
        self.measure(Step::Record, self.inner.put(attachment)).await
    }

    async fn get(&self, key: &AttachmentKey) -> Result<Option<Attachment>, StoreError> {
        self.measure(Step::Record, self.inner.get(key)).await
    }

    async fn delete(&self, key: &AttachmentKey) -> Result<(), StoreError> {
        self.measure(Step::Record, self.inner.delete(key)).await
    }

    async fn list(&self) -> Result<Vec<Attachment>, StoreError> {
        self.measure(Step::Record, self.inner.list()).await
    }
}

#[async_trait]
impl<T: Dataplane + ?Sized> Dataplane for Metered<T> {
    async fn prepare(&self) -> Result<NodeFacts, DataplaneError> {
        self.measure(Step::Kernel, self.inner.prepare()).await
    }

    async fn identify(&self, path: &Path) -> Result<Netns, DataplaneError> {
        self.measure(Step::Kernel, self.inner.identify(path)).await
    }

    async fn attach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        self.measure(Step::Kernel, self.inner.attach(attachment)).await
    }

    async fn mend(&self, attachment: &Attachment, drifts: &[Drift]) -> Result<(), DataplaneError> {
        self.measure(Step::Kernel, self.inner.mend(attachment, drifts)).await
    }

    async fn detach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        self.measure(Step::Kernel, self.inner.detach(attachment)).await
    }

    async fn reap(&self, links: &[Link]) -> Result<(), DataplaneError> {
        self.measure(Step::Kernel, self.inner.reap(links)).await
    }

    async fn check(&self, attachments: &[Attachment]) -> Result<Vec<Vec<Drift>>, DataplaneError> {
        self.measure(Step::Kernel, self.inner.check(attachments)).await
    }

    async fn list(&self) -> Result<Vec<FoundLink>, DataplaneError> {
        self.measure(Step::Kernel, self.inner.list()).await
    }

    async fn set_summaries(&self, prefixes: &BTreeSet<IpNet>) -> Result<(), DataplaneError> {
        self.measure(Step::Kernel, self.inner.set_summaries(prefixes)).await
    }

    async fn set_anycast(&self, routes: &[AnycastRoute]) -> Result<(), DataplaneError> {
        self.measure(Step::Kernel, self.inner.set_anycast(routes)).await
    }

    async fn announced_anycast(&self) -> Result<Vec<(IpAddr, InterfaceName)>, DataplaneError> {
        self.measure(Step::Kernel, self.inner.announced_anycast()).await
    }

    async fn disturbed(&self) -> Result<Disturbance, DataplaneError> {
        // A wait for somebody else: no step of anything.
        self.inner.disturbed().await
    }

    async fn check_node(&self, wanted: &NodeWanted) -> Result<Vec<NodeDrift>, DataplaneError> {
        self.measure(Step::Kernel, self.inner.check_node(wanted)).await
    }

    async fn remove_strays(&self, strays: &[Stray]) -> Result<(), DataplaneError> {
        self.measure(Step::Kernel, self.inner.remove_strays(strays)).await
    }
}

#[async_trait]
impl<T: RouteAnnouncer + ?Sized> RouteAnnouncer for Metered<T> {
    async fn sync(&self, wanted: &Announcements) -> Result<(), AnnounceError> {
        self.measure(Step::Announcement, self.inner.sync(wanted)).await
    }
}

#[async_trait]
impl<T: PodSource + ?Sized> PodSource for Metered<T> {
    async fn pod(&self, wanted: &PodRef, deadline: Instant) -> Result<PodInfo, PodError> {
        self.measure(Step::Annotations, self.inner.pod(wanted, deadline)).await
    }

    fn changes(&self) -> BoxStream<'static, PodChange> {
        self.inner.changes()
    }
}
