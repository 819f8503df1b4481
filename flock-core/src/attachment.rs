//! One interface of one container: its identity, its durable record and the
//! names and link-layer addresses that follow from its identity.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::name::{ContainerId, InterfaceName, NetworkName, PodKey};

/// The gateway of every pod for IPv6, on the host side of each veth.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The gateway of every pod for IPv4 (RFC 3927), on-link in the pod.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// What identifies an attachment: the container and the interface in it.
///
/// Displays as `container/interface`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// The sandbox.
    pub container: ContainerId,
    /// The interface in the sandbox's network namespace.
    pub interface: InterfaceName,
}

impl AttachmentKey {
    /// Joins the two halves.
    pub fn new(container: ContainerId, interface: InterfaceName) -> Self {
        Self { container, interface }
    }

    /// The candidates for the name of the host side, the preferred one first.
    ///
    /// `flock` and 8 hex digits of FNV-1a-32 of the container id. Another
    /// interface of the same container finds the first name taken by its
    /// sibling and uses the second, the hash of `id/interface`.
    pub fn host_interface_candidates(&self) -> [InterfaceName; 2] {
        let container = self.container.as_str();
        let both = format!("{container}/{}", self.interface);
        [container, both.as_str()].map(|hashed| {
            let name = format!("flock{:08x}", fnv1a_32(hashed.as_bytes()));
            InterfaceName::new(name).unwrap_or_else(|_| unreachable!("13 ASCII letters and digits"))
        })
    }

    /// The text that marks the host side as this attachment's, kept as the
    /// link's alias: `flock:container/interface`.
    pub fn alias(&self) -> String {
        format!("{ALIAS_PREFIX}{self}")
    }

    /// Reads back what [`alias`](Self::alias) wrote; `None` for a foreign alias.
    pub fn from_alias(alias: &str) -> Option<Self> {
        let (container, interface) = alias.strip_prefix(ALIAS_PREFIX)?.split_once('/')?;
        Some(Self {
            container: ContainerId::new(container).ok()?,
            interface: InterfaceName::new(interface).ok()?,
        })
    }

    /// The link-layer addresses of the two sides, derived from the key, so that
    /// each side's permanent neighbour entry is known before the link exists.
    pub fn mac_addresses(&self) -> MacPair {
        let hash = fnv1a_64(self.to_string().as_bytes()).to_be_bytes();
        // Locally administered, unicast (IEEE 802, the two low bits of the first octet).
        let first = (hash[0] & 0xfc) | 0x02;
        let tail = [hash[1], hash[2], hash[3], hash[4]];
        let mac = |side: u8| {
            let last = (hash[5] & 0xfe) | side;
            MacAddr([first, tail[0], tail[1], tail[2], tail[3], last])
        };
        MacPair { host: mac(0), pod: mac(1) }
    }
}

const ALIAS_PREFIX: &str = "flock:";

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.interface)
    }
}

/// The link-layer addresses of the two sides of a veth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacPair {
    /// The side in the node's namespace.
    pub host: MacAddr,
    /// The side in the pod's namespace.
    pub pod: MacAddr,
}

/// A 48-bit link-layer address. Displays as `02:00:5e:10:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The link-local address with the modified EUI-64 identifier of this
    /// address (RFC 4291, appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 0x02, b), word(c, 0xff), word(0xfe, d), word(e, f))
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// A network namespace as it was when it was looked at: a path that is now
/// another namespace's is told from the device and inode.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Netns {
    /// Where the runtime keeps it.
    pub path: PathBuf,
    /// Device of the namespace file.
    pub device: u64,
    /// Inode of the namespace file.
    pub inode: u64,
}

impl Netns {
    /// Whether both are the same namespace, whatever the paths.
    pub fn is_same(&self, other: &Self) -> bool {
        self.device == other.device && self.inode == other.inode
    }
}

/// How far an attachment has come. Gone is the absence of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachmentState {
    /// Addresses are given, the kernel's part may be half made. Undone at a restart.
    Pending,
    /// Complete. Answers a repeated ADD, kept over restarts.
    Committed,
    /// Unreachable, waiting for its link to be removed and its addresses to be released.
    Deleting,
}

/// The addresses of one attachment, at most one of each family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Addresses {
    /// Given out as a /128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Given out as a /32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
}

impl Addresses {
    /// IPv6 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v6 = self.ipv6.map(IpAddr::V6);
        let v4 = self.ipv4.map(IpAddr::V4);
        v6.into_iter().chain(v4)
    }

    /// The same as host prefixes, /128 and /32.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.iter().map(IpNet::from)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ipv6.is_none() && self.ipv4.is_none()
    }
}

/// The durable record of an attachment: everything that is needed to answer a
/// repeated ADD, to repair the kernel's state and to take it away again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Container and interface.
    pub key: AttachmentKey,
    /// How far it has come.
    pub state: AttachmentState,
    /// The CNI network that asked for it.
    pub network: NetworkName,
    /// The pod, where the runtime says which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodKey>,
    /// The pod's UID, where the runtime says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The namespace that the pod side is in.
    pub netns: Netns,
    /// The link on the node.
    pub host_interface: InterfaceName,
    /// The pod's own addresses.
    pub addresses: Addresses,
    /// Addresses that the pod serves beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anycast: Vec<IpAddr>,
    /// Of both sides, in bytes.
    pub mtu: u32,
    /// The boot in which it was made (`/proc/sys/kernel/random/boot_id` on Linux).
    pub boot_id: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
}

impl Attachment {
    /// Whether its record was lost and made anew from its link: which network it is of, and where
    /// its namespace is, nobody knows.
    pub fn is_salvaged(&self) -> bool {
        self.netns.path.as_os_str().is_empty()
    }

    /// Who it is for people: the pod where it is known, the container always.
    pub fn owner(&self) -> String {
        owner_text(self.pod.as_ref(), &self.key)
    }
}

/// `pod default/web-0 (container 0123456789ab, eth0)`, or without the pod.
pub(crate) fn owner_text(pod: Option<&PodKey>, key: &AttachmentKey) -> String {
    // Runtimes print container ids cut to 12 or 13 characters; so do people.
    let container = key.container.as_str();
    let short = container.get(..13).unwrap_or(container);
    let interface = &key.interface;
    match pod {
        Some(pod) => format!("pod {pod} (container {short}, {interface})"),
        None => format!("container {short} ({interface})"),
    }
}

/// The prefixes of a node that pods get their addresses from: at most one of each family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeCidrs {
    /// IPv6, if the node has it.
    pub ipv6: Option<Ipv6Net>,
    /// IPv4, if the node has it.
    pub ipv4: Option<Ipv4Net>,
}

impl NodeCidrs {
    /// Whether `address` is in one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.iter().any(|cidr| cidr.contains(&address))
    }

    /// IPv6 first. These are the summaries that the node announces.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + use<> {
        let v6 = self.ipv6.map(IpNet::V6);
        let v4 = self.ipv4.map(IpNet::V4);
        v6.into_iter().chain(v4)
    }
}

pub(crate) fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

pub(crate) fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(container: &str, interface: &str) -> AttachmentKey {
        AttachmentKey::new(ContainerId::new(container).unwrap(), InterfaceName::new(interface).unwrap())
    }

    /// The test vectors of the FNV reference (RFC 9923, appendix C).
    #[test]
    fn fnv_1a_matches_its_reference() {
        for (input, h32, h64) in [
            ("", 0x811c_9dc5, 0xcbf2_9ce4_8422_2325),
            ("a", 0xe40c_292c, 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0xbf9c_f968, 0x8594_4171_f739_67e8),
        ] {
            assert_eq!(fnv1a_32(input.as_bytes()), h32, "{input}");
            assert_eq!(fnv1a_64(input.as_bytes()), h64, "{input}");
        }
    }

    #[test]
    fn the_host_interface_is_named_after_the_container() {
        let [first, second] = key("foobar", "eth0").host_interface_candidates();
        assert_eq!(first.as_str(), "flockbf9cf968");
        assert_ne!(first, second);
        assert_eq!(first, key("foobar", "net1").host_interface_candidates()[0]);
        assert_ne!(second, key("foobar", "net1").host_interface_candidates()[1]);
    }

    #[test]
    fn an_alias_is_read_back() {
        let key = key("0123abc", "eth0");
        assert_eq!(AttachmentKey::from_alias(&key.alias()), Some(key));
        for foreign in ["", "flock:", "flock:a", "flock:a/", "other:a/eth0", "flock:../x/eth0"] {
            assert_eq!(AttachmentKey::from_alias(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn link_layer_addresses_are_local_unicast_and_differ() {
        let pair = key("0123abc", "eth0").mac_addresses();
        assert_ne!(pair.host, pair.pod);
        for mac in [pair.host, pair.pod] {
            assert_eq!(mac.0[0] & 0x03, 0x02, "{mac}");
        }
        assert_ne!(pair, key("0123abc", "net1").mac_addresses());
    }

    /// The example of RFC 4291, appendix A, with its universal/local bit inverted.
    #[test]
    fn link_local_addresses_are_modified_eui_64() {
        let mac = MacAddr([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]);
        assert_eq!(mac.link_local().to_string(), "fe80::3656:78ff:fe9a:bcde");
    }
}
