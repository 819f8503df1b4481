//! Another CNI that takes only two parts of Flock: the allocator and the store.
//!
//! It gives addresses from the node's prefixes, keeps what it gave in one file for
//! each attachment, dies, and starts again: nothing is given twice and nothing is
//! lost. No agent, no netlink, no BGP.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flock_core::attachment::{Attachment, AttachmentKey, AttachmentState, Netns, NodeCidrs};
use flock_core::clock::SystemClock;
use flock_core::ipam::{AddressRequest, FamilyRequest, Ipam, IpamError, LeaseOwner, MemoryIpam};
use flock_core::name::{ContainerId, InterfaceName, NetworkName, PodKey};
use flock_core::store::{FileStore, Store};

type Error = Box<dyn std::error::Error>;

/// A released address is not given to another pod for so long.
const REST: Duration = Duration::from_secs(30);

/// What another CNI would be made of.
struct Addresses {
    ipam: MemoryIpam,
    store: FileStore,
}

impl Addresses {
    /// Starts with what an earlier life has left in `directory`.
    async fn open(directory: &Path) -> Result<Self, Error> {
        let ipam = MemoryIpam::new(Arc::new(SystemClock), REST, 0);
        let cidrs = NodeCidrs { ipv6: Some("2001:db8:1::/64".parse()?), ipv4: Some("10.0.1.0/29".parse()?) };
        let router = "10.0.1.1".parse()?;
        ipam.configure(cidrs, &[router]).await?;
        let (store, set_aside) = FileStore::open(directory).await?;
        for file in set_aside {
            writeln!(io::stderr(), "a record could not be read: {file:?}")?;
        }
        for record in store.list().await? {
            let owner = LeaseOwner { key: record.key.clone(), pod: record.pod.clone() };
            ipam.restore(&owner, record.addresses).await?;
        }
        Ok(Self { ipam, store })
    }

    async fn give(&self, pod: &str, request: AddressRequest) -> Result<Attachment, Error> {
        let key =
            AttachmentKey::new(ContainerId::new(format!("sandbox-{pod}"))?, InterfaceName::new("eth0")?);
        let pod = PodKey::new("default", pod)?;
        let owner = LeaseOwner { key: key.clone(), pod: Some(pod.clone()) };
        let addresses = self.ipam.allocate(&owner, &request).await?;
        let [host_interface, _] = key.host_interface_candidates();
        let record = Attachment {
            netns: Netns { path: format!("/run/netns/{}", pod.name()).into(), device: 0, inode: 0 },
            key,
            state: AttachmentState::Committed,
            network: NetworkName::new("another-cni")?,
            pod: Some(pod),
            pod_uid: None,
            host_interface,
            addresses,
            anycast: Vec::new(),
            mtu: 1500,
            boot_id: "this boot".to_owned(),
            created_ms: 0,
        };
        // What can't be kept is not given.
        if let Err(error) = self.store.put(&record).await {
            self.ipam.release(&record.key).await?;
            return Err(error.into());
        }
        Ok(record)
    }

    async fn take_back(&self, key: &AttachmentKey) -> Result<(), Error> {
        self.store.delete(key).await?;
        self.ipam.release(key).await?;
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut out = io::stdout();
    let directory = tempfile::tempdir()?;
    let any = AddressRequest { ipv6: FamilyRequest::Any, ipv4: FamilyRequest::Any, ..Default::default() };

    let life = Addresses::open(directory.path()).await?;
    for pod in ["web", "api"] {
        tell(&mut out, "gave", &life.give(pod, any).await?)?;
    }

    // Another life: nothing but the files is left.
    drop(life);
    let life = Addresses::open(directory.path()).await?;
    for record in life.store.list().await? {
        tell(&mut out, "kept", &record)?;
    }
    let fixed = AddressRequest { ipv4: FamilyRequest::Exactly("10.0.1.2".parse()?), ..Default::default() };
    match life.give("thief", fixed).await {
        Err(error) => writeln!(out, "refused: {error}")?,
        Ok(record) => tell(&mut out, "gave twice", &record)?,
    }
    let db = life.give("db", any).await?;
    tell(&mut out, "gave", &db)?;
    life.take_back(&db.key).await?;
    for usage in life.ipam.usage().await? {
        writeln!(out, "{}: {} in use, {} resting", usage.prefix, usage.in_use, usage.resting)?;
    }

    // A /29 without its network, broadcast and the router's address has five; one rests.
    let last = async {
        for number in 1.. {
            life.give(&format!("pod-{number}"), any).await?;
        }
        Ok::<(), Error>(())
    };
    if let Err(error) = last.await {
        let exhausted = matches!(error.downcast_ref(), Some(IpamError::Exhausted(_)));
        writeln!(out, "{}: {error}", if exhausted { "exhausted" } else { "failed" })?;
    }
    Ok(())
}

fn tell(out: &mut impl Write, what: &str, record: &Attachment) -> io::Result<()> {
    let addresses: Vec<String> = record.addresses.iter().map(|address| address.to_string()).collect();
    writeln!(out, "{what} {} {}", record.owner(), addresses.join(" "))
}
