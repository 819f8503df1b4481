//! A top-of-rack router: a namespace that forwards, with a BIRD that speaks
//! external BGP with each node, one session for each family.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::bird::Bird;
use crate::netns::Netns;
use crate::{LabError, Result};

/// A neighbour that the router takes routes from.
#[derive(Debug, Clone)]
pub struct Neighbour {
    /// Letters, digits and `_`.
    pub name: String,
    /// Its autonomous system number.
    pub asn: u32,
    /// Its end of the link.
    pub ipv6: Ipv6Addr,
    /// Its end of the link.
    pub ipv4: Ipv4Addr,
    /// The prefixes that are accepted from it, as BIRD writes sets: `10.0.1.0/24`, `198.51.100.0/24{32,32}`.
    pub accepted6: Vec<String>,
    /// The same for IPv4.
    pub accepted4: Vec<String>,
}

/// The router.
#[derive(Debug)]
pub struct Router {
    /// Where it is.
    pub netns: Netns,
    /// Its routing daemon.
    pub bird: Bird,
    /// Its own address, announced to the nodes.
    pub ipv6: Ipv6Addr,
    /// Its own address, announced to the nodes.
    pub ipv4: Ipv4Addr,
    /// Its autonomous system number.
    pub asn: u32,
}

impl Router {
    /// Starts a router in a namespace that is linked to its neighbours already.
    /// Its files are kept in `dir`.
    pub fn start(
        netns: Netns,
        dir: &Path,
        asn: u32,
        (ipv6, ipv4): (Ipv6Addr, Ipv4Addr),
        neighbours: &[Neighbour],
    ) -> Result<Self> {
        fs::create_dir_all(dir).map_err(LabError::file("create", dir))?;
        netns.forward()?;
        netns.address("lo", &format!("{ipv6}/128"))?;
        netns.address("lo", &format!("{ipv4}/32"))?;
        let file = dir.join("bird.conf");
        fs::write(&file, configuration(asn, ipv4, neighbours)).map_err(LabError::file("write", &file))?;
        let bird = Bird::start(&netns, &file, &dir.join("bird.ctl"), &dir.join("bird.log"))?;
        Ok(Self { netns, bird, ipv6, ipv4, asn })
    }

    /// Its own addresses, IPv6 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv6.into(), self.ipv4.into()]
    }

    /// The interfaces that the kernel spreads packets for `target` over.
    pub fn next_hops(&self, target: IpAddr) -> Result<Vec<String>> {
        let family = if target.is_ipv6() { "-6" } else { "-4" };
        let said = self.netns.ip(&["-o", family, "route", "show", &target.to_string()])?;
        let mut words = said.split_whitespace();
        let mut interfaces = Vec::new();
        while let Some(word) = words.next() {
            if word == "dev" {
                interfaces.extend(words.next().map(str::to_owned));
            }
        }
        interfaces.sort();
        interfaces.dedup();
        Ok(interfaces)
    }

    /// The interface that the kernel takes for packets to `target` from here.
    pub fn next_hop(&self, target: IpAddr) -> Result<String> {
        let said = self.netns.ip(&["-o", "route", "get", &target.to_string()])?;
        let interface = said.split_whitespace().skip_while(|word| *word != "dev").nth(1);
        interface
            .map(str::to_owned)
            .ok_or_else(|| LabError::Unexpected(format!("the route to {target} has no interface: {said}")))
    }
}

fn configuration(asn: u32, id: Ipv4Addr, neighbours: &[Neighbour]) -> String {
    let mut text = format!(
        "\
log stderr all;
router id {id};

protocol device {{}}
# The router's own addresses.
protocol direct {{ interface \"lo\"; ipv4; ipv6; }}
# Equal routes from several nodes are used together.
protocol kernel {{ merge paths on; ipv6 {{ import none; export all; }}; }}
protocol kernel {{ merge paths on; ipv4 {{ import none; export all; }}; }}
"
    );
    for neighbour in neighbours {
        for (family, address, accepted) in [
            ("6", IpAddr::from(neighbour.ipv6), &neighbour.accepted6),
            ("4", IpAddr::from(neighbour.ipv4), &neighbour.accepted4),
        ] {
            // Writing to a String does not fail.
            let _ = write!(
                text,
                "
protocol bgp {name}_v{family} {{
  local as {asn};
  neighbor {address} as {peer};
  direct;
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 2;
  ipv{family} {{
    import where net ~ [ {accepted} ];
    export where source ~ [ RTS_BGP, RTS_DEVICE ];
  }};
}}
",
                name = neighbour.name,
                peer = neighbour.asn,
                accepted = accepted.join(", "),
            );
        }
    }
    text
}
