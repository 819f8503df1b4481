//! ADD.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::annotations::Annotations;
use crate::attachment::{Addresses, Attachment, AttachmentKey, AttachmentState, Netns};
use crate::cni::{Call, CniResult};
use crate::dataplane::DataplaneError;
use crate::handler::{Change, Handler, HandlerError, Node};
use crate::ipam::{AddressRequest, Algorithm, FamilyRequest, IpamError, LeaseOwner};
use crate::pods::PodRef;

/// Where nothing says what the MTU is: that of Ethernet.
const FALLBACK_MTU: u32 = 1500;

/// Of a request's time, what is left for the work after the pod has been waited for.
const TIME_TO_WORK: Duration = Duration::from_secs(2);

impl Handler {
    /// Attaches a container's interface, or answers from the record if that is done
    /// already. `deadline` is when the runtime stops waiting.
    ///
    /// A failed call leaves nothing behind.
    pub async fn add(&self, call: &Call, deadline: Instant) -> Result<CniResult, HandlerError> {
        let path = call.netns.as_deref().ok_or(HandlerError::NoNamespace)?;
        let _serialised = self.locks.lock(&call.key).await;
        self.settle(&call.key).await?;
        let netns = self.backends.dataplane.identify(path).await?;
        if let Some(attachment) = self.existing(&call.key, &netns).await? {
            return Ok(result(call, &attachment));
        }
        self.clear_the_way(&netns, &call.key).await;
        let untold = self.untold();
        let attachment = match self.make(call, netns, deadline).await {
            Ok(attachment) => attachment,
            Err(error) => {
                untold.settle();
                return Err(error);
            }
        };
        // Also one whose address went out of the node's prefixes before it was complete.
        if self.is_announced(&attachment) {
            self.tell(untold, Change::Gain).await;
        } else {
            untold.settle();
        }
        Ok(result(call, &attachment))
    }

    /// The attachment if an earlier ADD made it; what is left of one that did not end
    /// well is taken away first.
    async fn existing(&self, key: &AttachmentKey, netns: &Netns) -> Result<Option<Attachment>, HandlerError> {
        let record = self.backends.store.get(key).await?;
        // What waits for the reaper goes first, also where its record is gone already or
        // could not be marked: the reaper would take the new link for the old one.
        let doomed = self.doomed_at(|doomed| doomed.key == *key).pop();
        let Some(record) = doomed.clone().or(record) else {
            return Ok(None);
        };
        if doomed.is_none() && record.state == AttachmentState::Committed && record.netns.is_same(netns) {
            // Idempotent, and mends what something else may have broken since.
            self.backends.dataplane.attach(&record).await?;
            if self.is_announced(&record) {
                self.announce(Change::Gain).await;
            }
            return Ok(Some(record));
        }
        self.teardown(&record).await?;
        Ok(None)
    }

    /// A deleted attachment whose link still waits for the reaper may be in the way
    /// when the same namespace gets the same interface again.
    async fn clear_the_way(&self, netns: &Netns, key: &AttachmentKey) {
        let in_the_way = self.doomed_at(|doomed| {
            doomed.netns.is_same(netns) && doomed.key.interface == key.interface && doomed.key != *key
        });
        self.reap_now(in_the_way).await;
    }

    async fn make(&self, call: &Call, netns: Netns, deadline: Instant) -> Result<Attachment, HandlerError> {
        let annotations = self.annotations(call, deadline).await?;
        // After the wait: the configuration may have changed meanwhile.
        let node = self.node();
        let request = annotations.request(&node.config.cidrs, &node.config.allowed)?;
        spare_the_node(&node, annotations.anycast())?;
        spare_the_node(&node, &granted(&request))?;
        let owner = LeaseOwner { key: call.key.clone(), pod: call.args.pod.clone() };
        let addresses = self.allocate(&owner, &request).await?;
        let [host_interface, _] = call.key.host_interface_candidates();
        let mut attachment = Attachment {
            key: call.key.clone(),
            state: AttachmentState::Pending,
            network: call.config.name.clone(),
            pod: call.args.pod.clone(),
            pod_uid: call.args.pod_uid.clone(),
            netns,
            host_interface,
            addresses,
            anycast: annotations.anycast().to_vec(),
            mtu: call.config.mtu.or(node.config.mtu).or(node.facts.default_mtu).unwrap_or(FALLBACK_MTU),
            boot_id: self.settings.boot_id.clone(),
            created_ms: self.backends.clock.unix_ms(),
        };
        match self.commit(&mut attachment).await {
            Ok(()) => Ok(attachment),
            Err(error) => {
                if let Err(undo) = self.teardown(&attachment).await {
                    tracing::warn!(error = %undo, "a failed ADD could not be undone at once; the reaper goes on");
                }
                Err(error)
            }
        }
    }

    /// What the runtime handed over, else what the pod source knows; a call that names
    /// no pod has no annotations.
    async fn annotations(&self, call: &Call, deadline: Instant) -> Result<Annotations, HandlerError> {
        if let Some(annotations) = &call.config.pod_annotations {
            return Ok(Annotations::parse(annotations)?);
        }
        let Some(key) = call.args.pod.clone() else {
            return Ok(Annotations::default());
        };
        let wanted = PodRef { key, uid: call.args.pod_uid.clone() };
        let until = deadline.checked_sub(TIME_TO_WORK).unwrap_or(deadline);
        let pod = self.backends.pods.pod(&wanted, until).await?;
        Ok(Annotations::parse(&pod.annotations)?)
    }

    /// An address whose holder is being deleted is free once its link is gone, so
    /// that is done now rather than asking the runtime to come again.
    async fn allocate(
        &self,
        owner: &LeaseOwner,
        request: &AddressRequest,
    ) -> Result<Addresses, HandlerError> {
        if request.algorithm == Algorithm::Stable && owner.pod.is_some() {
            // A pod that was made again at once is given its address back, not the next best one.
            self.reap_now(self.doomed_at(|doomed| doomed.pod == owner.pod)).await;
        }
        let first = self.backends.ipam.allocate(owner, request).await;
        let in_the_way = match &first {
            Err(IpamError::Taken { holder, .. }) => self.doomed_at(|doomed| doomed.key == holder.key),
            Err(IpamError::Exhausted(_)) => self.doomed_at(|_| true),
            _ => Vec::new(),
        };
        if in_the_way.is_empty() {
            return Ok(first?);
        }
        self.reap_now(in_the_way).await;
        Ok(self.backends.ipam.allocate(owner, request).await?)
    }

    /// From the pending record to the committed one.
    async fn commit(&self, attachment: &mut Attachment) -> Result<(), HandlerError> {
        self.backends.store.put(attachment).await?;
        // Not before there is a record: of what has none, what was found is forgotten.
        self.find_readiness(attachment).await;
        match self.backends.dataplane.attach(attachment).await {
            Err(DataplaneError::HostInterfaceTaken { .. }) => {
                self.attach_under_second_name(attachment).await?;
            }
            attached => attached?,
        }
        attachment.state = AttachmentState::Committed;
        self.backends.store.put(attachment).await?;
        Ok(())
    }

    async fn attach_under_second_name(&self, attachment: &mut Attachment) -> Result<(), HandlerError> {
        let [first, second] = attachment.key.host_interface_candidates();
        attachment.host_interface = second.clone();
        self.backends.store.put(attachment).await?;
        match self.backends.dataplane.attach(attachment).await {
            Err(DataplaneError::HostInterfaceTaken { .. }) => {
                Err(HandlerError::NoHostInterface { first, second, key: attachment.key.clone() })
            }
            attached => Ok(attached?),
        }
    }
}

/// The addresses outside the node's prefixes that the pod is to be given.
fn granted(request: &AddressRequest) -> Vec<IpAddr> {
    let ipv6 = match request.ipv6 {
        FamilyRequest::Granted(address) => Some(IpAddr::V6(address)),
        _ => None,
    };
    let ipv4 = match request.ipv4 {
        FamilyRequest::Granted(address) => Some(IpAddr::V4(address)),
        _ => None,
    };
    ipv6.into_iter().chain(ipv4).collect()
}

/// A pod that had an address of the node itself, or of a router, would take it away.
fn spare_the_node(node: &Node, wanted: &[IpAddr]) -> Result<(), IpamError> {
    let peers = node.config.bgp.iter().flat_map(|bgp| &bgp.peers);
    let peers: Vec<IpAddr> = peers.filter_map(|peer| peer.neighbor.address()).collect();
    for address in wanted.iter().copied() {
        if node.facts.addresses.contains(&address) {
            return Err(IpamError::Reserved { address, reason: "one of this node's own addresses" });
        }
        if peers.contains(&address) {
            return Err(IpamError::Reserved {
                address,
                reason: "the address of one of this node's BGP peers",
            });
        }
    }
    Ok(())
}

/// The attachment's own result, after that of the plugins before it in the chain.
fn result(call: &Call, attachment: &Attachment) -> CniResult {
    let own = CniResult::of(attachment);
    match &call.config.prev_result {
        Some(previous) => CniResult::chained(previous, &own),
        None => own,
    }
}
