//! What does not agree between the node's state and the kernel, or the BGP speaker.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::attachment::{Attachment, AttachmentKey};
use crate::dataplane::{AnycastState, NodeDrift, Stray};
use crate::handler::{anycast_routes, exceptions};
use crate::inspection::look::Look;
use crate::inspection::{Difference, Remedy, Spoken};

pub(super) const NODE: &str = "node";
pub(super) const SPEAKER: &str = "BIRD";

impl Look {
    pub(super) fn compare_node(&self, found: &mut Vec<Difference>) {
        let settled = self.kernel.node.iter().filter(|drift| match drift {
            NodeDrift::Anycast { address, .. } | NodeDrift::AnycastUnexpected { address, .. } => {
                self.is_settled(*address)
            }
            NodeDrift::Stray(Stray::Route { interface: Some(interface), .. }) => {
                self.is_quiet_behind(interface)
            }
            NodeDrift::Stray(Stray::Neighbour { interface, .. }) => self.is_quiet_behind(interface.as_str()),
            _ => true,
        });
        found.extend(settled.map(|drift| Difference::new(NODE, drift, Remedy::Repair)));
    }

    pub(super) fn compare_speaker(&self, found: &mut Vec<Difference>) {
        let Some(bgp) = &self.config.bgp else { return };
        let Spoken { prefixes, peers } = match &self.spoken {
            None => return,
            Some(Err(reason)) => {
                let remedy =
                    Remedy::ByHand("start BIRD with the control socket that the agent uses".to_owned());
                found.push(Difference::new(SPEAKER, reason, remedy));
                return;
            }
            Some(Ok(spoken)) => spoken,
        };
        // Offline nobody writes BIRD's configuration.
        let remedy = || match &self.views {
            Some(_) => Remedy::Repair,
            None => Remedy::ByHand("start flock-agent, which configures BIRD".to_owned()),
        };
        let expected = self.announced();
        for prefix in expected.difference(prefixes).filter(|prefix| self.is_settled_prefix(prefix)) {
            let what = format!("it has not taken {prefix} from the kernel, so that it is not announced");
            found.push(Difference::new(SPEAKER, what, remedy()));
        }
        for prefix in prefixes.difference(&expected).filter(|prefix| self.is_settled_prefix(prefix)) {
            let what = format!("it has taken {prefix}, which is not to be announced");
            found.push(Difference::new(SPEAKER, what, remedy()));
        }
        let configured: BTreeSet<&str> = bgp.peers.iter().map(|peer| peer.name.as_str()).collect();
        let known: BTreeSet<&str> = peers.iter().map(String::as_str).collect();
        for peer in configured.difference(&known) {
            let what = format!("it is not configured with the peer {peer}");
            found.push(Difference::new(SPEAKER, what, remedy()));
        }
        for peer in known.difference(&configured) {
            let what = format!("it is configured with the peer {peer}, which the NodeConfig does not name");
            found.push(Difference::new(SPEAKER, what, remedy()));
        }
    }

    /// What the network is to hear.
    fn announced(&self) -> BTreeSet<IpNet> {
        let cidrs = self.config.cidrs;
        let committed = || self.after().records.values().filter(|record| self.is_committed(record));
        let is_ready = |record: &Attachment| self.kernel.ready.contains(&record.key);
        let routes = anycast_routes(committed(), &self.config.allowed, is_ready, &self.kernel.withdrawing);
        let anycast = routes
            .into_iter()
            .filter(|route| route.state == AnycastState::Announced)
            .map(|route| route.address);
        let hosts = anycast.chain(exceptions(committed(), cidrs));
        hosts.map(IpNet::from).chain(cidrs.iter()).collect()
    }

    fn is_settled_prefix(&self, prefix: &IpNet) -> bool {
        self.config.cidrs.iter().any(|summary| summary == *prefix) || self.is_settled(prefix.addr())
    }

    /// Whether nothing happened to any attachment that has to do with the address.
    fn is_settled(&self, address: IpAddr) -> bool {
        let has = |record: &&Attachment| {
            record.anycast.contains(&address) || record.addresses.iter().any(|own| own == address)
        };
        let withdrawn = self.kernel.withdrawing.get(&address);
        let mut views = self.views.iter().flatten();
        views.all(|view| view.withdrawing.get(&address) == withdrawn)
            && self.all_records().filter(has).all(|record| self.is_steady(&record.key))
    }

    fn is_quiet_behind(&self, interface: &str) -> bool {
        let is_there = |record: &&Attachment| record.host_interface.as_str() == interface;
        let keys: BTreeSet<&AttachmentKey> =
            self.all_records().filter(is_there).map(|record| &record.key).collect();
        keys.into_iter().all(|key| self.is_steady(key))
    }

    fn all_records(&self) -> impl Iterator<Item = &Attachment> {
        self.before().records.values().chain(self.after().records.values())
    }
}
