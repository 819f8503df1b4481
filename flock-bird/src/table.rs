//! What BIRD has of Flock's: the routes that it took from the kernel, and the peers that it is
//! configured with.

use std::collections::BTreeSet;

use flock_core::excerpt;
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
        /// Its own words, as an [`excerpt`].
        message: String,
    },
}

/// Asks BIRD.
pub async fn spoken(client: &Client) -> Result<Spoken, TableError> {
    let mut prefixes = BTreeSet::new();
    for version in [4, 6] {
        let reply = ask(client, format!("show route protocol {}", kernel_protocol(version))).await?;
        prefixes.extend(self::prefixes(&reply));
    }
    let reply = ask(client, "show protocols".to_owned()).await?;
    let peers = peers(&reply).map(str::to_owned).collect();
    Ok(Spoken { prefixes, peers })
}

/// The prefixes in an answer to `show route`.
pub fn prefixes(reply: &Reply) -> impl Iterator<Item = IpNet> {
    rows(reply, ROUTE).filter_map(|row| row.parse().ok())
}

/// The names of Flock's peers in an answer to `show protocols`.
pub fn peers(reply: &Reply) -> impl Iterator<Item = &str> {
    rows(reply, PROTOCOL).filter_map(peer_of)
}

async fn ask(client: &Client, command: String) -> Result<Reply, TableError> {
    let reply = client.ask(&command).await?;
    if reply.is_success() {
        return Ok(reply);
    }
    let message = excerpt::line(reply.text()).to_string();
    Err(TableError::Refused { command, message })
}

/// The first word of each row; continuations of a row begin with a space.
fn rows(reply: &Reply, code: Code) -> impl Iterator<Item = &str> {
    let rows = reply.lines().filter(move |line| line.code == code);
    rows.filter_map(|line| line.text.split(' ').next()).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::reply;

    #[test]
    fn routes_are_the_first_words_of_their_rows() {
        let reply = reply(
            "1007-Table master4:\n 10.0.1.0/24          blackhole [flock_kernel4 10:00:00.000] (10)\n\
             1008-\tType: inherit univ\n1007-10.0.9.1/32         unicast [flock_kernel4] (10)\n \tdev eth0\n0000 \n",
        );
        let expected: Vec<IpNet> =
            ["10.0.1.0/24", "10.0.9.1/32"].map(|prefix| prefix.parse().unwrap()).into();
        assert_eq!(prefixes(&reply).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn peers_are_the_protocols_that_flock_could_have_named() {
        let reply = reply(
            "2002-Name       Proto      Table      State  Since         Info\n\
             1002-device1    Device     ---        up     10:00:00.000\n peer_tor-1     BGP        ---        up\n \
             peer_\u{1b}[2J BGP\n peer_a/b BGP\n peer_ BGP\n0000 \n",
        );
        assert_eq!(peers(&reply).collect::<Vec<_>>(), ["tor-1"]);
    }
}
