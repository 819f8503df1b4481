//! What follows from the node's configuration, at the start and at each change of it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use ipnet::IpNet;

use crate::drain::DrainPhase;
use crate::handler::{Change, Handler, HandlerError, Node};
use crate::node_config::{Bgp, NodeConfig};

impl Handler {
    /// Puts another configuration of the same node in force: pods that come get addresses from
    /// its prefixes, summaries and peers are those that it names.
    ///
    /// Pods that are there keep their addresses. Those outside the new prefixes are announced
    /// each by itself until they are released, so that they stay reachable, also when the old
    /// prefix is another node's by now. On failure the call can be repeated; what was done of
    /// it stays.
    ///
    /// Takes [`Settings::summary_grace`](super::Settings::summary_grace) where a prefix goes.
    /// Cancel safe: what is left of the old prefixes in the kernel then goes at the next start.
    pub async fn reconfigure(&self, config: NodeConfig) -> Result<(), HandlerError> {
        let _alone = self.configuring.lock().await;
        let old = self.summaries();
        let untold = self.untold();
        self.configure(config).await?;
        let new = self.summaries();
        // A kernel that lost the old ones at once would have them withdrawn before what is
        // still in use of them is announced.
        self.backends.dataplane.set_summaries(&old.union(&new).copied().collect()).await?;
        self.tell(untold, Change::Gain).await;
        if !old.is_subset(&new) {
            tokio::time::sleep(self.settings.summary_grace).await;
        }
        Ok(self.backends.dataplane.set_summaries(&new).await?)
    }

    /// Has new pods attached by `config`.
    pub(super) async fn configure(&self, config: NodeConfig) -> Result<(), HandlerError> {
        let facts = self.backends.dataplane.prepare().await?;
        let derived = config.bgp.as_ref().is_some_and(|bgp| bgp.router_id.is_none());
        if derived && facts.first_global_ipv4.is_none() {
            tracing::warn!(
                "the node has no global IPv4 address to take its BGP router id from, so it is derived from the \
                 node's name; set spec.bgp.routerId if another router happens to have the same"
            );
        }
        config.bgp.iter().for_each(tell_of_refused_peers);
        self.backends.ipam.configure(config.cidrs, &facts.addresses).await?;
        self.set_node(Node { config, facts });
        Ok(())
    }

    /// Tells the kernel and the network what the node has: the last step of the start, when
    /// nothing but this is left to be done before pods are served. What an earlier agent has
    /// announced stays announced until then. Can be repeated.
    pub async fn publish(&self) -> Result<(), HandlerError> {
        self.backends.dataplane.set_summaries(&self.summaries()).await?;
        self.published.store(true, Ordering::Release);
        self.announce(Change::Gain).await;
        Ok(())
    }

    /// Has the announcer withdraw everything where the node is drained so far already: what the kernel has
    /// by [`publish`](Self::publish), a speaker tells by what it knew before. Comes before that; once the
    /// speaker has taken it, nobody hears of a node that boots while it is drained.
    pub async fn withhold(&self) {
        if self.drain_phase() == Some(DrainPhase::Withdrawn) {
            self.published.store(true, Ordering::Release);
            self.announce(Change::Loss).await;
        }
    }

    pub(super) fn summaries(&self) -> BTreeSet<IpNet> {
        self.node().config.cidrs.iter().collect()
    }
}

/// The others are announced to.
fn tell_of_refused_peers(bgp: &Bgp) {
    for refused in &bgp.refused {
        let reason = refused.problems.join("; ");
        tracing::error!(
            peer = refused.name,
            reason,
            "this BGP peer of the NodeConfig can't be used: there is no session with it"
        );
    }
    for peer in bgp.peers.iter().filter(|peer| !peer.is_resolved()) {
        tracing::error!(
            peer = peer.name,
            "this BGP peer has a password that was not read: there is no session with it"
        );
    }
}
