//! A node and pods to try things with.

use std::error::Error;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;

use flock_core::attachment::{Addresses, Attachment, AttachmentKey, AttachmentState, Netns};
use flock_core::name::{ContainerId, InterfaceName, NetworkName};
use rustix::thread::UnshareFlags;

/// Moves the calling thread, and those that it starts later, into a new network namespace.
pub(crate) fn enter_a_node() -> Result<(), Box<dyn Error>> {
    unshare_network()?;
    Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    Ok(())
}

/// A network namespace that lives as long as this.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let made = thread::spawn(|| unshare_network().and_then(|()| File::open("/proc/thread-self/ns/net")));
        Ok(Self(made.join().map_err(|_| "the thread that was to make a namespace has failed")??))
    }

    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// A record as an agent would make it.
pub(crate) fn attachment(number: u8, netns: Netns) -> Result<Attachment, Box<dyn Error>> {
    let key =
        AttachmentKey::new(ContainerId::new(format!("container{number}"))?, InterfaceName::new("eth0")?);
    let [host_interface, _] = key.host_interface_candidates();
    Ok(Attachment {
        host_interface,
        key,
        state: AttachmentState::Pending,
        network: NetworkName::new("flock")?,
        pod: None,
        pod_uid: None,
        netns,
        addresses: Addresses {
            ipv6: Some([0x2001, 0xdb8, 1, 0, 0, 0, 0, number.into()].into()),
            ipv4: Some([10, 0, 1, number].into()),
        },
        anycast: Vec::new(),
        mtu: 1500,
        boot_id: String::new(),
        created_ms: 0,
    })
}

#[allow(deprecated, reason = "only sharing file descriptors less would be unsafe")]
fn unshare_network() -> std::io::Result<()> {
    Ok(rustix::thread::unshare(UnshareFlags::NEWNET)?)
}
