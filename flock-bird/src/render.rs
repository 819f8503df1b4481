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
//!   passes neither, and no route to an anycast address that stands by. So readiness of pods
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
//! - **Sessions** carry the address family of the peer's address. An external peer is
//!   on a link of the node, an internal one may be several hops away, as BIRD has it by
//!   default.
//! - **Graceful restart** (RFC 4724): peers keep the node's routes while BIRD is replaced, and the
//!   kernel keeps theirs. BIRD must then end without a word (`birdc graceful restart`) and be started
//!   with `-R`.
//! - **Timers** are chosen for a node that starts: a first attempt after 1 s and further
//!   ones each 5 s (BIRD: 5 s and 120 s), an error pauses the session for 1 s, doubling up
//!   to 30 s (BIRD: 60 s to 300 s); hold and keepalive time are the 90 s and 30 s that RFC
//!   4271, section 10, suggests.

use std::net::IpAddr;

use flock_core::announcer::{AnnounceError, Announcements};
use flock_core::node_config::Peer;
use handlebars::Handlebars;
use ipnet::IpNet;
use serde::Serialize;

mod validity;

/// The name of the template that the others are parts of.
const MAIN: &str = "bird.conf";
/// The template set.
const TEMPLATES: [(&str, &str); 3] = [
    (MAIN, include_str!("../templates/bird.conf.hbs")),
    ("family", include_str!("../templates/family.hbs")),
    ("peer", include_str!("../templates/peer.hbs")),
];

/// Turns wanted states into configurations.
#[derive(Debug)]
pub struct Renderer {
    templates: Handlebars<'static>,
    kernel: KernelRoutes,
}

/// How the node's own routes are told from others in the kernel.
#[derive(Debug, Clone, Copy, Serialize)]
struct KernelRoutes {
    protocol: u8,
    standby_metric: Option<u32>,
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
        Ok(Self { templates, kernel: KernelRoutes { protocol: route_protocol, standby_metric: None } })
    }

    /// Has routes of the node's own that have this metric passed over: they stand by, and are
    /// not announced.
    #[must_use]
    pub fn with_standby_metric(self, metric: Option<u32>) -> Self {
        Self { kernel: KernelRoutes { standby_metric: metric, ..self.kernel }, ..self }
    }

    /// Renders `wanted`, or says everything that is wrong with it.
    pub fn render(&self, wanted: &Announcements) -> Result<String, AnnounceError> {
        validity::check(wanted)?;
        let mut peers: Vec<&Peer> = wanted.peers.iter().collect();
        peers.sort();
        let model = Model {
            router_id: wanted.router_id.to_string(),
            direct: peers.iter().any(|peer| peer.asn == wanted.asn),
            families: [Family::of(wanted, 4, self.kernel), Family::of(wanted, 6, self.kernel)],
            peers: peers.iter().map(|peer| Session::of(peer, wanted.asn)).collect(),
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

const PEER_PREFIX: &str = "peer_";

/// The peer whose protocol has this name; `None` for other protocols.
pub fn peer_of(protocol: &str) -> Option<&str> {
    protocol.strip_prefix(PEER_PREFIX).filter(|name| validity::is_peer_name(name))
}

/// The name of the protocol that takes routes of IPv4 (`version` 4) or IPv6 (6) from the kernel.
pub fn kernel_protocol(version: u8) -> String {
    format!("flock_kernel{version}")
}

#[derive(Debug, Serialize)]
struct Model {
    router_id: String,
    direct: bool,
    families: [Family; 2],
    peers: Vec<Session>,
}

#[derive(Debug, Serialize)]
struct Family {
    version: u8,
    kernel: KernelRoutes,
    own: Vec<Entry>,
    announced: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    prefix: String,
}

#[derive(Debug, Serialize)]
struct Session {
    protocol: String,
    local_asn: u32,
    address: String,
    asn: u32,
    version: u8,
}

impl Family {
    fn of(wanted: &Announcements, version: u8, kernel: KernelRoutes) -> Self {
        let of_family = |prefix: &IpNet| version_of(prefix.addr()) == version;
        let own: Vec<IpNet> = wanted.summaries.iter().copied().filter(of_family).collect();
        // Those that stand by are in the list and not in the kernel, at least not so that they pass.
        let hosts = wanted.anycast.iter().chain(&wanted.standby).chain(&wanted.exceptions);
        let hosts = hosts.map(|address| IpNet::from(*address)).filter(of_family);
        let mut announced: Vec<IpNet> = own.iter().copied().chain(hosts).collect();
        announced.sort();
        announced.dedup();
        Self { version, kernel, own: entries(&own), announced: entries(&announced) }
    }
}

impl Session {
    fn of(peer: &Peer, local_asn: u32) -> Self {
        Self {
            protocol: protocol_name(&peer.name),
            local_asn,
            address: peer.address.to_string(),
            asn: peer.asn,
            version: version_of(peer.address),
        }
    }
}

fn entries(prefixes: &[IpNet]) -> Vec<Entry> {
    prefixes.iter().map(|prefix| Entry { prefix: prefix.to_string() }).collect()
}

fn version_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}
