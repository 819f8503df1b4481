//! What BIRD says of itself (`show status`).

use std::net::Ipv4Addr;

use jiff::civil::DateTime;

use crate::control::{Client, Code, Reply};
use crate::query::{QueryError, ask};
use crate::time::Moment;

/// A running BIRD. What it did not say, or not in a form that is known, is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// As in `2.0.12`.
    pub version: Option<String>,
    /// The BGP identifier (RFC 4271, section 1.1) of sessions that have no other.
    pub router_id: Option<Ipv4Addr>,
    /// The machine's name.
    pub hostname: Option<String>,
    /// BIRD's own time, in the same local time as all that it tells.
    pub now: Option<DateTime>,
    /// When BIRD was started.
    pub last_reboot: Option<Moment>,
    /// When it took a configuration for the last time.
    pub last_reconfiguration: Option<Moment>,
    /// Whether it still waits for peers after a graceful restart (RFC 4724).
    pub recovering: bool,
    /// What it does, in its own words: `Daemon is up and running`, `Reconfiguration in progress`,
    /// `Shutdown in progress`.
    pub daemon: String,
}

const VERSION: Code = Code(1000);

/// Asks BIRD.
pub async fn status(client: &Client) -> Result<Status, QueryError> {
    Ok(parse(&ask(client, "show status").await?))
}

/// Reads the answer to `show status`.
pub fn parse(reply: &Reply) -> Status {
    let mut status = Status { daemon: reply.text().to_owned(), ..Status::default() };
    for line in reply.lines() {
        let text = line.text.trim();
        if line.code == VERSION {
            status.version = text.strip_prefix("BIRD ").map(str::to_owned);
        } else if let Some(id) = text.strip_prefix("Router ID is ") {
            status.router_id = id.parse().ok();
        } else if let Some(name) = text.strip_prefix("Hostname is ") {
            status.hostname = Some(name.to_owned());
        } else if let Some(now) = text.strip_prefix("Current server time is ") {
            status.now = match Moment::read(now) {
                Moment::DateTime(now) => Some(now),
                _ => None,
            };
        } else if let Some(at) = text.strip_prefix("Last reboot on ") {
            status.last_reboot = Some(Moment::read(at));
        } else if let Some(at) = text.strip_prefix("Last reconfiguration on ") {
            status.last_reconfiguration = Some(Moment::read(at));
        } else if text == "Graceful restart recovery in progress" {
            status.recovering = true;
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::reply;

    #[test]
    fn each_line_has_its_place() {
        let said = reply(
            "1000-BIRD 2.0.12\n1011-Router ID is 192.0.2.1\n Hostname is host001\n \
             Current server time is 2026-01-01 10:00:30.500\n Last reboot on 2026-01-01 10:00:00.250\n \
             Last reconfiguration on 10:00:01.000\n Graceful restart recovery in progress\n   \
             Waiting for 2 channels to recover\n Something new is 7\n0013 Daemon is up and running\n",
        );
        let expected = Status {
            version: Some("2.0.12".to_owned()),
            router_id: Some(Ipv4Addr::new(192, 0, 2, 1)),
            hostname: Some("host001".to_owned()),
            now: Some(jiff::civil::datetime(2026, 1, 1, 10, 0, 30, 500_000_000)),
            last_reboot: Some(Moment::DateTime(jiff::civil::datetime(2026, 1, 1, 10, 0, 0, 250_000_000))),
            last_reconfiguration: Some(Moment::Time(jiff::civil::time(10, 0, 1, 0))),
            recovering: true,
            daemon: "Daemon is up and running".to_owned(),
        };
        assert_eq!(parse(&said), expected);
    }

    #[test]
    fn an_answer_to_something_else_says_nothing() {
        let said = reply("1007-Table master4:\n0000 \n");
        assert_eq!(parse(&said), Status::default());
    }
}
