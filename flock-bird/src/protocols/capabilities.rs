//! What the ends of a BGP session can do (RFC 5492).

use std::time::Duration;

use super::outline::entry;

/// The capabilities of one end. Families are in BIRD's words: `ipv4`, `ipv6`, …
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The families of the routes that it exchanges (RFC 4760).
    pub families: Vec<String>,
    /// It sends all again when asked (RFC 2918).
    pub route_refresh: bool,
    /// It marks where that begins and ends (RFC 7313).
    pub enhanced_refresh: bool,
    /// Families whose next hops may be IPv6 addresses (RFC 8950).
    pub extended_next_hop: Vec<String>,
    /// Its messages may be longer than 4,096 bytes (RFC 8654).
    pub extended_messages: bool,
    /// AS numbers of four bytes (RFC 6793).
    pub four_octet_asn: bool,
    /// Several paths for one prefix (RFC 7911).
    pub add_path: bool,
    /// Graceful restart (RFC 4724): as a helper, if it names no families.
    pub graceful_restart: Option<GracefulRestart>,
    /// Long-lived graceful restart (RFC 9494).
    pub long_lived_graceful_restart: Option<GracefulRestart>,
    /// What else it can do, in BIRD's words.
    pub other: Vec<String>,
}

/// What an end says of its restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// How long its routes are to be kept.
    pub time: Option<Duration>,
    /// It has just restarted.
    pub recovering: bool,
    /// The families for which it asks for that.
    pub families: Vec<String>,
    /// The families that it went on forwarding for.
    pub preserved: Vec<String>,
}

impl Capabilities {
    /// A line; `capability` is the one that it is a detail of.
    pub(super) fn detail(&mut self, capability: Option<&str>, text: &str) {
        match capability {
            None => self.capability(text),
            Some("Multiprotocol") => read_families(&mut self.families, "AF announced", text),
            Some("Extended next hop") => read_families(&mut self.extended_next_hop, "IPv6 nexthop", text),
            Some("Graceful restart") => detail_of(&mut self.graceful_restart, text),
            Some("Long-lived graceful restart") => detail_of(&mut self.long_lived_graceful_restart, text),
            Some(_) => {}
        }
    }

    fn capability(&mut self, text: &str) {
        match text {
            // Their details say all.
            "Multiprotocol" | "Extended next hop" => {}
            "Route refresh" => self.route_refresh = true,
            "Enhanced refresh" => self.enhanced_refresh = true,
            "Extended message" => self.extended_messages = true,
            "4-octet AS numbers" => self.four_octet_asn = true,
            "ADD-PATH" => self.add_path = true,
            "Graceful restart" => self.graceful_restart = Some(GracefulRestart::default()),
            "Long-lived graceful restart" => {
                self.long_lived_graceful_restart = Some(GracefulRestart::default());
            }
            other => self.other.push(other.to_owned()),
        }
    }
}

fn detail_of(restart: &mut Option<GracefulRestart>, text: &str) {
    let Some(restart) = restart else { return };
    match entry(text) {
        Some(("Restart time" | "LL stale time", seconds)) => {
            restart.time = seconds.parse().ok().map(Duration::from_secs);
        }
        Some(("AF supported", families)) => restart.families = list(families),
        Some(("AF preserved", families)) => restart.preserved = list(families),
        Some(_) => {}
        None => restart.recovering |= text == "Restart recovery",
    }
}

fn read_families(families: &mut Vec<String>, name: &str, text: &str) {
    if let Some((key, value)) = entry(text)
        && key == name
    {
        *families = list(value);
    }
}

fn list(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_owned).collect()
}
