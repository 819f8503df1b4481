//! The model of a node's configuration: [`NodeConfig`], read from a manifest
//! ([`Manifest`]) and valid by construction.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::attachment::NodeCidrs;
use crate::name::NodeName;

/// The API group and version of the manifest.
pub const API_VERSION: &str = "flock.fritzlab.net/v1alpha1";
/// The kind of the manifest.
pub const KIND: &str = "NodeConfig";

/// A NodeConfig as it is written: an object of Kubernetes, before validation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// Only the name is read.
    pub metadata: Metadata,
    /// What it says.
    pub spec: Spec,
}

/// The part of an object's metadata that is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The node's name.
    pub name: String,
}

/// What a manifest says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// The node's IPv6 prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr6: Option<String>,
    /// The node's IPv4 prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr4: Option<String>,
    /// Of the pods' interfaces, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Whom to announce to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<BgpSpec>,
}

/// The BGP part of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpSpec {
    /// The node's autonomous system number.
    pub asn: u32,
    /// The node's BGP identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_id: Option<Ipv4Addr>,
    /// The node's peers.
    #[serde(default)]
    pub peers: Vec<Peer>,
}

/// A BGP peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    /// Unique on the node: a letter, then letters, digits or `-`; at most 32 characters.
    pub name: String,
    /// Where it listens.
    pub address: IpAddr,
    /// Its autonomous system number.
    pub asn: u32,
}

/// A valid configuration of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The node it is for.
    pub name: NodeName,
    /// At least one.
    pub cidrs: NodeCidrs,
    /// Of the pods' interfaces, in bytes, where it is set.
    pub mtu: Option<u32>,
    /// Whom to announce to, where it is set.
    pub bgp: Option<Bgp>,
}

/// The valid BGP part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bgp {
    /// The node's autonomous system number.
    pub asn: u32,
    /// The node's BGP identifier, where it is set.
    pub router_id: Option<Ipv4Addr>,
    /// Peers with distinct names and addresses, ordered by name.
    pub peers: Vec<Peer>,
}

/// Why a configuration can't be used: every reason, not only the first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {}", .problems.join("; "))]
pub struct NodeConfigError {
    /// Which configuration: `NodeConfig host001`, and the file where it came from one.
    pub what: String,
    /// Each with the field, what was found and what is expected.
    pub problems: Vec<String>,
}

/// The smallest MTU that IPv6 runs on (RFC 8200, section 5).
const MIN_MTU_V6: u32 = 1280;
/// The smallest MTU that IPv4 runs on (RFC 791).
const MIN_MTU_V4: u32 = 68;
/// The largest MTU of a veth.
const MAX_MTU: u32 = 65_535;

impl NodeConfig {
    /// Reads a manifest in YAML or JSON, as it would be applied to a cluster.
    /// `origin` (a file name) appears in errors.
    pub fn from_yaml(text: &str, origin: &str) -> Result<Self, NodeConfigError> {
        let manifest: Manifest = serde_saphyr::from_str(text).map_err(|error| NodeConfigError {
            what: origin.to_owned(),
            problems: vec![format!("is not a {KIND} manifest: {error}")],
        })?;
        Self::from_manifest(&manifest)
            .map_err(|error| NodeConfigError { what: format!("{} ({origin})", error.what), ..error })
    }

    /// Validates a manifest.
    pub fn from_manifest(manifest: &Manifest) -> Result<Self, NodeConfigError> {
        let mut problems = Vec::new();
        if manifest.api_version != API_VERSION {
            problems.push(format!("apiVersion is {:?}, expected {API_VERSION:?}", manifest.api_version));
        }
        if manifest.kind != KIND {
            problems.push(format!("kind is {:?}, expected {KIND:?}", manifest.kind));
        }
        let name = NodeName::new(manifest.metadata.name.as_str())
            .map_err(|error| problems.push(format!("metadata.name: {error}")))
            .ok();
        let spec = &manifest.spec;
        let cidrs = NodeCidrs {
            ipv6: cidr6(spec.cidr6.as_deref(), &mut problems),
            ipv4: cidr4(spec.cidr4.as_deref(), &mut problems),
        };
        if spec.cidr6.is_none() && spec.cidr4.is_none() {
            problems.push("spec: sets neither cidr6 nor cidr4, expected at least one".to_owned());
        }
        if let Some(mtu) = spec.mtu {
            let least = if spec.cidr6.is_some() { MIN_MTU_V6 } else { MIN_MTU_V4 };
            if !(least..=MAX_MTU).contains(&mtu) {
                problems.push(format!("spec.mtu is {mtu}, expected {least} to {MAX_MTU}"));
            }
        }
        let bgp = spec.bgp.as_ref().map(|bgp| bgp_part(bgp, cidrs, &mut problems));
        match name {
            Some(name) if problems.is_empty() => Ok(Self { name, cidrs, mtu: spec.mtu, bgp }),
            _ => Err(NodeConfigError { what: format!("{KIND} {}", manifest.metadata.name), problems }),
        }
    }
}

/// What would be read as this configuration.
impl From<&NodeConfig> for Manifest {
    fn from(config: &NodeConfig) -> Self {
        let NodeConfig { name, cidrs, mtu, bgp } = config;
        let bgp = bgp.clone().map(|Bgp { asn, router_id, peers }| BgpSpec { asn, router_id, peers });
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            metadata: Metadata { name: name.to_string() },
            spec: Spec {
                cidr6: cidrs.ipv6.map(|cidr| cidr.to_string()),
                cidr4: cidrs.ipv4.map(|cidr| cidr.to_string()),
                mtu: *mtu,
                bgp,
            },
        }
    }
}

fn cidr6(text: Option<&str>, problems: &mut Vec<String>) -> Option<Ipv6Net> {
    let text = text?;
    let Ok(net) = text.parse::<Ipv6Net>() else {
        problems.push(format!("spec.cidr6 is {text:?}, expected an IPv6 prefix like 2001:db8:1::/64"));
        return None;
    };
    let address = net.network();
    // Embedded IPv4 addresses (RFC 4291, section 2.5.5), loopback among them.
    let reserved = address.to_ipv4().is_some();
    let unusable = address.is_multicast() || address.is_unicast_link_local() || reserved;
    usable_prefix("spec.cidr6", IpNet::V6(net), unusable, problems).then_some(net)
}

fn cidr4(text: Option<&str>, problems: &mut Vec<String>) -> Option<Ipv4Net> {
    let text = text?;
    let Ok(net) = text.parse::<Ipv4Net>() else {
        problems.push(format!("spec.cidr4 is {text:?}, expected an IPv4 prefix like 10.0.1.0/24"));
        return None;
    };
    let address = net.network();
    // "This network" and what is reserved (RFC 6890).
    let reserved = matches!(address.octets()[0], 0 | 240..);
    let unusable = address.is_multicast() || address.is_link_local() || address.is_loopback() || reserved;
    usable_prefix("spec.cidr4", IpNet::V4(net), unusable, problems).then_some(net)
}

fn usable_prefix(field: &str, net: IpNet, unusable: bool, problems: &mut Vec<String>) -> bool {
    let before = problems.len();
    if net.addr() != net.network() {
        problems.push(format!(
            "{field} is {net}, which has bits set beyond its length; expected {}",
            net.trunc()
        ));
    }
    if net.prefix_len() == 0 {
        problems
            .push(format!("{field} is {net}, which is the default route; expected this node's own prefix"));
    }
    if unusable {
        problems.push(format!(
            "{field} is {net}, expected a unicast prefix that is not link-local, loopback or reserved"
        ));
    }
    problems.len() == before
}

fn bgp_part(bgp: &BgpSpec, cidrs: NodeCidrs, problems: &mut Vec<String>) -> Bgp {
    asn("spec.bgp.asn", bgp.asn, problems);
    if let Some(id) = bgp.router_id
        && id.is_unspecified()
    {
        problems.push("spec.bgp.routerId is 0.0.0.0, expected any other value (RFC 6286)".to_owned());
    }
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for (index, peer) in bgp.peers.iter().enumerate() {
        let field = format!("spec.bgp.peers[{index}]");
        if !is_peer_name(&peer.name) {
            problems.push(format!(
                "{field}.name is {:?}, expected a letter, then letters, digits or '-', at most 32 characters",
                peer.name
            ));
        }
        if !names.insert(peer.name.as_str()) {
            problems.push(format!("{field}.name is {:?}, which another peer has too", peer.name));
        }
        if !addresses.insert(peer.address) {
            problems.push(format!("{field}.address is {}, which another peer has too", peer.address));
        }
        if peer.address.is_unspecified() || peer.address.is_multicast() || peer.address.is_loopback() {
            problems.push(format!("{field}.address is {}, expected the address of a router", peer.address));
        }
        if is_link_local(peer.address) {
            problems.push(format!(
                "{field}.address is {}, which is link-local and means nothing without an interface; \
                 expected a global or unique local address of the router",
                peer.address
            ));
        }
        if let Some(own) = cidrs.iter().find(|cidr| cidr.contains(&peer.address)) {
            problems
                .push(format!("{field}.address is {}, which is in this node's prefix {own}", peer.address));
        }
        asn(&format!("{field}.asn"), peer.asn, problems);
    }
    let mut peers = bgp.peers.clone();
    peers.sort();
    Bgp { asn: bgp.asn, router_id: bgp.router_id, peers }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V6(address) => address.is_unicast_link_local(),
        IpAddr::V4(address) => address.is_link_local(),
    }
}

/// RFC 7607 (0), RFC 6793 (`AS_TRANS`), RFC 7300 (the last ones).
fn asn(field: &str, asn: u32, problems: &mut Vec<String>) {
    if matches!(asn, 0 | 23_456 | 65_535 | u32::MAX) {
        problems.push(format!("{field} is {asn}, which is reserved; expected 1 to 4294967294"));
    }
}

fn is_peer_name(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: {name: host001}
spec:
  cidr6: 2001:db8:1::/64
  cidr4: 10.0.1.0/24
  mtu: 1500
  bgp:
    asn: 64512
    routerId: 192.0.2.1
    peers:
    - {name: tor2, address: 192.0.2.254, asn: 64500}
    - {name: tor1, address: 2001:db8:ffff::1, asn: 64500}
";

    #[test]
    fn a_full_manifest_is_read() {
        let config = NodeConfig::from_yaml(FULL, "host001.yaml").unwrap();
        assert_eq!(config.name.as_str(), "host001");
        assert_eq!(config.cidrs.ipv6.unwrap().to_string(), "2001:db8:1::/64");
        assert_eq!(config.cidrs.ipv4.unwrap().to_string(), "10.0.1.0/24");
        assert_eq!(config.mtu, Some(1500));
        let bgp = config.bgp.unwrap();
        assert_eq!((bgp.asn, bgp.router_id), (64512, Some(Ipv4Addr::new(192, 0, 2, 1))));
        assert_eq!(bgp.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["tor1", "tor2"]);
    }

    #[test]
    fn a_manifest_made_of_it_is_read_back() {
        let without_bgp = FULL.split("  mtu").next().unwrap_or_default();
        for text in [FULL, without_bgp] {
            let config = NodeConfig::from_yaml(text, "host001.yaml").unwrap();
            let manifest = Manifest::from(&config);
            assert_eq!(NodeConfig::from_manifest(&manifest).unwrap(), config);
            let json = serde_json::to_string(&manifest).unwrap();
            assert_eq!(NodeConfig::from_yaml(&json, "x").unwrap(), config);
        }
    }

    #[test]
    fn what_the_api_server_adds_to_metadata_is_ignored() {
        let text = FULL.replace("{name: host001}", "{name: host001, uid: abc, labels: {a: b}}");
        assert!(NodeConfig::from_yaml(&text, "x").is_ok());
    }

    #[test]
    fn contradictions_are_refused_with_the_field_and_what_is_expected() {
        for (from, to, expected) in [
            (
                "flock.fritzlab.net/v1alpha1",
                "v1",
                "apiVersion is \"v1\", expected \"flock.fritzlab.net/v1alpha1\"",
            ),
            ("kind: NodeConfig", "kind: Node", "kind is \"Node\", expected \"NodeConfig\""),
            ("name: host001", "name: Host_1", "metadata.name: \"Host_1\" is not a valid node name"),
            ("2001:db8:1::/64", "10.0.0.0/8", "spec.cidr6 is \"10.0.0.0/8\", expected an IPv6 prefix"),
            ("2001:db8:1::/64", "2001:db8:1::1/64", "expected 2001:db8:1::/64"),
            ("2001:db8:1::/64", "fe80::/64", "expected a unicast prefix"),
            ("10.0.1.0/24", "10.0.1.0/33", "spec.cidr4 is \"10.0.1.0/33\", expected an IPv4 prefix"),
            ("10.0.1.0/24", "0.0.0.0/0", "which is the default route"),
            ("10.0.1.0/24", "224.0.0.0/8", "expected a unicast prefix"),
            ("10.0.1.0/24", "240.0.0.0/8", "expected a unicast prefix"),
            ("10.0.1.0/24", "0.0.0.0/8", "expected a unicast prefix"),
            ("2001:db8:1::/64", "::ffff:10.0.0.0/104", "expected a unicast prefix"),
            ("mtu: 1500", "mtu: 1000", "spec.mtu is 1000, expected 1280 to 65535"),
            ("asn: 64512", "asn: 0", "spec.bgp.asn is 0, which is reserved"),
            ("routerId: 192.0.2.1", "routerId: 0.0.0.0", "spec.bgp.routerId is 0.0.0.0"),
            ("name: tor2", "name: tor1", "spec.bgp.peers[1].name is \"tor1\", which another peer has too"),
            ("name: tor2", "name: 'a;b'", "spec.bgp.peers[0].name is \"a;b\", expected a letter"),
            ("192.0.2.254", "2001:db8:ffff::1", "which another peer has too"),
            ("192.0.2.254", "10.0.1.7", "which is in this node's prefix 10.0.1.0/24"),
            ("192.0.2.254", "224.0.0.1", "expected the address of a router"),
        ] {
            let text = FULL.replace(from, to);
            assert_ne!(text, FULL, "{from}");
            let error = NodeConfig::from_yaml(&text, "host001.yaml").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\nexpected: {expected}");
            assert!(error.contains("host001.yaml"), "{error}");
        }
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let text = FULL.replace("mtu: 1500", "mtu: 1").replace("asn: 64512", "asn: 0");
        assert_eq!(NodeConfig::from_yaml(&text, "x").unwrap_err().problems.len(), 2);
    }

    #[test]
    fn a_node_without_any_prefix_is_refused() {
        let text = FULL.replace("  cidr6: 2001:db8:1::/64\n", "").replace("  cidr4: 10.0.1.0/24\n", "");
        let error = NodeConfig::from_yaml(&text, "x").unwrap_err().to_string();
        assert!(error.contains("sets neither cidr6 nor cidr4"), "{error}");
    }

    #[test]
    fn a_misspelt_key_is_not_ignored() {
        let error = NodeConfig::from_yaml(&FULL.replace("mtu:", "mttu:"), "x").unwrap_err().to_string();
        assert!(error.contains("mttu"), "{error}");
    }
}
