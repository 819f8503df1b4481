//! Making an attachment.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant};

use flock_core::attachment::{Attachment, GATEWAY_V6, MacAddr, MacPair};
use flock_core::dataplane::{DataplaneError, Drift, Side};
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use rustix::io::Errno;
use tracing::trace_span;

use crate::conversation::{Conversation, Request};
use crate::facts::LinkFacts;
use crate::links::{find_link, kernel, link_by_index, link_of, perform, remove, vanished};
use crate::messages::{self, Use, VethEnd};
use crate::netns::Namespace;
use crate::pod::{PodSide, link_local_net};
use crate::routes::take_over;
use crate::sysctl::not_set;
use crate::worker::Worker;

/// The kernel does the work that a change of carrier needs in the background,
/// usually before anybody can ask for it. More than this and something is wrong.
const CARRIER_DEADLINE: Duration = Duration::from_secs(2);

/// As for the carrier: the kernel begins to take packets for a new IPv6 address in the background.
const ADDRESS_DEADLINE: Duration = Duration::from_secs(2);

/// Between two looks at work of the kernel's that takes microseconds, unless the machine is busy.
const LOOK_AGAIN: Duration = Duration::from_micros(250);

impl Worker {
    /// Makes what is missing of `attachment`: nothing, all, or a part.
    ///
    /// `source` is the address that the node talks to pods from over IPv4
    /// where it has none of its own.
    pub(crate) fn attach(
        &mut self,
        attachment: &Attachment,
        source: Option<Ipv4Addr>,
    ) -> Result<(), DataplaneError> {
        let (namespace, mut pod) = trace_span!("1 open the namespace").in_scope(|| {
            let namespace = match Namespace::open(&attachment.netns) {
                Ok(namespace) => namespace,
                Err(out_of_reach) => {
                    self.ready_host_side(attachment, source)?;
                    return Err(out_of_reach);
                }
            };
            let pod = self.converse_in(&namespace).map_err(|source| entering(attachment, source))?;
            Ok((namespace, pod))
        })?;
        let host =
            trace_span!("2 make the veth").in_scope(|| self.make_veth(attachment, &namespace, &mut pod))?;
        trace_span!("3 host link").in_scope(|| self.ready_host_link(attachment, &host))?;
        let pod_index = host.peer.ok_or_else(|| vanished(attachment.host_interface.as_str()))?;
        trace_span!("4 pod side")
            .in_scope(|| self.ready_pod_side(attachment, &namespace, &mut pod, pod_index))?;
        trace_span!("5 host routes").in_scope(|| self.ready_host_routes(attachment, host.index, source))?;
        trace_span!("6 addresses taken")
            .in_scope(|| self.await_addresses(attachment, &host, &mut pod, pod_index))
    }

    /// Makes what is missing of an attachment of which `drifts` were found. The pod's side is
    /// not looked at where nothing of it is missing, which takes a quarter of the time.
    pub(crate) fn mend(
        &mut self,
        attachment: &Attachment,
        drifts: &[Drift],
        source: Option<Ipv4Addr>,
    ) -> Result<(), DataplaneError> {
        if drifts.iter().all(is_of_the_node) && self.ready_host_side(attachment, source)? {
            return Ok(());
        }
        self.attach(attachment, source)
    }

    /// The host side alone, of a link that is there: the pod may live on in a namespace that
    /// can't be found any more. Whether the link is there.
    fn ready_host_side(
        &mut self,
        attachment: &Attachment,
        source: Option<Ipv4Addr>,
    ) -> Result<bool, DataplaneError> {
        let name = attachment.host_interface.as_str();
        let found = find_link(&mut self.node, name)?;
        let Some(host) = found.filter(|link| link.is_host_side_of(&attachment.key)) else {
            return Ok(false);
        };
        adjust(&mut self.node, &host, attachment.key.mac_addresses().host, attachment.mtu)?;
        self.ready_host_link(attachment, &host)?;
        self.ready_host_routes(attachment, host.index, source)?;
        await_local(&mut self.node, host.index, vec![GATEWAY_V6], name)?;
        Ok(true)
    }

    /// Until both sides take packets for their IPv6 addresses.
    fn await_addresses(
        &mut self,
        attachment: &Attachment,
        host: &LinkFacts,
        pod: &mut Conversation,
        pod_index: u32,
    ) -> Result<(), DataplaneError> {
        let inside = PodSide::of(attachment).addresses().filter_map(ipv6).collect();
        await_local(pod, pod_index, inside, attachment.key.interface.as_str())?;
        await_local(&mut self.node, host.index, vec![GATEWAY_V6], attachment.host_interface.as_str())
    }

    /// The host side, made now or before.
    fn make_veth(
        &mut self,
        attachment: &Attachment,
        namespace: &Namespace,
        pod: &mut Conversation,
    ) -> Result<LinkFacts, DataplaneError> {
        if let Some(host) = self.create_veth(attachment, namespace)? {
            return Ok(host);
        }
        let found = find_link(&mut self.node, attachment.host_interface.as_str())?;
        let Some(host) = found.map_or_else(|| self.find_elsewhere(attachment, pod), |host| Ok(Some(host)))?
        else {
            // The name in the pod is free by now, or an interface of others has it.
            return self.create_veth(attachment, namespace)?.ok_or_else(|| interface_exists(attachment));
        };
        if !host.is_host_side_of(&attachment.key) {
            return Err(DataplaneError::HostInterfaceTaken {
                interface: attachment.host_interface.clone(),
                owner: host.owner(),
            });
        }
        let pod_side = find_link(pod, attachment.key.interface.as_str())?;
        match pod_side {
            Some(link) if Some(link.index) == host.peer && link.peer == Some(host.index) => {
                let macs = attachment.key.mac_addresses();
                adjust(&mut self.node, &host, macs.host, attachment.mtu)?;
                adjust(pod, &link, macs.pod, attachment.mtu)?;
                return Ok(host);
            }
            Some(_) => return Err(interface_exists(attachment)),
            None => {}
        }
        // Our link's other end was renamed or moved away: it serves nobody, and is made anew.
        let removal = [Request::plain(messages::link_delete(host.index))];
        perform(&mut self.node, &removal, attachment.host_interface.as_str())?;
        self.create_veth(attachment, namespace)?.ok_or_else(|| interface_exists(attachment))
    }

    /// The host side, where it was there under another name. It is renamed: what the pod has
    /// stays. Where the pod's end has its other end in another namespace, it serves nobody, and is
    /// removed.
    fn find_elsewhere(
        &mut self,
        attachment: &Attachment,
        pod: &mut Conversation,
    ) -> Result<Option<LinkFacts>, DataplaneError> {
        let inside = attachment.key.interface.as_str();
        let Some(link) = find_link(pod, inside)? else { return Ok(None) };
        let Some(peer) = link.peer else { return Ok(None) };
        let name = attachment.host_interface.as_str();
        // Indices are counted per namespace: both ends have to name each other.
        let host = link_by_index(&mut self.node, peer)?
            .filter(|host| host.peer == Some(link.index) && host.is_host_side_of(&attachment.key));
        if host.is_some() {
            // Older kernels rename no link that is up.
            let requests = [messages::link_down(peer), messages::link_rename(peer, name)].map(Request::plain);
            perform(&mut self.node, &requests, name)?;
            return find_link(&mut self.node, name);
        }
        if link.mac == Some(attachment.key.mac_addresses().pod) {
            remove(pod, &[Request::plain(messages::link_delete(link.index))], inside)?;
        }
        Ok(None)
    }

    /// `None` if one of the two names is taken.
    fn create_veth(
        &mut self,
        attachment: &Attachment,
        namespace: &Namespace,
    ) -> Result<Option<LinkFacts>, DataplaneError> {
        let name = attachment.host_interface.as_str();
        let MacPair { host, pod } = attachment.key.mac_addresses();
        let host_end = VethEnd { name, mac: host };
        let pod_end = VethEnd { name: attachment.key.interface.as_str(), mac: pod };
        // The question rides along: it is harmless where the link is somebody else's.
        let requests = [
            Request::create(messages::veth(&host_end, &pod_end, attachment.mtu, namespace.as_fd())),
            Request::plain(messages::link_by_name(name)),
        ];
        let answers = self.node.ask(&requests).map_err(|source| kernel("make the veth", name, source))?;
        let mut answers = answers.into_iter();
        match answers.next() {
            Some(Err(refusal)) if refusal.is(Errno::EXIST) => return Ok(None),
            Some(Err(refusal)) => return Err(kernel("make the veth", name, refusal.into())),
            _ => {}
        }
        link_of(answers.next(), name)?.map(Some).ok_or_else(|| vanished(name))
    }

    /// Owner and settings, then up: the kernel would give an address of its
    /// own to a link that comes up before it is told not to.
    fn ready_host_link(&mut self, attachment: &Attachment, host: &LinkFacts) -> Result<(), DataplaneError> {
        let name = attachment.host_interface.as_str();
        let requests = [
            Request::plain(messages::host_settings(host.index, &attachment.key)),
            Request::plain(messages::link_group(host.index, crate::LINK_GROUP)),
            Request::plain(messages::link_up(host.index)),
        ];
        perform(&mut self.node, &requests, name)?;
        let Some(inet6) = &host.inet6 else { return Ok(()) };
        // Inherited from conf/default, and right there once the node is prepared.
        for (setting, found, wanted) in
            [("forwarding", inet6.forwarding, "1"), ("accept_ra", inet6.accept_ra, "0")]
        {
            if found.to_string() != wanted {
                let setting = format!("net/ipv6/conf/{name}/{setting}");
                self.sysctls.write(&setting, wanted).map_err(|source| not_set(&setting, wanted, source))?;
            }
        }
        Ok(())
    }

    /// Last of all, so that nothing is reachable before it can answer.
    fn ready_host_routes(
        &mut self,
        attachment: &Attachment,
        index: u32,
        source: Option<Ipv4Addr>,
    ) -> Result<(), DataplaneError> {
        let name = attachment.host_interface.as_str();
        let mac = attachment.key.mac_addresses().pod;
        let mut requests = vec![Request::replace(messages::address(index, gateway_v6_net(), Use::Full))];
        for neighbour in host_neighbours(attachment) {
            requests.push(Request::replace(messages::neighbour(index, neighbour, mac)));
        }
        for prefix in attachment.addresses.prefixes() {
            let route = messages::link_route(index, prefix, source);
            requests.push(Request::create(RouteNetlinkMessage::NewRoute(route)));
        }
        // Asking for a link also makes the kernel finish what a change of
        // carrier needs, without which its first packets are dropped.
        requests.push(Request::plain(messages::link_by_index(index)));
        let answers = self.node.ask(&requests).map_err(|source| kernel("answer", name, source))?;

        let mut host = None;
        for (request, answer) in requests.iter().zip(answers) {
            match (&request.message, answer) {
                (_, Ok(Some(message))) => host = LinkFacts::read(&message),
                (_, Ok(None)) => {}
                (RouteNetlinkMessage::NewRoute(route), Err(refusal)) if refusal.is(Errno::EXIST) => {
                    take_over(&mut self.node, route, name)?;
                }
                (message, Err(refusal)) => {
                    return Err(kernel(&messages::describe(message), name, refusal.into()));
                }
            }
        }
        let host = host.ok_or_else(|| vanished(name))?;
        if host.is_operational { Ok(()) } else { await_carrier(&mut self.node, name) }
    }
}

/// What the link's host side lacks, and the pod's needs nothing of.
fn is_of_the_node(drift: &Drift) -> bool {
    matches!(
        drift,
        Drift::AddressMissing(Side::Host, _)
            | Drift::RouteMissing(Side::Host, _)
            | Drift::NeighbourMissing(Side::Host, _)
    )
}

/// Whom the host side knows by permanent entries: the pod's own addresses, its
/// link-local one and those that it serves.
pub(crate) fn host_neighbours(attachment: &Attachment) -> impl Iterator<Item = IpAddr> + '_ {
    let local = attachment.key.mac_addresses().pod.link_local();
    let served = attachment.anycast.iter().copied();
    let has_ipv6 = attachment.addresses.ipv6.is_some() || attachment.anycast.iter().any(IpAddr::is_ipv6);
    let local = has_ipv6.then_some(IpAddr::V6(local));
    local.into_iter().chain(attachment.addresses.iter()).chain(served)
}

fn gateway_v6_net() -> IpNet {
    link_local_net(GATEWAY_V6)
}

/// Makes a link that was found have what it would have been made with.
fn adjust(
    conversation: &mut Conversation,
    link: &LinkFacts,
    mac: MacAddr,
    mtu: u32,
) -> Result<(), DataplaneError> {
    if link.mac == Some(mac) && link.mtu == mtu {
        return Ok(());
    }
    let request = [Request::plain(messages::link_identity(link.index, mac, mtu))];
    perform(conversation, &request, &link.name).map(drop)
}

fn await_carrier(conversation: &mut Conversation, name: &str) -> Result<(), DataplaneError> {
    let start = Instant::now();
    loop {
        let link = find_link(conversation, name)?.ok_or_else(|| vanished(name))?;
        if link.is_operational {
            return Ok(());
        }
        if start.elapsed() > CARRIER_DEADLINE {
            let late = io::Error::new(
                io::ErrorKind::TimedOut,
                "the other end was brought up, but it has no carrier",
            );
            return Err(kernel("bring up the interface", name, late));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The kernel acknowledges a new IPv6 address before it takes packets for it: also without
/// duplicate address detection the address goes through the work queue of that. Until then
/// packets to it are dropped, or sent back where they came from.
fn await_local(
    conversation: &mut Conversation,
    index: u32,
    mut addresses: Vec<Ipv6Addr>,
    name: &str,
) -> Result<(), DataplaneError> {
    let start = Instant::now();
    loop {
        let questions: Vec<Request> =
            addresses.iter().map(|address| Request::plain(messages::whose(index, *address))).collect();
        let answers =
            conversation.ask(&questions).map_err(|source| kernel("show the routes", name, source))?;
        let mut answers = answers.into_iter();
        // No route at all (a refusal) is not yet the one that is waited for either.
        addresses
            .retain(|_| !matches!(answers.next(), Some(Ok(Some(answer))) if messages::is_local(&answer)));
        let Some(address) = addresses.first() else { return Ok(()) };
        if start.elapsed() > ADDRESS_DEADLINE {
            let late = io::Error::new(
                io::ErrorKind::TimedOut,
                "the address was added, but packets to it are not taken",
            );
            return Err(kernel(&format!("take packets for {address}"), name, late));
        }
        thread::sleep(LOOK_AGAIN);
    }
}

fn ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

fn interface_exists(attachment: &Attachment) -> DataplaneError {
    DataplaneError::InterfaceExists {
        interface: attachment.key.interface.clone(),
        netns: attachment.netns.path.clone(),
    }
}

fn entering(attachment: &Attachment, source: io::Error) -> DataplaneError {
    DataplaneError::Kernel {
        action: format!("open a socket in the network namespace {}", attachment.netns.path.display()),
        source,
    }
}
