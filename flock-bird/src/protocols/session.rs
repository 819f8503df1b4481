//! A BGP session (RFC 4271).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use flock_core::excerpt::quoted;
use ipnet::IpNet;

use super::Capabilities;
use super::outline::entry;

/// A BGP session. Without `all`, BIRD tells its state and last error only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// How far it is.
    pub state: SessionState,
    /// The neighbor; `None` where it waits for any of [`neighbor_range`](Self::neighbor_range).
    pub neighbor: Option<NeighborAddress>,
    /// The addresses that neighbors may come from.
    pub neighbor_range: Option<IpNet>,
    /// The neighbor's AS number; `None` while any is taken.
    pub neighbor_asn: Option<u32>,
    /// The own AS number in this session.
    pub local_asn: Option<u32>,
    /// The neighbor's BGP identifier, once it has told it.
    pub neighbor_id: Option<Ipv4Addr>,
    /// The own address of the connection.
    pub source_address: Option<IpAddr>,
    /// When the neighbor counts as gone if nothing is heard of it.
    pub hold_timer: Option<Timer>,
    /// When the next KEEPALIVE is sent.
    pub keepalive_timer: Option<Timer>,
    /// The neighbor is away and its routes are kept (RFC 4724).
    pub graceful_restart_active: bool,
    /// Why it was not up, or why it ended the last time, in BIRD's words. Gone once it is up.
    pub last_error: Option<String>,
    /// What this end can do, while there is a connection.
    pub local_capabilities: Option<Capabilities>,
    /// What the neighbor can do, while there is a connection.
    pub neighbor_capabilities: Option<Capabilities>,
}

/// How far a session is (RFC 4271, section 8.2.2), with two words of BIRD for one that does not try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    /// Nothing is tried, mostly since it waits after an error.
    Idle,
    /// A connection is being opened.
    Connect,
    /// It waits before the next attempt.
    Active,
    /// OPEN was sent.
    OpenSent,
    /// OPEN was received.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
    /// It is ending.
    Close,
    /// It waits for the neighbor, as it is told to.
    Passive,
    /// It is disabled.
    Down,
    /// In BIRD's own word, which is none of these.
    Other(String),
}

/// A timer that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// What is left of it.
    pub left: Duration,
    /// What it began with.
    pub of: Duration,
}

/// An address, with the interface where it has a meaning on one link only.
///
/// ```
/// use flock_bird::protocols::NeighborAddress;
///
/// let neighbor: NeighborAddress = "fe80::1%eth0".parse().unwrap();
/// assert_eq!(neighbor.interface.as_deref(), Some("eth0"));
/// assert_eq!(neighbor.to_string(), "fe80::1%eth0");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighborAddress {
    /// The address.
    pub address: IpAddr,
    /// The interface that it is reached over.
    pub interface: Option<String>,
}

/// A text is no [`NeighborAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not the address of a neighbor: expected an IP address, or one with %INTERFACE behind it", quoted(.0))]
pub struct NeighborAddressError(String);

impl Session {
    /// Whether routes are exchanged.
    pub fn is_up(&self) -> bool {
        self.state == SessionState::Established
    }

    /// `Active        Socket: Connection refused`
    pub(super) fn of_info(info: &str) -> Self {
        let (state, error) = info.split_once(char::is_whitespace).unwrap_or((info, ""));
        Self {
            state: SessionState::read(if state.is_empty() { "Down" } else { state }),
            neighbor: None,
            neighbor_range: None,
            neighbor_asn: None,
            local_asn: None,
            neighbor_id: None,
            source_address: None,
            hold_timer: None,
            keepalive_timer: None,
            graceful_restart_active: false,
            last_error: Some(error.trim()).filter(|error| !error.is_empty()).map(str::to_owned),
            local_capabilities: None,
            neighbor_capabilities: None,
        }
    }

    /// A line, below of which it stands, and whether it is one of a session.
    pub(super) fn detail(&mut self, above: &[&str], text: &str) -> bool {
        for (index, heading) in above.iter().enumerate() {
            if let Some(capabilities) = self.capabilities(heading) {
                let capability = above.get(index + 1).copied();
                capabilities.get_or_insert_default().detail(capability, text);
                return true;
            }
        }
        if let Some(capabilities) = self.capabilities(text) {
            capabilities.get_or_insert_default();
            return true;
        }
        if text == "Neighbor graceful restart active" {
            self.graceful_restart_active = true;
            return true;
        }
        let Some((key, value)) = entry(text) else { return false };
        match key {
            "BGP state" => self.state = SessionState::read(value),
            "Neighbor address" => self.neighbor = value.parse().ok(),
            "Neighbor range" => self.neighbor_range = value.parse().ok(),
            "Neighbor AS" => self.neighbor_asn = value.parse().ok().filter(|asn| *asn != 0),
            "Local AS" => self.local_asn = value.parse().ok(),
            "Neighbor ID" => self.neighbor_id = value.parse().ok(),
            "Source address" => self.source_address = value.parse().ok(),
            "Hold timer" => self.hold_timer = Timer::read(value),
            "Keepalive timer" => self.keepalive_timer = Timer::read(value),
            "Last error" => self.last_error = Some(value.to_owned()),
            _ => return false,
        }
        true
    }

    fn capabilities(&mut self, heading: &str) -> Option<&mut Option<Capabilities>> {
        match heading {
            "Local capabilities" => Some(&mut self.local_capabilities),
            "Neighbor capabilities" => Some(&mut self.neighbor_capabilities),
            _ => None,
        }
    }
}

impl SessionState {
    fn read(word: &str) -> Self {
        match word {
            "Idle" => Self::Idle,
            "Connect" => Self::Connect,
            "Active" => Self::Active,
            "OpenSent" => Self::OpenSent,
            "OpenConfirm" => Self::OpenConfirm,
            "Established" => Self::Established,
            "Close" => Self::Close,
            "Passive" => Self::Passive,
            "Down" => Self::Down,
            other => Self::Other(other.to_owned()),
        }
    }

    /// In BIRD's word.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
            Self::Close => "Close",
            Self::Passive => "Passive",
            Self::Down => "Down",
            Self::Other(word) => word,
        }
    }
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Timer {
    /// `206.791/240`, in seconds
    fn read(text: &str) -> Option<Self> {
        let (left, of) = text.split_once('/')?;
        let seconds = |text: &str| Duration::try_from_secs_f64(text.trim().parse().ok()?).ok();
        Some(Self { left: seconds(left)?, of: seconds(of)? })
    }
}

impl FromStr for NeighborAddress {
    type Err = NeighborAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, interface) = match text.split_once('%') {
            Some((address, interface)) => (address, Some(interface)),
            None => (text, None),
        };
        match address.parse() {
            Ok(address) if interface != Some("") => {
                Ok(Self { address, interface: interface.map(str::to_owned) })
            }
            _ => Err(NeighborAddressError(text.to_owned())),
        }
    }
}

impl fmt::Display for NeighborAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.interface {
            Some(interface) => write!(f, "{}%{interface}", self.address),
            None => self.address.fmt(f),
        }
    }
}
