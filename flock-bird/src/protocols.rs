//! BIRD's protocols as it tells them (`show protocols all`): typed, for whoever wants to know how
//! its BGP sessions are.
//!
//! What this release does not know of a BIRD's answer, further lines, words and counters, is passed
//! over: a later BIRD 2 says more than an older one. What a row can't do without is its name, kind,
//! table and state; one that lacks them is kept as [unknown](Rows::unknown).
//!
//! ```
//! use flock_bird::control::ReplyParser;
//! use flock_bird::protocols::{self, SessionState};
//!
//! let mut parser = ReplyParser::new();
//! parser.push(
//!     b"1002-tor1  BGP  ---  start  2026-01-01 10:00:00.000  Active        Socket: Connection refused\n\
//!       1006-  BGP state:          Active\n     Neighbor address: fe80::1%eth0\n     Neighbor AS: 64500\n\
//!       0000 \n",
//! );
//! let reply = parser.next_reply().unwrap().unwrap();
//! let protocol = &protocols::parse(&reply).known[0];
//! let session = protocol.bgp.as_ref().unwrap();
//! assert_eq!(session.state, SessionState::Active);
//! assert_eq!(session.neighbor.as_ref().unwrap().interface.as_deref(), Some("eth0"));
//! assert_eq!(session.last_error.as_deref(), Some("Socket: Connection refused"));
//! ```
//!
//! Asking a BIRD that runs:
//!
//! ```no_run
//! # async fn example() -> Result<(), flock_bird::query::QueryError> {
//! use std::time::Duration;
//! use flock_bird::control::Client;
//! use flock_bird::protocols;
//!
//! let client = Client::new("/run/flock/bird.ctl", Duration::from_secs(5));
//! let all = protocols::protocols(&client).await?.known;
//! let up = all.iter().filter_map(|protocol| protocol.bgp.as_ref()).filter(|session| session.is_up());
//! println!("{} sessions are up", up.count());
//! # Ok(()) }
//! ```

use crate::control::{Client, Code, Reply};
use crate::query::{QueryError, Rows, ask};
use crate::time::Moment;

mod capabilities;
mod channel;
mod outline;
mod session;

pub use capabilities::{Capabilities, GracefulRestart};
pub use channel::{Channel, Limit, RouteCounts};
pub use session::{NeighborAddress, NeighborAddressError, Session, SessionState, Timer};

use outline::{Outline, words};

/// Rows of `show protocols`.
const ROW: Code = Code(1002);
/// What `show protocols all` has below a row.
const DETAIL: Code = Code(1006);

/// A protocol of BIRD: a BGP session, the kernel's table, BFD and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// Its name in the configuration.
    pub name: String,
    /// What it is, in BIRD's words: `BGP`, `Kernel`, `BFD`, `Device`, `Static`, …
    pub kind: String,
    /// Its table; `None` where its channels have tables of their own.
    pub table: Option<String>,
    /// How far it is.
    pub state: State,
    /// Since when it is in that state.
    pub since: Moment,
    /// What BIRD says of it beside, in the form of its kind.
    pub info: String,
    /// What the configuration says of it.
    pub description: Option<String>,
    /// The session, if it is BGP.
    pub bgp: Option<Session>,
    /// What it exchanges routes through. Without `all`, BIRD does not tell.
    pub channels: Vec<Channel>,
}

/// How far a protocol or a channel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It does nothing, maybe because it is disabled.
    Down,
    /// It is starting.
    Start,
    /// It works.
    Up,
    /// It is ending.
    Stop,
    /// It has ended, and its routes are being removed.
    Flush,
    /// In BIRD's own word, which is none of these.
    Other(String),
}

impl State {
    fn read(word: &str) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "down" => Self::Down,
            "start" => Self::Start,
            "up" => Self::Up,
            "stop" => Self::Stop,
            "flush" => Self::Flush,
            _ => Self::Other(word.to_owned()),
        }
    }
}

/// Asks BIRD for all of its protocols with everything that it knows of them.
pub async fn protocols(client: &Client) -> Result<Rows<Protocol>, QueryError> {
    Ok(parse(&ask(client, "show protocols all").await?))
}

/// Reads the answer to `show protocols`, with or without `all`.
pub fn parse(reply: &Reply) -> Rows<Protocol> {
    let mut rows = Rows::default();
    // The protocol that details belong to, and what stands above them.
    let mut current: Option<(Protocol, Outline<'_>)> = None;
    for line in reply.lines() {
        match (line.code, &mut current) {
            (ROW, _) => {
                rows.known.extend(current.take().map(|(protocol, _)| protocol));
                match Protocol::of_row(&line.text) {
                    Some(protocol) => current = Some((protocol, Outline::default())),
                    None if line.text.trim().is_empty() => {}
                    None => rows.unknown.push(line.text.clone()),
                }
            }
            (DETAIL, Some((protocol, outline))) => protocol.detail(outline, &line.text),
            _ => {}
        }
    }
    rows.known.extend(current.map(|(protocol, _)| protocol));
    rows
}

impl Protocol {
    /// `%-10s %-10s %-10s %-6s %-12s  %s`: a name may be longer than its column, and the time may
    /// have spaces, but never two in a row.
    fn of_row(row: &str) -> Option<Self> {
        if row.starts_with(char::is_whitespace) {
            return None;
        }
        let ([name, kind, table, state], rest) = words(row)?;
        let (since, info) = rest.split_once("  ").unwrap_or((rest, ""));
        let info = info.trim();
        Some(Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            table: Some(table).filter(|table| *table != "---").map(str::to_owned),
            state: State::read(state),
            since: Moment::read(since.trim()),
            info: info.to_owned(),
            description: None,
            bgp: (kind == "BGP").then(|| Session::of_info(info)),
            channels: Vec::new(),
        })
    }

    fn detail<'a>(&mut self, outline: &mut Outline<'a>, line: &'a str) {
        let Some((above, text)) = outline.place(line) else { return };
        if let Some(name) = channel::heading(text) {
            self.channels.push(Channel::new(name));
            return;
        }
        if above.iter().any(|heading| channel::heading(heading).is_some()) {
            if let Some(channel) = self.channels.last_mut() {
                channel.detail(above.last().unwrap_or(&""), text);
            }
            return;
        }
        let is_of_session = self.bgp.as_mut().is_some_and(|session| session.detail(above, text));
        if !is_of_session && let Some(description) = text.strip_prefix("Description:") {
            self.description = Some(description.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests;
