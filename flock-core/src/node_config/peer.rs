//! A BGP peer and everything that can be set of the session with it: [`Peer`].

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::export::{Attributes, Export};
use super::password::{Password, PasswordReference};
use crate::excerpt::quoted;
use crate::name::InterfaceName;

pub(super) mod entry;

/// A BGP peer, and how the session with it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Unique on the node: a letter, then letters, digits or `-`; at most 32 characters.
    pub name: String,
    /// Where it is.
    pub neighbor: Neighbor,
    /// Its autonomous system number; the node's own makes the session an internal one.
    pub asn: u32,
    /// The TCP port that it listens on.
    pub port: u16,
    /// The node's end of the session, where it is not the address that the kernel chooses.
    pub local_address: Option<IpAddr>,
    /// Whether the peer is to open the session.
    pub passive: bool,
    /// How many hops away it may be. Without it an external peer is on a link of the node, and an
    /// internal one anywhere; with [`ttl_security`](Self::ttl_security) both are on a link.
    pub multihop: Option<u8>,
    /// Whether packets must come from no further away than the peer can be (RFC 5082).
    pub ttl_security: bool,
    /// The hold time that is offered, in seconds: 0 for none, or at least 3 (RFC 4271, section 4.2).
    pub hold_time: u16,
    /// How often the peer is told that the node is there, in seconds; a third of the hold time
    /// where it is not set.
    pub keepalive_time: Option<u16>,
    /// Where the password of the session is kept, if it has one.
    pub password_reference: Option<PasswordReference>,
    /// The password of the session (TCP MD5, RFC 2385). A peer with a
    /// [`password_reference`](Self::password_reference) and without this is not
    /// [resolved](Self::is_resolved).
    pub password: Option<Password>,
    /// Whether BFD (RFC 5880) watches the session, and how.
    pub bfd: Option<Bfd>,
    /// What happens to routes when one of both restarts.
    pub graceful_restart: GracefulRestart,
    /// What the session carries; at least one. IPv4 goes over a session by IPv6 with next hops of
    /// IPv6 (RFC 8950) where the peer can.
    pub families: BTreeSet<Family>,
    /// What is taken of what the peer sends.
    pub import: Import,
    /// How much of it, of each family.
    pub max_prefixes: Option<MaxPrefixes>,
    /// What announcements to this peer carry.
    pub export: Export,
}

/// Where a peer is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Neighbor {
    /// At an address that means the same anywhere on the node.
    Address(IpAddr),
    /// At a link-local address of the link behind an interface.
    LinkLocal {
        /// Its address.
        address: IpAddr,
        /// The node's interface.
        interface: InterfaceName,
    },
    /// Whoever opens a session from a link-local address behind an interface (BGP unnumbered).
    Unnumbered {
        /// The node's interface.
        interface: InterfaceName,
    },
}

/// An address family of BGP (RFC 4760), unicast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1.
    Ipv4,
    /// AFI 2.
    Ipv6,
}

/// The intervals of BFD (RFC 5880, section 6.8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bfd {
    /// How often the node can receive (Required Min RX Interval), in milliseconds.
    pub min_rx_ms: u32,
    /// How often the node wants to send (Desired Min TX Interval), in milliseconds.
    pub min_tx_ms: u32,
    /// After how many missing packets the session counts as down (Detect Mult).
    pub multiplier: u8,
}

/// The node's part in graceful restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GracefulRestart {
    /// Both: the node's routes stay with the peer while BIRD restarts, and the peer's stay here
    /// while the peer does.
    Restart {
        /// How long the peer is asked to wait for the node, in seconds, at most 4095 (RFC 4724,
        /// section 3).
        restart_time: Option<u16>,
        /// For how long after that its routes are used where there are no others, in seconds, at
        /// most 16777215 (RFC 9494); `None` for not at all.
        stale_time: Option<u32>,
    },
    /// Only the second.
    Helper,
    /// Neither: what a session has brought goes with it.
    Disabled,
}

/// What is taken of what a peer sends. The node's own prefixes are taken from nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Import {
    /// Everything.
    #[default]
    All,
    /// The default routes.
    Default,
    /// Nothing.
    None,
}

/// How many prefixes a peer may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPrefixes {
    /// Of each family, at least 1.
    pub count: u32,
    /// What happens beyond them.
    pub action: LimitAction,
}

/// What happens when a peer brings more prefixes than it may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LimitAction {
    /// The session is started anew.
    #[default]
    Restart,
    /// The session ends, until the configuration changes.
    Disable,
    /// What is too much is not taken.
    Block,
    /// It is logged.
    Warn,
}

impl Peer {
    /// Where BGP speakers listen (RFC 4271, section 8.2.1).
    pub const DEFAULT_PORT: u16 = 179;
    /// As RFC 4271, section 10, suggests, in seconds.
    pub const DEFAULT_HOLD_TIME: u16 = 90;
    /// RFC 4724, section 3: twelve bits.
    const MAX_RESTART_TIME: u16 = 4_095;
    /// RFC 9494, section 4.1: 24 bits.
    const MAX_STALE_TIME: u32 = 16_777_215;

    /// The peer at `address` with the defaults of everything else.
    pub fn new(name: impl Into<String>, address: IpAddr, asn: u32) -> Self {
        Self::at(name, Neighbor::Address(address), asn)
    }

    /// The peer that is `neighbor`, with the defaults of everything else.
    pub fn at(name: impl Into<String>, neighbor: Neighbor, asn: u32) -> Self {
        let families = [neighbor.family()].into();
        Self {
            name: name.into(),
            neighbor,
            asn,
            port: Self::DEFAULT_PORT,
            local_address: None,
            passive: false,
            multihop: None,
            ttl_security: false,
            hold_time: Self::DEFAULT_HOLD_TIME,
            keepalive_time: None,
            password_reference: None,
            password: None,
            bfd: None,
            graceful_restart: GracefulRestart::default(),
            families,
            import: Import::All,
            max_prefixes: None,
            export: Export::default(),
        }
    }

    /// Whether the session with it can be tried: without the password that it should have it must
    /// not be.
    pub fn is_resolved(&self) -> bool {
        self.password_reference.is_none() || self.password.is_some()
    }

    /// Whether it has to be on a link of a node of the autonomous system `local_asn`: external peers
    /// without [`multihop`](Self::multihop), and others where something else asks for it.
    pub fn is_on_link(&self, local_asn: u32) -> bool {
        let asked = self.ttl_security || self.neighbor.interface().is_some();
        self.multihop.is_none() && (self.asn != local_asn || asked)
    }

    /// How often the peer is told that the node is there, in seconds; `None` without a hold time.
    pub fn keepalive(&self) -> Option<u16> {
        self.keepalive_time.or((self.hold_time >= 3).then_some(self.hold_time / 3))
    }

    /// Everything that is wrong with it as a peer of a node of the autonomous system `local_asn`:
    /// the field, what was found and what is expected.
    pub fn problems(&self, local_asn: u32) -> Vec<String> {
        let mut problems = Vec::new();
        if !is_peer_name(&self.name) {
            problems.push(format!(
                "name is {}, expected a letter, then letters, digits or '-', at most 32 characters",
                quoted(&self.name)
            ));
        }
        problems.extend(reserved_asn("asn", self.asn));
        self.neighbor.problems(&mut problems);
        self.transport_problems(&mut problems);
        self.timer_problems(&mut problems);
        if self.families.is_empty() {
            problems.push("families is empty, expected ipv6, ipv4 or both".to_owned());
        }
        if self.max_prefixes.is_some_and(|limit| limit.count == 0) {
            problems.push(
                "maxPrefixes.count is 0, expected 1 to 4294967295; `import: none` takes nothing".to_owned(),
            );
        }
        if self.bfd.is_some() && !self.is_on_link(local_asn) && self.local_address.is_none() {
            problems.push(
                "bfd is set, and the peer may be several hops away; expected localAddress beside it (RFC 5883), \
                 or ttlSecurity without multihop for a peer on a link of the node"
                    .to_owned(),
            );
        }
        problems.extend(self.export.problems());
        for (level, attributes) in self.export.levels() {
            Self::export_problems(level, attributes, self.asn == local_asn, &mut problems);
        }
        problems
    }

    fn transport_problems(&self, problems: &mut Vec<String>) {
        if self.port == 0 {
            problems.push("port is 0, expected 1 to 65535".to_owned());
        }
        if let Some(local) = self.local_address {
            self.local_address_problem(local).into_iter().for_each(|problem| problems.push(problem));
        }
        match self.multihop {
            Some(0) => problems.push("multihop is 0, expected 1 to 255".to_owned()),
            Some(_) if self.neighbor.interface().is_some() => problems.push(
                "multihop is set, and the peer is on the link of an interface; expected one without the other"
                    .to_owned(),
            ),
            _ => {}
        }
    }

    fn local_address_problem(&self, local: IpAddr) -> Option<String> {
        let family = self.neighbor.family();
        if Family::of(local) != family {
            return Some(format!(
                "localAddress is {local}, expected an {family} address like that of the peer"
            ));
        }
        if let Some(what) = useless(local) {
            return Some(format!(
                "localAddress is {local}, which is {what}; expected an address of the node"
            ));
        }
        match (is_link_local(local), self.neighbor.interface().is_some()) {
            (true, false) => Some(format!(
                "localAddress is {local}, which is link-local while the peer's address is not; expected a global one"
            )),
            (false, true) => Some(format!(
                "localAddress is {local}, and the peer is at a link-local address; expected a link-local one"
            )),
            _ => None,
        }
    }

    fn timer_problems(&self, problems: &mut Vec<String>) {
        let hold = self.hold_time;
        if matches!(hold, 1 | 2) {
            problems.push(format!("holdTime is {hold}, expected 0 or 3 to 65535 seconds (RFC 4271)"));
        }
        match self.keepalive_time {
            Some(_) if hold == 0 => problems.push(
                "keepaliveTime is set while holdTime is 0, with which no keepalives are sent (RFC 4271); \
                 expected one without the other"
                    .to_owned(),
            ),
            Some(0) => problems.push("keepaliveTime is 0, expected at least 1 second".to_owned()),
            Some(keepalive) if keepalive >= hold => problems.push(format!(
                "keepaliveTime is {keepalive}, expected less than the holdTime of {hold} seconds"
            )),
            _ => {}
        }
        if let Some(Bfd { min_rx_ms, min_tx_ms, multiplier }) = self.bfd {
            for (field, interval) in [("minRxMs", min_rx_ms), ("minTxMs", min_tx_ms)] {
                if !(Bfd::MIN_INTERVAL_MS..=Bfd::MAX_INTERVAL_MS).contains(&interval) {
                    problems.push(format!(
                        "bfd.{field} is {interval}, expected {} to {} milliseconds",
                        Bfd::MIN_INTERVAL_MS,
                        Bfd::MAX_INTERVAL_MS
                    ));
                }
            }
            if multiplier == 0 {
                problems.push("bfd.multiplier is 0, expected 1 to 255 (RFC 5880)".to_owned());
            }
        }
        if let GracefulRestart::Restart { restart_time, stale_time } = self.graceful_restart {
            if let Some(time) = restart_time.filter(|time| *time > Self::MAX_RESTART_TIME) {
                problems.push(format!(
                    "gracefulRestart.restartTime is {time}, expected 0 to {} seconds (RFC 4724)",
                    Self::MAX_RESTART_TIME
                ));
            }
            if let Some(time) = stale_time.filter(|time| *time > Self::MAX_STALE_TIME) {
                problems.push(format!(
                    "gracefulRestart.longLived.staleTime is {time}, expected 0 to {} seconds (RFC 9494)",
                    Self::MAX_STALE_TIME
                ));
            }
        }
    }

    fn export_problems(level: &str, said: &Attributes, internal: bool, problems: &mut Vec<String>) {
        if said.local_preference.is_some() && !internal {
            problems.push(format!(
                "export{level}.localPreference is set for an external peer, which never gets it (RFC 4271, \
                 section 5.1.5); expected med, prepend or communities"
            ));
        }
        if said.prepend.is_some() && internal {
            problems.push(format!(
                "export{level}.prepend is set for an internal peer, to which AS paths go unchanged (RFC \
                 4271, section 5.1.2); expected localPreference, med or communities"
            ));
        }
    }
}

impl Neighbor {
    /// Its address, where it has a certain one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) | Self::LinkLocal { address, .. } => Some(*address),
            Self::Unnumbered { .. } => None,
        }
    }

    /// The interface that it is behind, where that is said.
    pub fn interface(&self) -> Option<&InterfaceName> {
        match self {
            Self::Address(_) => None,
            Self::LinkLocal { interface, .. } | Self::Unnumbered { interface } => Some(interface),
        }
    }

    /// That of the session's TCP connection.
    pub fn family(&self) -> Family {
        self.address().map_or(Family::Ipv6, Family::of)
    }

    fn problems(&self, problems: &mut Vec<String>) {
        if let Some(interface) = self.interface()
            && !interface.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        {
            problems.push(format!(
                "interface is {}, expected a name of letters, digits, '.', '_' and '-'",
                quoted(interface.as_str())
            ));
        }
        let Some(address) = self.address() else { return };
        if let Some(what) = useless(address) {
            problems.push(format!("address is {address}, which is {what}; expected the address of a router"));
            return;
        }
        match (self, address) {
            (Self::Address(_), address) if is_link_local(address) => problems.push(format!(
                "address is {address}, which is link-local and means nothing without an interface; \
                 expected interface beside it, or a global or unique local address of the router"
            )),
            (Self::LinkLocal { .. }, IpAddr::V4(_)) => problems.push(format!(
                "address is {address} beside interface, expected an IPv6 link-local address there"
            )),
            (Self::LinkLocal { .. }, address) if !is_link_local(address) => problems.push(format!(
                "address is {address} beside interface, expected a link-local address there, or no interface"
            )),
            _ => {}
        }
    }
}

/// The address, with `%` and the interface behind it where there is one.
impl fmt::Display for Neighbor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::LinkLocal { address, interface } => write!(f, "{address}%{interface}"),
            Self::Unnumbered { interface } => write!(f, "%{interface}"),
        }
    }
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// The version of IP.
    pub fn version(self) -> u8 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IPv{}", self.version())
    }
}

impl Bfd {
    const MIN_INTERVAL_MS: u32 = 10;
    const MAX_INTERVAL_MS: u32 = 60_000;
}

/// What most routers have by default: a peer counts as gone within a second.
impl Default for Bfd {
    fn default() -> Self {
        Self { min_rx_ms: 300, min_tx_ms: 300, multiplier: 3 }
    }
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self::Restart { restart_time: None, stale_time: None }
    }
}

pub(super) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V6(address) => address.is_unicast_link_local(),
        IpAddr::V4(address) => address.is_link_local(),
    }
}

/// What makes an address useless for a session: among others "this network", future use and
/// broadcast (RFC 6890), and embedded IPv4 addresses (RFC 4291, section 2.5.5).
fn useless(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("unspecified");
    }
    if address.is_loopback() {
        return Some("loopback");
    }
    if address.is_multicast() {
        return Some("multicast");
    }
    let reserved = match address {
        IpAddr::V6(address) => address.to_ipv4().is_some(),
        IpAddr::V4(address) => matches!(address.octets()[0], 0 | 240..),
    };
    reserved.then_some("reserved")
}

/// RFC 7607 (0), RFC 6793 (`AS_TRANS`), RFC 7300 (the last ones).
pub(super) fn reserved_asn(field: &str, asn: u32) -> Option<String> {
    matches!(asn, 0 | 23_456 | 65_535 | u32::MAX)
        .then(|| format!("{field} is {asn}, which is reserved; expected 1 to 4294967294"))
}

/// Whether a peer may have this name.
pub fn is_peer_name(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests;
