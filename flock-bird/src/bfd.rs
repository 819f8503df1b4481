//! BIRD's BFD sessions (RFC 5880), by which a neighbor's death is noticed sooner than by BGP's
//! hold time (`show bfd sessions`).
//!
//! ```
//! use flock_bird::bfd::{self, SessionState};
//! use flock_bird::control::ReplyParser;
//!
//! let mut parser = ReplyParser::new();
//! parser.push(b"1020-bfd1:\n 192.0.2.254   eth0   Up   2026-01-01 10:00:00.000    0.100    0.500\n0000 \n");
//! let reply = parser.next_reply().unwrap().unwrap();
//! let session = &bfd::parse(&reply).known[0];
//! assert_eq!(session.state, SessionState::Up);
//! assert_eq!(session.timeout, Some(std::time::Duration::from_millis(500)));
//! ```

use std::net::IpAddr;
use std::time::Duration;

use crate::control::{Client, Code, Reply};
use crate::query::{QueryError, Rows, ask};
use crate::time::Moment;

/// Rows of `show bfd sessions`.
const ROW: Code = Code(1020);

/// A session with one neighbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The protocol that it belongs to.
    pub protocol: Option<String>,
    /// The neighbor.
    pub neighbor: IpAddr,
    /// The link that the neighbor is on; `None` where it is several hops away.
    pub interface: Option<String>,
    /// How far it is.
    pub state: SessionState,
    /// Since when it is in that state.
    pub since: Moment,
    /// How often packets are sent.
    pub interval: Option<Duration>,
    /// After how long without a packet the neighbor counts as gone.
    pub timeout: Option<Duration>,
}

/// How far a session is (RFC 5880, section 6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    /// It is disabled.
    AdminDown,
    /// Nothing is heard.
    Down,
    /// The neighbor is heard, and hears nothing.
    Init,
    /// Both hear each other.
    Up,
    /// In BIRD's own word, which is none of these.
    Other(String),
}

/// Asks BIRD, which must have a `protocol bfd`.
pub async fn sessions(client: &Client) -> Result<Rows<Session>, QueryError> {
    Ok(parse(&ask(client, "show bfd sessions").await?))
}

/// Reads the answer to `show bfd sessions`.
pub fn parse(reply: &Reply) -> Rows<Session> {
    let mut rows = Rows::default();
    let mut protocol = None;
    for line in reply.lines().filter(|line| line.code == ROW) {
        let text = line.text.trim();
        if let Some(name) = text.strip_suffix(':').filter(|name| !name.contains(' ')) {
            protocol = Some(name);
        } else if let Some(session) = Session::of_row(text, protocol) {
            rows.known.push(session);
        } else if !text.is_empty() && !text.starts_with("IP address ") {
            rows.unknown.push(line.text.clone());
        }
    }
    rows
}

impl Session {
    /// `192.0.2.254   eth0   Up   2026-01-01 10:00:00.000    0.100    0.500`
    fn of_row(row: &str, protocol: Option<&str>) -> Option<Self> {
        let words: Vec<&str> = row.split_whitespace().collect();
        let [neighbor, interface, state, behind @ ..] = words.as_slice() else { return None };
        let (since, taken) = Moment::of_words(behind);
        let mut times = behind.iter().skip(taken);
        let mut seconds = || Duration::try_from_secs_f64(times.next()?.parse().ok()?).ok();
        Some(Self {
            protocol: protocol.map(str::to_owned),
            neighbor: neighbor.parse().ok()?,
            interface: Some(*interface).filter(|interface| *interface != "---").map(str::to_owned),
            state: SessionState::read(state),
            since,
            interval: seconds(),
            timeout: seconds(),
        })
    }
}

impl SessionState {
    fn read(word: &str) -> Self {
        match word {
            "AdminDown" => Self::AdminDown,
            "Down" => Self::Down,
            "Init" => Self::Init,
            "Up" => Self::Up,
            other => Self::Other(other.to_owned()),
        }
    }
}
