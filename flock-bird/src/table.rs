//! What BIRD has of Flock's: the routes that it took from the kernel, and the peers that it is
//! configured with.

use std::collections::BTreeSet;

use flock_core::inspection::Spoken;
use ipnet::IpNet;

use crate::control::{Client, Reply};
use crate::query::{QueryError, ask};
use crate::render::{kernel_protocol, peer_of};
use crate::{protocols, routes};

/// Asks BIRD.
pub async fn spoken(client: &Client) -> Result<Spoken, QueryError> {
    let mut spoken = Spoken::default();
    for version in [4, 6] {
        let reply = ask(client, &format!("show route protocol {}", kernel_protocol(version))).await?;
        spoken.prefixes.extend(prefixes(&reply));
    }
    spoken.peers = peers(&ask(client, "show protocols").await?);
    Ok(spoken)
}

/// The prefixes in an answer to `show route`.
pub fn prefixes(reply: &Reply) -> BTreeSet<IpNet> {
    routes::parse(reply).known.iter().map(|route| route.prefix).collect()
}

/// The names of Flock's peers in an answer to `show protocols`.
pub fn peers(reply: &Reply) -> BTreeSet<String> {
    let protocols = protocols::parse(reply).known;
    protocols.iter().filter_map(|protocol| peer_of(&protocol.name)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::reply;

    #[test]
    fn routes_are_told_by_their_prefixes() {
        let reply = reply(
            "1007-Table master4:\n 10.0.1.0/24          blackhole [flock_kernel4 10:00:00.000] (10)\n\
             1008-\tType: inherit univ\n1007-10.0.9.1/32         unicast [flock_kernel4] (10)\n \tdev eth0\n0000 \n",
        );
        let expected = ["10.0.1.0/24", "10.0.9.1/32"].map(|prefix| prefix.parse().unwrap());
        assert_eq!(prefixes(&reply), expected.into());
    }

    #[test]
    fn peers_are_the_protocols_that_flock_could_have_named() {
        let reply = reply(
            "2002-Name       Proto      Table      State  Since         Info\n\
             1002-device1    Device     ---        up     10:00:00.000\n peer_tor-1     BGP        ---        up\n \
             peer_\u{1b}[2J BGP --- up\n peer_a/b BGP --- up\n peer_ BGP --- up\n0000 \n",
        );
        assert_eq!(peers(&reply), ["tor-1".to_owned()].into());
    }
}
