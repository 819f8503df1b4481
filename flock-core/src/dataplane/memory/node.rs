//! What the model has beside links, and what somebody else can do to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{MemoryDataplane, Model, Served};
use crate::attachment::{Attachment, GATEWAY_V4};
use crate::dataplane::{AnycastRoute, Disturbance, NodeDrift, NodeWanted, Stray};
use crate::name::InterfaceName;

/// What somebody else has changed in the node's namespace.
#[derive(Debug, Default)]
pub(super) struct Damage {
    gateway_removed: bool,
    /// Settings with other values than they should have.
    settings: BTreeMap<String, String>,
    /// Permanent neighbour entries that no pod is behind.
    neighbours: BTreeSet<(InterfaceName, IpAddr)>,
}

/// What somebody else does, for tests of what Flock then does.
impl MemoryDataplane {
    /// Says that somebody else may have changed something, whether he did or not.
    pub fn disturb(&self, disturbance: Disturbance) {
        self.lock().disturbance.merge(disturbance);
        self.noticed.notify_one();
    }

    /// Takes away the routes over a link, as somebody else would.
    pub fn lose_routes(&self, interface: &InterfaceName) {
        self.lock().routes.retain(|_, over| over != interface);
        self.disturb(Disturbance::of_interface(interface.clone()));
    }

    /// Takes away a link and what is on it, as somebody else would.
    pub fn lose_link(&self, interface: &InterfaceName) {
        self.lock().remove_link(interface);
        self.disturb(Disturbance { node: true, ..Disturbance::of_interface(interface.clone()) });
    }

    /// Takes away the blackhole routes and those to anycast addresses, as somebody else would.
    pub fn lose_node_routes(&self) {
        let mut model = self.lock();
        model.summaries.clear();
        model.anycast.clear();
        drop(model);
        self.disturb(Disturbance::of_node());
    }

    /// Takes a route to a pod's own address away.
    pub fn remove_route(&self, prefix: IpNet) {
        self.lock().routes.remove(&prefix);
    }

    /// Makes a route of Flock over an interface, in place of the one that there was.
    pub fn add_route(&self, prefix: IpNet, interface: InterfaceName) {
        self.lock().routes.insert(prefix, interface);
    }

    /// Makes a permanent neighbour entry on a link.
    pub fn add_neighbour(&self, interface: InterfaceName, address: IpAddr) {
        self.lock().damage.neighbours.insert((interface, address));
    }

    /// Takes the pods' IPv4 gateway from the node, until [`prepare`](super::Dataplane::prepare).
    pub fn remove_gateway(&self) {
        self.lock().damage.gateway_removed = true;
    }

    /// Gives `net.ipv4.ip_forward` and the like another value than `1`, until
    /// [`prepare`](super::Dataplane::prepare).
    pub fn change_setting(&self, name: &str, value: &str) {
        self.lock().damage.settings.insert(name.to_owned(), value.to_owned());
    }
}

impl Model {
    /// What preparing the node mends.
    pub(super) fn prepare(&mut self) {
        self.damage.gateway_removed = false;
        self.damage.settings.clear();
    }

    pub(super) fn node_differences(&self, wanted: &NodeWanted) -> Vec<NodeDrift> {
        let mut found = Vec::new();
        found.extend(wanted.summaries.difference(&self.summaries).copied().map(NodeDrift::SummaryMissing));
        found.extend(self.summaries.difference(&wanted.summaries).copied().map(NodeDrift::SummaryUnexpected));
        self.anycast_differences(&wanted.anycast, &mut found);
        if self.damage.gateway_removed {
            found.push(NodeDrift::GatewayMissing(IpAddr::V4(GATEWAY_V4)));
        }
        found.extend(self.damage.settings.iter().map(|(name, value)| NodeDrift::Setting {
            name: name.clone(),
            expected: "1".to_owned(),
            found: value.clone(),
        }));
        found.extend(self.strays(&wanted.attachments).into_iter().map(NodeDrift::Stray));
        found
    }

    fn anycast_differences(&self, wanted: &[AnycastRoute], differences: &mut Vec<NodeDrift>) {
        let names = |served: &Served| -> BTreeSet<String> {
            served.servers.iter().map(|server| server.host_interface.to_string()).collect()
        };
        let wanted = self.anycast_of(wanted);
        for (address, expected) in &wanted {
            // One in another state is none that was wanted.
            let found = self.anycast.get(address).filter(|found| found.state == expected.state);
            if found != Some(expected) {
                differences.push(NodeDrift::Anycast {
                    address: *address,
                    state: expected.state,
                    expected: names(expected),
                    found: found.map(names).unwrap_or_default(),
                });
            }
        }
        for (address, found) in &self.anycast {
            if wanted.get(address).is_none_or(|expected| expected.state != found.state) {
                differences.push(NodeDrift::AnycastUnexpected { address: *address, state: found.state });
            }
        }
    }

    fn strays(&self, attachments: &[Attachment]) -> Vec<Stray> {
        let on = |interface: &InterfaceName| -> Vec<&Attachment> {
            attachments.iter().filter(|attachment| attachment.host_interface == *interface).collect()
        };
        let is_link = |interface: &InterfaceName| {
            self.links.get(interface).is_some_and(|link| link.attachment.is_some())
        };
        let routes = self.routes.iter().filter(|(prefix, interface)| match &*on(interface) {
            // Otherwise it goes with the link.
            [] => !is_link(interface),
            those => !those.iter().flat_map(|made| made.addresses.prefixes()).any(|own| own == **prefix),
        });
        let routes = routes.map(|(prefix, interface)| Stray::Route {
            prefix: *prefix,
            interface: Some(interface.to_string()),
        });
        let neighbours = self.damage.neighbours.iter().filter(|(interface, address)| {
            let those = on(interface);
            let own = those.iter().flat_map(|made| made.addresses.iter().chain(made.anycast.iter().copied()));
            !those.is_empty() && own.into_iter().all(|own| own != *address)
        });
        let neighbours = neighbours
            .map(|(interface, address)| Stray::Neighbour { interface: interface.clone(), address: *address });
        routes.chain(neighbours).collect()
    }

    pub(super) fn remove_strays(&mut self, strays: &[Stray]) {
        for stray in strays {
            match stray {
                Stray::Route { prefix, interface } => {
                    let same = |over: &InterfaceName| interface.as_deref() == Some(over.as_str());
                    if self.routes.get(prefix).is_some_and(same) {
                        self.routes.remove(prefix);
                    }
                }
                Stray::Neighbour { interface, address } => {
                    self.damage.neighbours.remove(&(interface.clone(), *address));
                }
            }
        }
    }
}
