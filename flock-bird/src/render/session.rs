//! A peer as the templates see it.

use flock_core::announcer::Announcements;
use flock_core::drain::DrainPhase;
use flock_core::node_config::{
    Attributes, Bfd, Community, Family, GracefulRestart, Import, Kind, LimitAction, Neighbor, Peer,
};
use serde::Serialize;

use super::{dynamic_prefix, prefixes, protocol_name};

/// How often the node's AS number stands in the path beyond what is configured while it is drained.
const PREPENDED_BY_DRAIN: u8 = 3;

/// It holds the password: no `Debug`.
#[derive(Serialize)]
pub(super) struct Session {
    protocol: String,
    local_asn: u32,
    local_address: Option<String>,
    /// An address, or the range that it comes from.
    neighbor: String,
    /// What the names of the sessions begin with that arise from a range.
    dynamic: Option<String>,
    /// `None` for the usual one.
    port: Option<u16>,
    asn: u32,
    interface: Option<String>,
    passive: bool,
    /// On a link of the node, which BIRD does not take for granted of internal peers.
    direct: bool,
    multihop: Option<u8>,
    ttl_security: bool,
    password: Option<String>,
    hold_time: u16,
    keepalive_time: Option<u16>,
    bfd: Option<Timers>,
    graceful_restart: &'static str,
    restart_time: Option<u16>,
    long_lived: bool,
    stale_time: u32,
    channels: Vec<Channel>,
}

#[derive(Debug, Serialize)]
struct Timers {
    min_rx_ms: u32,
    min_tx_ms: u32,
    multiplier: u8,
}

/// One address family of a session.
#[derive(Debug, Serialize)]
struct Channel {
    /// Of the peer.
    name: String,
    version: u8,
    extended_next_hop: bool,
    import: String,
    limit: Option<Limit>,
    export: String,
    /// The name of the filter that sets what routes to this peer carry.
    own_filter: Option<String>,
    /// What routes carry, by the list that they are of; at most one entry without a list.
    carried: Vec<Carried>,
}

#[derive(Debug, Serialize)]
struct Limit {
    count: u32,
    action: &'static str,
}

#[derive(Debug, Serialize)]
struct Carried {
    list: Option<String>,
    communities: Vec<String>,
    large_communities: Vec<String>,
    local_preference: Option<u32>,
    med: Option<u32>,
    /// One entry for each time.
    prepended: Vec<u32>,
}

impl Session {
    pub(super) fn of(peer: &Peer, wanted: &Announcements) -> Self {
        let Peer { neighbor, graceful_restart, .. } = peer;
        let (mode, restart_time, stale_time) = match *graceful_restart {
            GracefulRestart::Restart { restart_time, stale_time } => ("on", restart_time, stale_time),
            GracefulRestart::Helper => ("aware", None, None),
            GracefulRestart::Disabled => ("off", None, None),
        };
        let channels: Vec<Channel> =
            peer.families.iter().map(|family| Channel::of(peer, *family, wanted)).collect();
        let unnumbered = matches!(neighbor, Neighbor::Unnumbered { .. });
        Self {
            protocol: protocol_name(&peer.name),
            local_asn: wanted.asn,
            local_address: peer.local_address.map(|address| address.to_string()),
            neighbor: neighbor.address().map_or("range fe80::/10".to_owned(), |address| address.to_string()),
            dynamic: unnumbered.then(|| dynamic_prefix(&peer.name)),
            port: (peer.port != Peer::DEFAULT_PORT).then_some(peer.port),
            asn: peer.asn,
            interface: neighbor.interface().map(ToString::to_string),
            passive: peer.passive || unnumbered,
            direct: peer.is_on_link(wanted.asn) && (peer.asn == wanted.asn || neighbor.interface().is_some()),
            multihop: peer.multihop,
            ttl_security: peer.ttl_security,
            password: peer.password.as_ref().map(|password| password.reveal().to_owned()),
            hold_time: peer.hold_time,
            keepalive_time: peer.keepalive(),
            bfd: peer.bfd.map(|Bfd { min_rx_ms, min_tx_ms, multiplier }| Timers {
                min_rx_ms,
                min_tx_ms,
                multiplier,
            }),
            graceful_restart: mode,
            restart_time,
            long_lived: stale_time.is_some(),
            stale_time: stale_time.unwrap_or_default(),
            channels,
        }
    }

    /// Whether announcements of a family to it carry something that depends on their kind.
    pub(super) fn looks_at_kinds(&self, family: Family) -> bool {
        let channels = self.channels.iter().filter(|channel| channel.version == family.version());
        channels.flat_map(|channel| &channel.carried).any(|carried| carried.list.is_some())
    }
}

impl Channel {
    fn of(peer: &Peer, family: Family, wanted: &Announcements) -> Self {
        let version = family.version();
        let carried = carried(peer, family, wanted);
        let own_filter = (!carried.is_empty()).then(|| format!("flock_to_{}_v{version}", peer.name));
        Self {
            name: peer.name.clone(),
            version,
            extended_next_hop: family == Family::Ipv4 && peer.neighbor.family() == Family::Ipv6,
            import: match peer.import {
                Import::All => format!("filter flock_from_peers{version}"),
                Import::Default => format!("filter flock_default_from_peers{version}"),
                Import::None => "none".to_owned(),
            },
            limit: peer.max_prefixes.map(|limit| Limit {
                count: limit.count,
                action: match limit.action {
                    LimitAction::Restart => "restart",
                    LimitAction::Disable => "disable",
                    LimitAction::Block => "block",
                    LimitAction::Warn => "warn",
                },
            }),
            export: match (wanted.drain, &own_filter) {
                (Some(DrainPhase::Withdrawn), _) => "none".to_owned(),
                (_, Some(own)) => format!("filter '{own}'"),
                (_, None) => format!("filter flock_to_peers{version}"),
            },
            own_filter,
            carried,
        }
    }
}

/// What announcements of a family to a peer carry: the same for all, or by the lists that there are.
fn carried(peer: &Peer, family: Family, wanted: &Announcements) -> Vec<Carried> {
    if wanted.drain == Some(DrainPhase::Withdrawn) {
        return Vec::new();
    }
    let internal = peer.asn == wanted.asn;
    let of = |kind| {
        let effective = wanted.export.effective(&peer.export, kind);
        // What is said of all peers means those that can have it.
        let configured = Attributes {
            local_preference: effective.local_preference.filter(|_| internal),
            prepend: effective.prepend.filter(|times| !internal && *times > 0),
            ..effective
        };
        if wanted.drain.is_some() { marked(configured, internal) } else { configured }
    };
    let kinds: Vec<(Kind, Attributes)> = Kind::ALL
        .into_iter()
        .filter(|kind| !prefixes(wanted, *kind, family).is_empty())
        .map(|kind| (kind, of(kind)))
        .collect();
    if kinds.iter().all(|(_, attributes)| attributes.is_empty()) {
        return Vec::new();
    }
    let alike = kinds.iter().all(|(_, attributes)| *attributes == kinds[0].1);
    let shown = if alike { &kinds[..1] } else { &kinds };
    let carried = shown.iter().map(|(kind, attributes)| Carried {
        list: (!alike).then(|| format!("{}{}", list_name(*kind), family.version())),
        communities: attributes.communities.iter().map(|one| format!("{},{}", one.0, one.1)).collect(),
        large_communities: attributes
            .large_communities
            .iter()
            .map(|one| format!("{},{},{}", one.0, one.1, one.2))
            .collect(),
        local_preference: attributes.local_preference,
        med: attributes.med,
        prepended: vec![wanted.asn; attributes.prepend.unwrap_or_default().into()],
    });
    carried.collect()
}

/// What announcements of a node that is to go carry: GRACEFUL_SHUTDOWN, which routers that know it
/// prefer to nothing (RFC 8326), and what makes others do the same. An internal peer gets the least
/// LOCAL_PREF; an external one the greatest MED, which counts between nodes of one autonomous system,
/// and a longer path, which counts between those of several.
fn marked(configured: Attributes, internal: bool) -> Attributes {
    let mut communities = configured.communities;
    communities.insert(Community::GRACEFUL_SHUTDOWN);
    let configured = Attributes { communities, ..configured };
    if internal {
        return Attributes { local_preference: Some(0), ..configured };
    }
    let prepend = configured.prepend.unwrap_or_default() + PREPENDED_BY_DRAIN;
    Attributes { med: Some(u32::MAX), prepend: Some(prepend), ..configured }
}

/// What the list of a kind is called, without its family.
pub(super) fn list_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Summary => "FLOCK_SUMMARIES",
        Kind::Anycast => "FLOCK_ANYCAST",
        Kind::Exception => "FLOCK_EXCEPTIONS",
    }
}
