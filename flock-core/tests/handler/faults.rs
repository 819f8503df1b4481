//! Backends that fail on the n-th call: wrappers around real ones that share one
//! count of calls.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

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
use futures_util::{StreamExt as _, stream};
use ipnet::IpNet;

/// Which calls fail. Calls are counted over all wrappers together.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    calls: AtomicUsize,
    failing: Mutex<BTreeSet<usize>>,
    off: AtomicBool,
    /// Whether every call gives way to others, before and after its effect.
    yielding: AtomicBool,
    log: Mutex<Vec<&'static str>>,
    /// Links whose removal always fails, and that of all others in the same call.
    irremovable: Mutex<Vec<Link>>,
    /// Whether the pod source is away.
    no_pods: AtomicBool,
    /// Whether the pod source tells of nothing from now on.
    pub(crate) silent: AtomicBool,
    /// Held, it holds up every `attach` before it does anything.
    pub(crate) attaching: tokio::sync::Mutex<()>,
    /// To attach this one takes the kernel so long.
    pub(crate) slow: Mutex<Option<(AttachmentKey, Duration)>>,
    /// Held, it holds up every `detach` before it does anything.
    pub(crate) detaching: tokio::sync::Mutex<()>,
}

impl Faults {
    pub(crate) fn failing(calls: impl IntoIterator<Item = usize>) -> Arc<Self> {
        Arc::new(Self { failing: Mutex::new(calls.into_iter().collect()), ..Self::default() })
    }

    /// Of the calls to come, this one fails; the next one is 0.
    pub(crate) fn fail_later(&self, call: usize) {
        self.failing.lock().unwrap().insert(self.calls() + call);
    }

    /// From now on every call that is to remove `link` fails.
    pub(crate) fn refuse_to_remove(&self, link: Link) {
        self.irremovable.lock().unwrap().push(link);
    }

    /// From now on the pod source is away, or there again.
    pub(crate) fn have_no_pods(&self, away: bool) {
        self.no_pods.store(away, Ordering::Relaxed);
    }

    fn refuses(&self, links: &[Link]) -> bool {
        let irremovable = self.irremovable.lock().unwrap();
        !self.off.load(Ordering::Relaxed) && links.iter().any(|link| irremovable.contains(link))
    }

    /// From now on nothing fails.
    pub(crate) fn stop(&self) {
        self.off.store(true, Ordering::Relaxed);
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// The names of the calls so far.
    pub(crate) fn log(&self) -> Vec<&'static str> {
        self.log.lock().unwrap().clone()
    }

    /// From now on every call gives way to others before and after its effect.
    pub(crate) fn yield_at_each_call(&self) {
        self.yielding.store(true, Ordering::Relaxed);
    }

    /// From now on no call does.
    pub(crate) fn yield_at_no_call(&self) {
        self.yielding.store(false, Ordering::Relaxed);
    }

    /// Whether the call that begins here fails.
    async fn turn(&self, name: &'static str) -> bool {
        self.give_way().await;
        self.fails(name)
    }

    /// The call whose effect is over here.
    async fn after<T>(&self, effect: impl Future<Output = T>) -> T {
        let done = effect.await;
        self.give_way().await;
        done
    }

    /// Pending once. Not tokio's: that is for tasks, and these calls may be polled by hand.
    async fn give_way(&self) {
        let mut given = !self.yielding.load(Ordering::Relaxed);
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut given, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn fails(&self, name: &'static str) -> bool {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        self.log.lock().unwrap().push(name);
        !self.off.load(Ordering::Relaxed) && self.failing.lock().unwrap().contains(&call)
    }
}

/// A backend whose calls are counted and may fail.
#[derive(Debug)]
pub(crate) struct Faulty<T> {
    pub(crate) inner: Arc<T>,
    pub(crate) faults: Arc<Faults>,
}

impl<T> Faulty<T> {
    pub(crate) fn wrap(inner: &Arc<T>, faults: &Arc<Faults>) -> Arc<Self> {
        Arc::new(Self { inner: Arc::clone(inner), faults: Arc::clone(faults) })
    }
}

const INJECTED: &str = "injected";

#[async_trait]
impl<T: Ipam> Ipam for Faulty<T> {
    async fn allocate(&self, owner: &LeaseOwner, request: &AddressRequest) -> Result<Addresses, IpamError> {
        if self.faults.turn("ipam.allocate").await {
            return Err(IpamError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.allocate(owner, request)).await
    }

    async fn restore(&self, owner: &LeaseOwner, addresses: Addresses) -> Result<(), IpamError> {
        if self.faults.turn("ipam.restore").await {
            return Err(IpamError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.restore(owner, addresses)).await
    }

    async fn release(&self, owner: &AttachmentKey) -> Result<(), IpamError> {
        if self.faults.turn("ipam.release").await {
            return Err(IpamError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.release(owner)).await
    }

    async fn configure(&self, cidrs: NodeCidrs, own: &[IpAddr]) -> Result<(), IpamError> {
        if self.faults.turn("ipam.configure").await {
            return Err(IpamError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.configure(cidrs, own)).await
    }

    async fn usage(&self) -> Result<Vec<Usage>, IpamError> {
        if self.faults.fails("ipam.usage") {
            return Err(IpamError::Backend(INJECTED.into()));
        }
        self.inner.usage().await
    }

    async fn leases(&self) -> Result<Vec<Lease>, IpamError> {
        if self.faults.fails("ipam.leases") {
            return Err(IpamError::Backend(INJECTED.into()));
        }
        self.inner.leases().await
    }
}

#[async_trait]
impl<T: Store> Store for Faulty<T> {
    async fn put(&self, attachment: &Attachment) -> Result<(), StoreError> {
        if self.faults.turn("store.put").await {
            return Err(StoreError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.put(attachment)).await
    }

    async fn get(&self, key: &AttachmentKey) -> Result<Option<Attachment>, StoreError> {
        if self.faults.turn("store.get").await {
            return Err(StoreError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.get(key)).await
    }

    async fn delete(&self, key: &AttachmentKey) -> Result<(), StoreError> {
        if self.faults.turn("store.delete").await {
            return Err(StoreError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.delete(key)).await
    }

    async fn list(&self) -> Result<Vec<Attachment>, StoreError> {
        if self.faults.turn("store.list").await {
            return Err(StoreError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.list()).await
    }
}

/// Changing calls fail after their effect, which the contract allows the dataplane.
#[async_trait]
impl<T: Dataplane> Dataplane for Faulty<T> {
    async fn prepare(&self) -> Result<NodeFacts, DataplaneError> {
        if self.faults.turn("dataplane.prepare").await {
            return Err(DataplaneError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.prepare()).await
    }

    async fn identify(&self, path: &Path) -> Result<Netns, DataplaneError> {
        if self.faults.turn("dataplane.identify").await {
            return Err(DataplaneError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.identify(path)).await
    }

    async fn attach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        drop(self.faults.attaching.lock().await);
        let slow = self.faults.slow.lock().unwrap().clone();
        if let Some((_, time)) = slow.filter(|(key, _)| *key == attachment.key) {
            tokio::time::sleep(time).await;
        }
        let failed = self.faults.turn("dataplane.attach").await;
        self.faults.after(self.inner.attach(attachment)).await?;
        if failed { Err(DataplaneError::Backend(INJECTED.into())) } else { Ok(()) }
    }

    async fn detach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        drop(self.faults.detaching.lock().await);
        let failed = self.faults.turn("dataplane.detach").await;
        self.faults.after(self.inner.detach(attachment)).await?;
        if failed { Err(DataplaneError::Backend(INJECTED.into())) } else { Ok(()) }
    }

    async fn reap(&self, links: &[Link]) -> Result<(), DataplaneError> {
        if self.faults.turn("dataplane.reap").await || self.faults.refuses(links) {
            return Err(DataplaneError::Backend(INJECTED.into()));
        }
        // The kernel takes tens of milliseconds for this: others go on meanwhile.
        tokio::task::yield_now().await;
        self.faults.after(self.inner.reap(links)).await
    }

    async fn check(&self, attachments: &[Attachment]) -> Result<Vec<Vec<Drift>>, DataplaneError> {
        if self.faults.turn("dataplane.check").await {
            return Err(DataplaneError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.check(attachments)).await
    }

    async fn list(&self) -> Result<Vec<FoundLink>, DataplaneError> {
        if self.faults.turn("dataplane.list").await {
            return Err(DataplaneError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.list()).await
    }

    async fn set_summaries(&self, prefixes: &BTreeSet<IpNet>) -> Result<(), DataplaneError> {
        if self.faults.turn("dataplane.set_summaries").await {
            return Err(DataplaneError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.set_summaries(prefixes)).await
    }

    async fn set_anycast(&self, routes: &[AnycastRoute]) -> Result<(), DataplaneError> {
        if self.faults.turn("dataplane.set_anycast").await {
            return Err(DataplaneError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.set_anycast(routes)).await
    }

    async fn announced_anycast(&self) -> Result<Vec<(IpAddr, InterfaceName)>, DataplaneError> {
        if self.faults.turn("dataplane.announced_anycast").await {
            return Err(DataplaneError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.announced_anycast()).await
    }

    async fn disturbed(&self) -> Result<Disturbance, DataplaneError> {
        self.inner.disturbed().await
    }

    async fn check_node(&self, wanted: &NodeWanted) -> Result<Vec<NodeDrift>, DataplaneError> {
        if self.faults.fails("dataplane.check_node") {
            return Err(DataplaneError::Backend(INJECTED.into()));
        }
        self.inner.check_node(wanted).await
    }

    async fn remove_strays(&self, strays: &[Stray]) -> Result<(), DataplaneError> {
        let failed = self.faults.fails("dataplane.remove_strays");
        self.inner.remove_strays(strays).await?;
        if failed { Err(DataplaneError::Backend(INJECTED.into())) } else { Ok(()) }
    }
}

#[async_trait]
impl<T: RouteAnnouncer> RouteAnnouncer for Faulty<T> {
    async fn sync(&self, wanted: &Announcements) -> Result<(), AnnounceError> {
        if self.faults.turn("announcer.sync").await {
            return Err(AnnounceError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.sync(wanted)).await
    }
}

#[async_trait]
impl<T: PodSource> PodSource for Faulty<T> {
    async fn pod(&self, wanted: &PodRef, deadline: Instant) -> Result<PodInfo, PodError> {
        if self.faults.turn("pods.pod").await || self.faults.no_pods.load(Ordering::Relaxed) {
            return Err(PodError::Backend(INJECTED.into()));
        }
        self.faults.after(self.inner.pod(wanted, deadline)).await
    }

    fn changes(&self) -> BoxStream<'static, PodChange> {
        if self.faults.silent.load(Ordering::Relaxed) {
            return stream::empty().boxed();
        }
        self.inner.changes()
    }
}
