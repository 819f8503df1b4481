//! What a protocol exchanges routes of one sort through.

use std::net::IpAddr;

use super::State;
use super::outline::entry;

/// A channel of a protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// `ipv4`, `ipv6`, or what the configuration calls it.
    pub name: String,
    /// How far it is.
    pub state: State,
    /// The table that it connects the protocol with.
    pub table: Option<String>,
    /// How many routes there are; `None` while it is down.
    pub routes: Option<RouteCounts>,
    /// How many routes may be received, before they are filtered.
    pub receive_limit: Option<Limit>,
    /// How many may be imported.
    pub import_limit: Option<Limit>,
    /// How many may be exported.
    pub export_limit: Option<Limit>,
    /// What BIRD tells a BGP neighbor as next hop: one address, or a global and a link-local one
    /// (RFC 2545, section 3).
    pub next_hops: Vec<IpAddr>,
}

/// Routes of a channel. What BIRD does not count is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteCounts {
    /// From the protocol into the table.
    pub imported: Option<u64>,
    /// Received and not imported; only counted with `import keep filtered`.
    pub filtered: Option<u64>,
    /// From the table to the protocol: what a BGP neighbor is told.
    pub exported: Option<u64>,
    /// Imported, and the best of their prefix.
    pub preferred: Option<u64>,
}

/// A limit for the number of routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// How many are allowed.
    pub routes: u64,
    /// Whether there were more.
    pub hit: bool,
    /// What BIRD does then: `warn`, `block`, `restart`, `disable`.
    pub action: Option<String>,
}

/// The name of the channel whose heading this is.
pub(super) fn heading(text: &str) -> Option<&str> {
    text.strip_prefix("Channel ").map(str::trim).filter(|name| !name.is_empty() && !name.contains(':'))
}

impl Channel {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: State::Other(String::new()),
            table: None,
            routes: None,
            receive_limit: None,
            import_limit: None,
            export_limit: None,
            next_hops: Vec::new(),
        }
    }

    /// A line, and the one that it stands below of.
    pub(super) fn detail(&mut self, above: &str, text: &str) {
        let Some((key, value)) = entry(text) else { return };
        match key {
            "State" => self.state = State::read(value),
            "Table" => self.table = Some(value.to_owned()),
            "Routes" => self.routes = Some(RouteCounts::read(value)),
            "BGP Next hop" => {
                self.next_hops = value.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            }
            "Action" => {
                if let Some(limit) = entry(above).and_then(|(key, _)| self.limit(key)?.as_mut()) {
                    limit.action = Some(value.to_owned());
                }
            }
            _ => {
                if let Some(limit) = self.limit(key) {
                    *limit = Limit::read(value);
                }
            }
        }
    }

    fn limit(&mut self, key: &str) -> Option<&mut Option<Limit>> {
        match key {
            "Receive limit" => Some(&mut self.receive_limit),
            "Import limit" => Some(&mut self.import_limit),
            "Export limit" => Some(&mut self.export_limit),
            _ => None,
        }
    }
}

impl RouteCounts {
    /// `4 imported, 3 exported, 4 preferred`
    fn read(text: &str) -> Self {
        let mut counts = Self::default();
        for count in text.split(',') {
            let Some((number, what)) = count.trim().split_once(' ') else { continue };
            let count = match what {
                "imported" => &mut counts.imported,
                "filtered" => &mut counts.filtered,
                "exported" => &mut counts.exported,
                "preferred" => &mut counts.preferred,
                _ => continue,
            };
            *count = number.parse().ok();
        }
        counts
    }
}

impl Limit {
    /// `4 [HIT]`
    fn read(text: &str) -> Option<Self> {
        let (routes, hit) = text.split_once(' ').unwrap_or((text, ""));
        Some(Self { routes: routes.parse().ok()?, hit: hit.contains("[HIT]"), action: None })
    }
}
