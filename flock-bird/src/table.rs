//! What BIRD has of Flock's: the routes that it took from the kernel, and the peers that it is
//! configured with.

use std::collections::BTreeSet;

use flock_core::inspection::Spoken;
use ipnet::IpNet;

use crate::control::{Client, Code, ControlError, Reply};
use crate::render::{kernel_protocol, peer_of};

/// Rows of `show route`.
const ROUTE: Code = Code(1007);
/// Rows of `show protocols`.
const PROTOCOL: Code = Code(1002);

/// Why that can't be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// BIRD gave no reply.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// BIRD does not know what was asked for: its configuration is not the one that Flock writes.
    #[error(
        "BIRD does not answer {command:?}: {message}; does it run with the configuration that flock-agent writes?"
    )]
    Refused {
        /// What it was asked.
        command: String,
        /// Its own words.
        message: String,
    },
}

/// Asks BIRD.
pub async fn spoken(client: &Client) -> Result<Spoken, TableError> {
    let mut prefixes = BTreeSet::new();
    for version in [4, 6] {
        let reply = ask(client, format!("show route protocol {}", kernel_protocol(version))).await?;
        prefixes.extend(rows(&reply, ROUTE).filter_map(|row| row.parse::<IpNet>().ok()));
    }
    let reply = ask(client, "show protocols".to_owned()).await?;
    let peers = rows(&reply, PROTOCOL).filter_map(peer_of).map(str::to_owned).collect();
    Ok(Spoken { prefixes, peers })
}

async fn ask(client: &Client, command: String) -> Result<Reply, TableError> {
    let reply = client.ask(&command).await?;
    if reply.is_success() {
        return Ok(reply);
    }
    Err(TableError::Refused { command, message: reply.text().to_owned() })
}

/// The first word of each row; continuations of a row begin with a space.
fn rows(reply: &Reply, code: Code) -> impl Iterator<Item = &str> {
    let rows = reply.lines().filter(move |line| line.code == code);
    rows.filter_map(|line| line.text.split(' ').next()).filter(|word| !word.is_empty())
}
