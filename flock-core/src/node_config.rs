//! The model of a node's configuration: [`NodeConfig`], read from a manifest
//! ([`Manifest`]) and valid by construction.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::attachment::NodeCidrs;
use crate::excerpt::{self, quoted};
use crate::name::NodeName;

mod allowed;
mod attributes;
mod bgp;
mod community;
mod export;
mod fields;
mod password;
mod peer;

pub use allowed::AllowedPrefixes;
pub use bgp::{Bgp, BgpSpec, RefusedPeer};
pub use community::{Community, CommunityError, LargeCommunity};
pub use export::{Attributes, Export, Kind};
pub use password::{Password, PasswordError, PasswordReference};
pub use peer::{
    Bfd, Family, GracefulRestart, Import, LimitAction, MaxPrefixes, Neighbor, Peer, is_peer_name,
};

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
    /// The prefixes of the addresses that pods may serve as anycast addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anycast_prefixes: Vec<String>,
    /// The prefixes of the addresses that pods may ask to be given exactly, beside the node's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub static_prefixes: Vec<String>,
    /// Whom to announce to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<BgpSpec>,
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
    /// Which addresses pods may have beside those of `cidrs`.
    pub allowed: AllowedPrefixes,
    /// Whom to announce to, where it is set.
    pub bgp: Option<Bgp>,
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
    /// Where passwords are kept that some peer waits for.
    pub fn password_references(&self) -> BTreeSet<&PasswordReference> {
        self.bgp.iter().flat_map(Bgp::password_references).collect()
    }

    /// Gives peers their passwords, or refuses them, as [`Bgp::with_passwords`] does.
    #[must_use]
    pub fn with_passwords(self, lookup: impl FnMut(&PasswordReference) -> Result<Password, String>) -> Self {
        Self { bgp: self.bgp.map(|bgp| bgp.with_passwords(lookup)), ..self }
    }

    /// Reads a manifest in YAML or JSON, as it would be applied to a cluster.
    /// `origin` (a file name) appears in errors.
    pub fn from_yaml(text: &str, origin: &str) -> Result<Self, NodeConfigError> {
        // As JSON first: it may have characters that YAML has no place for.
        let manifest = serde_json::from_str::<Manifest>(text).or_else(|_| serde_saphyr::from_str(text));
        let manifest = manifest.map_err(|error| NodeConfigError {
            what: origin.to_owned(),
            problems: vec![format!("is not a {KIND} manifest: {}", excerpt::line(error.without_snippet()))],
        })?;
        Self::from_manifest(&manifest)
            .map_err(|error| NodeConfigError { what: format!("{} ({origin})", error.what), ..error })
    }

    /// Validates a manifest.
    pub fn from_manifest(manifest: &Manifest) -> Result<Self, NodeConfigError> {
        let mut problems = Vec::new();
        if manifest.api_version != API_VERSION {
            problems
                .push(format!("apiVersion is {}, expected {API_VERSION:?}", quoted(&manifest.api_version)));
        }
        if manifest.kind != KIND {
            problems.push(format!("kind is {}, expected {KIND:?}", quoted(&manifest.kind)));
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
        let allowed =
            AllowedPrefixes::read(&spec.anycast_prefixes, &spec.static_prefixes, cidrs, &mut problems);
        let bgp = spec.bgp.as_ref().map(|bgp| Bgp::read(bgp, cidrs, &mut problems));
        match name {
            Some(name) if problems.is_empty() => Ok(Self { name, cidrs, mtu: spec.mtu, allowed, bgp }),
            _ => Err(NodeConfigError {
                what: format!("{KIND} {}", excerpt::line(&manifest.metadata.name)),
                problems,
            }),
        }
    }
}

/// What would be read as this configuration.
impl From<&NodeConfig> for Manifest {
    fn from(config: &NodeConfig) -> Self {
        let NodeConfig { name, cidrs, mtu, allowed, bgp } = config;
        let texts = |prefixes: &[IpNet]| prefixes.iter().map(ToString::to_string).collect();
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            metadata: Metadata { name: name.to_string() },
            spec: Spec {
                cidr6: cidrs.ipv6.map(|cidr| cidr.to_string()),
                cidr4: cidrs.ipv4.map(|cidr| cidr.to_string()),
                mtu: *mtu,
                anycast_prefixes: texts(&allowed.anycast),
                static_prefixes: texts(&allowed.fixed),
                bgp: bgp.as_ref().map(BgpSpec::from),
            },
        }
    }
}

fn cidr6(text: Option<&str>, problems: &mut Vec<String>) -> Option<Ipv6Net> {
    let text = text?;
    let Ok(net) = text.parse::<Ipv6Net>() else {
        problems
            .push(format!("spec.cidr6 is {}, expected an IPv6 prefix like 2001:db8:1::/64", quoted(text)));
        return None;
    };
    usable_prefix("spec.cidr6", IpNet::V6(net), problems).then_some(net)
}

fn cidr4(text: Option<&str>, problems: &mut Vec<String>) -> Option<Ipv4Net> {
    let text = text?;
    let Ok(net) = text.parse::<Ipv4Net>() else {
        problems.push(format!("spec.cidr4 is {}, expected an IPv4 prefix like 10.0.1.0/24", quoted(text)));
        return None;
    };
    usable_prefix("spec.cidr4", IpNet::V4(net), problems).then_some(net)
}

fn is_unusable(net: IpNet) -> bool {
    let is_other = match net.network() {
        // Embedded IPv4 addresses (RFC 4291, section 2.5.5), loopback among them.
        IpAddr::V6(address) => address.to_ipv4().is_some(),
        // "This network" and what is reserved (RFC 6890).
        IpAddr::V4(address) => address.is_loopback() || matches!(address.octets()[0], 0 | 240..),
    };
    net.network().is_multicast() || peer::is_link_local(net.network()) || is_other
}

fn usable_prefix(field: &str, net: IpNet, problems: &mut Vec<String>) -> bool {
    let before = problems.len();
    if net.addr() != net.network() {
        problems.push(format!(
            "{field} is {net}, which has bits set beyond its length; expected {}",
            net.trunc()
        ));
    }
    if net.prefix_len() == 0 {
        problems.push(format!("{field} is {net}, which is the default route; expected a longer prefix"));
    }
    if is_unusable(net) {
        problems.push(format!(
            "{field} is {net}, expected a unicast prefix that is not link-local, loopback or reserved"
        ));
    }
    problems.len() == before
}

#[cfg(test)]
mod tests;
