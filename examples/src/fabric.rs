//! The network of the demo and of the tests between nodes: nodes, each on a link
//! of its own to one top-of-rack router.
//!
//! | | IPv6 | IPv4 | AS |
//! |---|---|---|---|
//! | router `tor` | 2001:db8:ffff::1 | 192.0.2.254 | 64500 |
//! | link to node *n* | 2001:db8:ffff:*n*::/64 | 192.0.2.(4*n*)/30 | |
//! | pods of node *n* | 2001:db8:*n*::/64 | 10.0.*n*.0/24 | 64500 + *n* |
//! | anycast | 2001:db8:a::/48 | 198.51.100.0/24 | |

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde_json::{Value, json};

use crate::Result;
use crate::netns::{End, Netns, link};
use crate::node::Node;
use crate::router::{Neighbour, Router};

/// The router's autonomous system number (RFC 5398 keeps 64496 to 64511 for documents).
pub const ROUTER_ASN: u32 = 64_500;
/// The router's own addresses.
pub(crate) const ROUTER: (Ipv6Addr, Ipv4Addr) =
    (Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1), Ipv4Addr::new(192, 0, 2, 254));
/// What pods may serve, of each family.
pub const ANYCAST_PREFIXES: [&str; 2] = ["2001:db8:a::/48", "198.51.100.0/24"];
/// Where the files of a fabric are, in the tmpfs of the sandbox.
pub const DIR: &str = "/run/lab";

/// Nodes and their router. The namespaces are `tor`, `node1`, `node2`, ….
#[derive(Debug)]
pub struct Fabric {
    /// The top-of-rack router.
    pub router: Router,
    /// In the order of their numbers, from 1.
    pub nodes: Vec<Node>,
}

/// The plan for one node: everything follows from its number.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    number: u8,
}

impl Plan {
    /// For node `number`, 1 to 9.
    pub fn new(number: u8) -> Self {
        Self { number }
    }

    /// Its name.
    pub fn name(self) -> String {
        format!("node{}", self.number)
    }

    /// Its autonomous system number.
    pub fn asn(self) -> u32 {
        ROUTER_ASN + u32::from(self.number)
    }

    /// Its pods' prefix.
    pub fn cidr6(self) -> String {
        format!("2001:db8:{}::/64", self.number)
    }

    /// Its pods' prefix.
    pub fn cidr4(self) -> String {
        format!("10.0.{}.0/24", self.number)
    }

    /// Another prefix, which a cluster's node may move to.
    pub fn second_cidr6(self) -> String {
        format!("2001:db8:{}0::/64", self.number)
    }

    /// Another prefix, which a cluster's node may move to.
    pub fn second_cidr4(self) -> String {
        format!("10.1.{}.0/24", self.number)
    }

    /// The two ends of its link, the router's first.
    pub fn link6(self) -> (Ipv6Addr, Ipv6Addr) {
        let end = |last| Ipv6Addr::new(0x2001, 0xdb8, 0xffff, u16::from(self.number), 0, 0, 0, last);
        (end(1), end(2))
    }

    /// The two ends of its link, the router's first.
    pub fn link4(self) -> (Ipv4Addr, Ipv4Addr) {
        let end = |last| Ipv4Addr::new(192, 0, 2, 4 * self.number + last);
        (end(1), end(2))
    }

    /// Its NodeConfig manifest.
    pub fn node_config(self) -> Value {
        json!({
            "apiVersion": "flock.fritzlab.net/v1alpha1",
            "kind": "NodeConfig",
            "metadata": {"name": self.name()},
            "spec": {
                "cidr6": self.cidr6(),
                "cidr4": self.cidr4(),
                "anycastPrefixes": ANYCAST_PREFIXES,
                "bgp": {
                    "asn": self.asn(),
                    "routerId": self.link4().1,
                    "peers": [
                        {"name": "tor-v6", "address": self.link6().0, "asn": ROUTER_ASN},
                        {"name": "tor-v4", "address": self.link4().0, "asn": ROUTER_ASN},
                    ],
                },
            },
        })
    }

    /// What the router has to know of it.
    pub(crate) fn neighbour(self) -> Neighbour {
        let [anycast6, anycast4] = ANYCAST_PREFIXES;
        Neighbour {
            name: self.name(),
            asn: self.asn(),
            ipv6: self.link6().1,
            ipv4: self.link4().1,
            accepted6: vec![self.cidr6(), format!("{anycast6}{{128,128}}")],
            accepted4: vec![self.cidr4(), format!("{anycast4}{{32,32}}")],
        }
    }
}

impl Fabric {
    /// Makes the namespaces and links, and starts the router. The nodes are not started.
    pub fn build(nodes: u8) -> Result<Self> {
        let dir = Path::new(DIR);
        let tor = Netns::create("tor")?;
        let plans: Vec<Plan> = (1..=nodes).map(Plan::new).collect();
        let nodes = plans.iter().map(|plan| build_node(*plan, &tor, dir)).collect::<Result<_>>()?;
        let neighbours: Vec<Neighbour> = plans.iter().map(|plan| plan.neighbour()).collect();
        let router = Router::start(tor, &dir.join("tor"), ROUTER_ASN, ROUTER, &neighbours)?;
        Ok(Self { router, nodes })
    }

    /// The logs of everything that runs here, for a look after a failure.
    pub fn logs() -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(DIR).into_iter().flatten().flatten();
        let mut logs: Vec<_> = entries
            .flat_map(|entry| ["agent.log", "bird.log"].map(|log| entry.path().join(log)))
            .filter(|log| log.exists())
            .collect();
        logs.sort();
        logs
    }
}

fn build_node(plan: Plan, tor: &Netns, dir: &Path) -> Result<Node> {
    let name = plan.name();
    let netns = join(plan, &name, tor)?;
    Node::create(netns, &dir.join(&name), &plan.node_config())
}

/// Makes the namespace `name` and its link to the router with the addresses of `plan`.
/// There the link is `uplink`, on the router it is named as the namespace.
pub(crate) fn join(plan: Plan, name: &str, tor: &Netns) -> Result<Netns> {
    let netns = Netns::create(name)?;
    link(End { netns: tor, interface: name }, End { netns: &netns, interface: "uplink" })?;
    let ((tor6, own6), (tor4, own4)) = (plan.link6(), plan.link4());
    for (end, interface, ipv6, ipv4) in [(tor, name, tor6, tor4), (&netns, "uplink", own6, own4)] {
        end.address(interface, &format!("{ipv6}/64"))?;
        end.address(interface, &format!("{ipv4}/30"))?;
    }
    Ok(netns)
}
