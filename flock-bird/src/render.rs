//! From [`Announcements`] to the text of `bird.conf`.
//!
//! The text depends on the wanted state alone, byte for byte: neither the order of
//! the peers nor the history of the node shows in it, so that comparing two texts
//! is comparing two states.
//!
//! # What the configuration does
//!
//! - **Out of the kernel** come Flock's own routes only: those with Flock's route
//!   protocol number and a prefix of an explicit list. The same list stands before
//!   every peer once more, together with the demand that the route came from the
//!   kernel. A connected route, a pod's host route or a route of another program
//!   passes neither, and no route to an anycast address that no ready pod serves. So readiness of pods
//!   is a change of the kernel's routes, which BIRD hears of at once, and none of the
//!   configuration.
//! - **Into the kernel** goes what the peers sent, except the node's summaries and
//!   whatever is more specific than they are.
//! - **Anycast addresses of this node** may well be received from a peer, since
//!   another node serves them too. The route of this node wins by its preference, and
//!   when it goes away the other one is there already. This also keeps the import
//!   filter free of anything that changes with pods: a changed import filter asks the
//!   peer to send all again (RFC 2918), and resets the session with a peer that can't.
//!   The same goes for pods' addresses outside the summaries.
//! - **Sessions** are as the peer says. An external peer is on a link of the node, an internal one
//!   may be several hops away, as BIRD has it by default.
//! - **What announcements carry** is set in an export filter of the peer's own, by the list that a
//!   prefix is of where that makes a difference; peers with nothing to set share one filter.
//! - **A node that is drained** marks what it announces (RFC 8326), then announces nothing: both by
//!   the export filters, which BIRD changes without touching a session.
//! - **An unnumbered peer** is a range of link-local addresses, from which BIRD makes a session when
//!   one of them connects. Router advertisements let it find the node.
//! - **Graceful restart** (RFC 4724): peers keep the node's routes while BIRD is replaced, and the
//!   kernel keeps theirs. BIRD must then end without a word (`birdc graceful restart`) and be started
//!   with `-R`.
//! - **Timers** are chosen for a node that starts: a first attempt after 1 s and further
//!   ones each 5 s (BIRD: 5 s and 120 s), an error pauses the session for 1 s, doubling up
//!   to 30 s (BIRD: 60 s to 300 s).

use std::collections::BTreeSet;
use std::net::IpAddr;

use flock_core::announcer::{AnnounceError, Announcements};
use flock_core::node_config::{Family, Import, Kind, Neighbor, Peer, is_peer_name};
use handlebars::Handlebars;
use ipnet::IpNet;
use serde::Serialize;

mod session;
mod validity;

use session::Session;

/// The name of the template that the others are parts of.
const MAIN: &str = "bird.conf";
/// The template set.
const TEMPLATES: [(&str, &str); 4] = [
    (MAIN, include_str!("../templates/bird.conf.hbs")),
    ("family", include_str!("../templates/family.hbs")),
    ("peer", include_str!("../templates/peer.hbs")),
    ("carried", include_str!("../templates/carried.hbs")),
];

/// Turns wanted states into configurations.
#[derive(Debug)]
pub struct Renderer {
    templates: Handlebars<'static>,
    kernel: KernelRoutes,
}

/// How the node's own routes are told from others in the kernel.
#[derive(Debug, Clone, Serialize)]
struct KernelRoutes {
    protocol: u8,
    unannounced_metrics: Vec<u32>,
}

impl Renderer {
    /// Makes a renderer for a node on which Flock's routes carry `route_protocol` (`rtm_protocol`
    /// of rtnetlink, `krt_source` of BIRD).
    ///
    /// Numbers that the kernel uses itself (0 to 4) and BIRD's own (12) are refused: with
    /// them, routes that others made would pass for Flock's.
    pub fn new(route_protocol: u8) -> Result<Self, AnnounceError> {
        if matches!(route_protocol, 0..=4 | 12) {
            return Err(AnnounceError::Invalid(format!(
                "the route protocol is {route_protocol}, which the kernel or BIRD uses itself; expected 5 to 255 without 12"
            )));
        }
        let mut templates = Handlebars::new();
        templates.set_strict_mode(true);
        templates.register_escape_fn(handlebars::no_escape);
        for (name, text) in TEMPLATES {
            templates
                .register_template_string(name, text)
                .map_err(|error| AnnounceError::Invalid(format!("template {name}: {error}")))?;
        }
        Ok(Self {
            templates,
            kernel: KernelRoutes { protocol: route_protocol, unannounced_metrics: Vec::new() },
        })
    }

    /// Has routes of the node's own that have one of these metrics passed over: those to anycast
    /// addresses that no ready pod serves.
    #[must_use]
    pub fn with_unannounced_metrics(self, metrics: Vec<u32>) -> Self {
        Self { kernel: KernelRoutes { unannounced_metrics: metrics, ..self.kernel }, ..self }
    }

    /// Renders `wanted`, or says everything that is wrong with it.
    pub fn render(&self, wanted: &Announcements) -> Result<String, AnnounceError> {
        validity::check(wanted)?;
        let mut peers: Vec<&Peer> = wanted.peers.iter().collect();
        peers.sort_by_key(|peer| &peer.name);
        let interface = |peer: &&Peer| match &peer.neighbor {
            Neighbor::Unnumbered { interface } => Some(interface.to_string()),
            _ => None,
        };
        let sessions: Vec<Session> = peers.iter().map(|peer| Session::of(peer, wanted)).collect();
        let model = Model {
            router_id: wanted.router_id.to_string(),
            direct: !peers.iter().all(|peer| peer.is_on_link(wanted.asn)),
            bfd: peers.iter().any(|peer| peer.bfd.is_some()),
            unnumbered: peers.iter().filter_map(interface).collect(),
            families: [
                FamilyPart::of(wanted, &sessions, Family::Ipv4, self.kernel.clone()),
                FamilyPart::of(wanted, &sessions, Family::Ipv6, self.kernel.clone()),
            ],
            peers: sessions,
        };
        self.templates.render(MAIN, &model).map_err(|error| AnnounceError::Invalid(error.to_string()))
    }
}

/// The name of a peer's protocol in BIRD.
///
/// The prefix keeps peers apart from BIRD's keywords (a peer may be called `ipv4`),
/// its tables (`master4`) and the names that the configuration itself defines.
pub fn protocol_name(peer: &str) -> String {
    format!("{PEER_PREFIX}{peer}")
}

/// The passwords that stand in a rendered configuration.
pub(crate) fn passwords(configuration: &str) -> impl Iterator<Item = &str> {
    configuration.lines().filter_map(|line| line.strip_prefix("  password \"")?.strip_suffix("\";"))
}

const PEER_PREFIX: &str = "peer_";
const DYNAMIC_PREFIX: &str = "session_";

/// The peer whose protocol has this name; `None` for other protocols, and for the sessions that
/// arise from that of an unnumbered peer.
pub fn peer_of(protocol: &str) -> Option<&str> {
    protocol.strip_prefix(PEER_PREFIX).filter(|name| is_peer_name(name))
}

/// What the names of the protocols begin with that BIRD makes for the sessions with an unnumbered
/// peer; a number follows.
pub fn dynamic_prefix(peer: &str) -> String {
    format!("{DYNAMIC_PREFIX}{peer}_")
}

/// The unnumbered peer from whose protocol one with this name arose.
pub(crate) fn dynamic_peer_of(protocol: &str) -> Option<&str> {
    let (name, number) = protocol.strip_prefix(DYNAMIC_PREFIX)?.rsplit_once('_')?;
    (is_peer_name(name) && number.bytes().all(|b| b.is_ascii_digit())).then_some(name)
}

/// The name of the protocol that takes routes of IPv4 (`version` 4) or IPv6 (6) from the kernel.
pub fn kernel_protocol(version: u8) -> String {
    format!("flock_kernel{version}")
}

#[derive(Serialize)]
struct Model {
    router_id: String,
    direct: bool,
    bfd: bool,
    unnumbered: Vec<String>,
    families: [FamilyPart; 2],
    peers: Vec<Session>,
}

#[derive(Debug, Serialize)]
struct FamilyPart {
    version: u8,
    kernel: KernelRoutes,
    own: Vec<Entry>,
    announced: Vec<Entry>,
    /// The announced ones by kind, where some peer's export asks for it.
    kinds: Vec<List>,
    /// Whether some peer's import asks for the filter.
    default_only: bool,
    default_route: &'static str,
    merge: bool,
    maximum_paths: u8,
}

#[derive(Debug, Serialize)]
struct List {
    name: &'static str,
    prefixes: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    prefix: String,
}

impl FamilyPart {
    fn of(wanted: &Announcements, sessions: &[Session], family: Family, kernel: KernelRoutes) -> Self {
        let of_kind = |kind| prefixes(wanted, kind, family);
        let mut announced: Vec<IpNet> = Kind::ALL.into_iter().flat_map(of_kind).collect();
        announced.sort();
        announced.dedup();
        let by_kind = sessions.iter().any(|session| session.looks_at_kinds(family));
        let kinds = Kind::ALL.into_iter().filter(|_| by_kind).map(|kind| (kind, of_kind(kind)));
        let kinds = kinds.filter(|(_, prefixes)| !prefixes.is_empty());
        let takes_default = |peer: &Peer| peer.import == Import::Default && peer.families.contains(&family);
        Self {
            version: family.version(),
            kernel,
            own: entries(&of_kind(Kind::Summary)),
            announced: entries(&announced),
            kinds: kinds
                .map(|(kind, prefixes)| List { name: session::list_name(kind), prefixes: entries(&prefixes) })
                .collect(),
            default_only: wanted.peers.iter().any(takes_default),
            default_route: match family {
                Family::Ipv4 => "0.0.0.0/0",
                Family::Ipv6 => "::/0",
            },
            merge: wanted.maximum_paths > 1,
            maximum_paths: wanted.maximum_paths,
        }
    }
}

/// The announcements of one kind and family, in order.
fn prefixes(wanted: &Announcements, kind: Kind, family: Family) -> Vec<IpNet> {
    let hosts = |addresses: &BTreeSet<IpAddr>| addresses.iter().copied().map(IpNet::from).collect();
    let all: Vec<IpNet> = match kind {
        Kind::Summary => wanted.summaries.iter().copied().collect(),
        // Those that no ready pod serves are in the list, and not in the kernel so that they pass.
        Kind::Anycast => hosts(&wanted.anycast.union(&wanted.standby).copied().collect()),
        Kind::Exception => hosts(&wanted.exceptions),
    };
    all.into_iter().filter(|prefix| Family::of(prefix.addr()) == family).collect()
}

fn entries(prefixes: &[IpNet]) -> Vec<Entry> {
    prefixes.iter().map(|prefix| Entry { prefix: prefix.to_string() }).collect()
}
