//! The BGP part of a node's configuration: [`BgpSpec`] as it is written, [`Bgp`] as it is valid.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::attributes;
use super::export::Export;
use super::fields::Fields;
use super::password::{Password, PasswordReference};
use super::peer::{Peer, entry, reserved_asn};
use crate::attachment::NodeCidrs;
use crate::excerpt;

/// The BGP part of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpSpec {
    /// The node's autonomous system number.
    pub asn: u32,
    /// The node's BGP identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_id: Option<Ipv4Addr>,
    /// Over how many paths the kernel shares traffic to what peers announce alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_paths: Option<u32>,
    /// Whether the node is drained.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
    /// After how many seconds of a drain announcements are withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_time: Option<u32>,
    /// What announcements carry. Unread, so that a problem in it is told with its field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<Value>,
    /// The node's peers. Unread, so that what is wrong with one of them is this one's affair.
    #[serde(default)]
    pub peers: Vec<Value>,
}

/// The valid BGP part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bgp {
    /// The node's autonomous system number.
    pub asn: u32,
    /// The node's BGP identifier, where it is set.
    pub router_id: Option<Ipv4Addr>,
    /// Over how many paths the kernel shares traffic to what peers announce alike; at least 1.
    pub maximum_paths: u8,
    /// Whether the node is drained.
    pub drain: bool,
    /// How long announcements of a node that is drained carry GRACEFUL_SHUTDOWN (RFC 8326) before
    /// they are withdrawn; whole seconds, at most a day.
    pub drain_time: Duration,
    /// What announcements to all peers carry.
    pub export: Export,
    /// Peers with distinct names and neighbors, ordered by name.
    pub peers: Vec<Peer>,
    /// Entries that can't be used, in the order of the manifest. Nobody has a session with them.
    pub refused: Vec<RefusedPeer>,
}

/// An entry of the peers that can't be used.
#[derive(Clone, PartialEq, Eq)]
pub struct RefusedPeer {
    /// Its name; `unnamed` where it has none that a peer can have.
    pub name: String,
    /// Every reason: the field, what was found and what is expected.
    pub problems: Vec<String>,
    /// As it was written.
    entry: Value,
}

impl Bgp {
    /// What the kernel is given at most for one prefix where nothing else is said.
    pub const DEFAULT_MAXIMUM_PATHS: u8 = 16;

    /// Routers choose other ways within seconds, and a node that shuts down has half a minute.
    pub const DEFAULT_DRAIN_TIME: Duration = Duration::from_secs(15);
    const MAX_DRAIN_TIME: u32 = 86_400;

    /// Without peers, and with the defaults of everything else.
    pub fn new(asn: u32) -> Self {
        Self {
            asn,
            router_id: None,
            maximum_paths: Self::DEFAULT_MAXIMUM_PATHS,
            drain: false,
            drain_time: Self::DEFAULT_DRAIN_TIME,
            export: Export::default(),
            peers: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Reads `spec` of a node with `cidrs`. What is wrong outside of the peers goes to `problems`.
    pub(super) fn read(spec: &BgpSpec, cidrs: NodeCidrs, problems: &mut Vec<String>) -> Self {
        problems.extend(reserved_asn("spec.bgp.asn", spec.asn));
        if let Some(id) = spec.router_id
            && id.is_unspecified()
        {
            problems.push("spec.bgp.routerId is 0.0.0.0, expected any other value (RFC 6286)".to_owned());
        }
        let maximum_paths = spec.maximum_paths.unwrap_or(Self::DEFAULT_MAXIMUM_PATHS.into());
        let maximum_paths =
            u8::try_from(maximum_paths).ok().filter(|paths| *paths > 0).unwrap_or_else(|| {
                problems.push(format!("spec.bgp.maximumPaths is {maximum_paths}, expected 1 to 255"));
                Self::DEFAULT_MAXIMUM_PATHS
            });
        let export = spec.export.as_ref().map_or_else(Export::default, |export| {
            let mut fields = Fields::new("spec.bgp.export", export, problems);
            let export = attributes::read(&mut fields);
            fields.end();
            export
        });
        let drain_time = spec.drain_time.map_or(Self::DEFAULT_DRAIN_TIME, |seconds| {
            if seconds > Self::MAX_DRAIN_TIME {
                let longest = Self::MAX_DRAIN_TIME;
                problems.push(format!("spec.bgp.drainTime is {seconds}, expected 0 to {longest} s"));
            }
            Duration::from_secs(seconds.into())
        });
        let mut bgp = Self {
            router_id: spec.router_id,
            maximum_paths,
            drain: spec.drain,
            drain_time,
            export,
            ..Self::new(spec.asn)
        };
        let read = spec.peers.iter().map(|entry| {
            let peer = entry::read(entry, spec.asn).and_then(|peer| outside(peer, cidrs));
            (entry, peer)
        });
        let read: Vec<_> = read.collect();
        // Of those that can't be beside each other the first stays; why the others don't is said of
        // all that stay, so that the order of the manifest does not matter for it.
        let mut stays = Vec::new();
        for (_, peer) in &read {
            let peer = peer.as_ref().ok().filter(|peer| bgp.conflicts(peer).is_empty());
            stays.push(peer.is_some());
            bgp.peers.extend(peer.cloned());
        }
        for ((entry, peer), _) in read.into_iter().zip(stays).filter(|(_, stays)| !stays) {
            let problems = peer.map_or_else(|problems| problems, |peer| bgp.conflicts(&peer));
            bgp.refused.push(RefusedPeer::new(entry.clone(), problems));
        }
        bgp.peers.sort_by(|one, other| one.name.cmp(&other.name));
        bgp
    }

    /// Why a valid peer can't be one beside those that are there; nothing if it can.
    fn conflicts(&self, peer: &Peer) -> Vec<String> {
        let mut problems = Vec::new();
        if self.peers.iter().any(|other| other.name == peer.name) {
            problems.push(format!("name is {}, which another peer has", excerpt::quoted(&peer.name)));
        }
        if let Some(other) = self.peers.iter().find(|other| other.neighbor == peer.neighbor) {
            let field = if peer.neighbor.address().is_some() { "address" } else { "interface" };
            problems.push(format!("{field} is {}, which the peer {} has", peer.neighbor, other.name));
        }
        problems
    }

    /// The peers that sessions can be tried with.
    pub fn resolved_peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.is_resolved())
    }

    /// Where passwords are kept that some peer waits for.
    pub fn password_references(&self) -> BTreeSet<&PasswordReference> {
        self.peers
            .iter()
            .filter(|peer| !peer.is_resolved())
            .filter_map(|peer| peer.password_reference.as_ref())
            .collect()
    }

    /// Gives each peer that waits for its password what `lookup` finds. Where that is an error in
    /// words, the peer is refused for it: without its password a session is never tried.
    #[must_use]
    pub fn with_passwords(
        mut self,
        mut lookup: impl FnMut(&PasswordReference) -> Result<Password, String>,
    ) -> Self {
        for mut peer in std::mem::take(&mut self.peers) {
            if let (Some(reference), None) = (&peer.password_reference, &peer.password) {
                match lookup(reference) {
                    Ok(password) => peer.password = Some(password),
                    Err(reason) => {
                        let problem = format!("the password can't be had from {reference}: {reason}");
                        self.refused.push(RefusedPeer::new(entry::write(&peer), vec![problem]));
                        continue;
                    }
                }
            }
            self.peers.push(peer);
        }
        self
    }
}

/// A peer that is none of the node's own pods.
fn outside(peer: Peer, cidrs: NodeCidrs) -> Result<Peer, Vec<String>> {
    let of_the_node = |address| cidrs.iter().find(|cidr| cidr.contains(&address)).map(|own| (address, own));
    match peer.neighbor.address().and_then(of_the_node) {
        Some((address, own)) => {
            Err(vec![format!("address is {address}, which is in this node's prefix {own}")])
        }
        None => Ok(peer),
    }
}

/// What would be read as this, with the refused entries behind the valid ones.
impl From<&Bgp> for BgpSpec {
    fn from(bgp: &Bgp) -> Self {
        let Bgp { asn, router_id, maximum_paths, drain, drain_time, export, peers, refused } = bgp;
        let peers = peers.iter().map(entry::write);
        Self {
            asn: *asn,
            router_id: *router_id,
            maximum_paths: (*maximum_paths != Bgp::DEFAULT_MAXIMUM_PATHS).then(|| (*maximum_paths).into()),
            drain: *drain,
            drain_time: u32::try_from(drain_time.as_secs())
                .ok()
                .filter(|_| *drain_time != Bgp::DEFAULT_DRAIN_TIME),
            export: (!export.is_empty()).then(|| attributes::write(export)),
            peers: peers.chain(refused.iter().map(|refused| refused.entry.clone())).collect(),
        }
    }
}

impl RefusedPeer {
    fn new(entry: Value, problems: Vec<String>) -> Self {
        Self { name: entry::name_of(&entry).unwrap_or("unnamed").to_owned(), problems, entry }
    }
}

/// The reasons in one line.
impl fmt::Display for RefusedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}: {}", self.name, self.problems.join("; "))
    }
}

/// Without what was written, in which somebody may have put a password in the wrong place.
impl fmt::Debug for RefusedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, problems, entry: _ } = self;
        f.debug_struct("RefusedPeer").field("name", name).field("problems", problems).finish_non_exhaustive()
    }
}
