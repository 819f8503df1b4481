//! The pod side: its addresses, and the way out.

use std::net::{IpAddr, Ipv6Addr};

use flock_core::attachment::{Attachment, GATEWAY_V4, GATEWAY_V6};
use flock_core::dataplane::DataplaneError;
use ipnet::{IpNet, Ipv6Net};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::io::Errno;

use crate::conversation::{Conversation, Request};
use crate::facts::LinkFacts;
use crate::links::{LOOPBACK, kernel, perform, vanished};
use crate::messages::{self, Use};
use crate::netns::Namespace;
use crate::routes::dump_routes;
use crate::sysctl::not_set;
use crate::worker::Worker;

/// Where another interface already has the pod's default route, ours gets a
/// table of its own with the number of this plus the interface's index, and in
/// the main table a metric that loses, which serves sockets bound to the interface.
const SECOND_TABLE_BASE: u32 = 7000;

/// More than the 1024 that the kernel gives an IPv6 route without a metric.
const SECOND_METRIC_BASE: u32 = 2048;

impl Worker {
    pub(crate) fn ready_pod_side(
        &mut self,
        attachment: &Attachment,
        namespace: &Namespace,
        pod: &mut Conversation,
        index: u32,
    ) -> Result<(), DataplaneError> {
        let wanted = PodSide::of(attachment);
        let name = attachment.key.interface.as_str();
        let shown = format!("{name} of {}", attachment.netns.path.display());
        let link = [
            Request::plain(messages::pod_settings(index)),
            Request::plain(messages::link_up(index)),
            // Whoever made the namespace may have done so already; it is no harm twice.
            Request::plain(messages::link_up(LOOPBACK)),
            Request::plain(messages::link_by_index(index)),
        ];
        let answers = perform(pod, &link, &shown)?;
        let link = answers.iter().flatten().find_map(LinkFacts::read).ok_or_else(|| vanished(&shown))?;
        if !wanted.ipv6.is_empty() && link.inet6.is_none_or(|inet6| inet6.disable_ipv6 != 0) {
            // Some runtimes make namespaces with IPv6 switched off.
            let setting = format!("net/ipv6/conf/{name}/disable_ipv6");
            let sysctls = self.sysctls.clone();
            self.inside(namespace, || sysctls.write(&setting, "0"))
                .map_err(|source| not_set(&setting, "0", source))?;
        }
        wanted.make(attachment, pod, index, &shown)
    }
}

/// What a pod side has.
pub(crate) struct PodSide {
    ipv6: Vec<(IpNet, Use)>,
    ipv4: Vec<(IpNet, Use)>,
}

impl PodSide {
    pub(crate) fn of(attachment: &Attachment) -> Self {
        let own = attachment.addresses.prefixes().map(|prefix| (prefix, Use::Full));
        let anycast = attachment.anycast.iter().map(|address| (IpNet::from(*address), Use::AnswerOnly));
        let (mut ipv6, ipv4): (Vec<_>, Vec<_>) =
            own.chain(anycast).partition(|(prefix, _)| prefix.addr().is_ipv6());
        if !ipv6.is_empty() {
            let local = attachment.key.mac_addresses().pod.link_local();
            ipv6.insert(0, (link_local_net(local), Use::Full));
        }
        Self { ipv6, ipv4 }
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.ipv6.iter().chain(&self.ipv4).map(|(prefix, _)| prefix.addr())
    }

    /// Of the families that the pod has: also one that it only serves anycast
    /// addresses of, for its answers have to leave.
    pub(crate) fn gateways(&self) -> Vec<IpAddr> {
        let ipv6 = (!self.ipv6.is_empty()).then_some(IpAddr::V6(GATEWAY_V6));
        let ipv4 = (!self.ipv4.is_empty()).then_some(IpAddr::V4(GATEWAY_V4));
        ipv6.into_iter().chain(ipv4).collect()
    }

    fn make(
        &self,
        attachment: &Attachment,
        pod: &mut Conversation,
        index: u32,
        shown: &str,
    ) -> Result<(), DataplaneError> {
        let mac = attachment.key.mac_addresses().host;
        let mut requests = Vec::new();
        for (prefix, usage) in self.ipv6.iter().chain(&self.ipv4) {
            requests.push(Request::replace(messages::address(index, *prefix, *usage)));
        }
        let gateways = self.gateways();
        for gateway in &gateways {
            requests.push(Request::replace(messages::neighbour(index, *gateway, mac)));
        }
        let before_routes = requests.len();
        for gateway in &gateways {
            let route = messages::default_route(index, *gateway, attachment.addresses.ipv4);
            requests.push(Request::create(RouteNetlinkMessage::NewRoute(route)));
        }
        let answers = pod.ask(&requests).map_err(|source| kernel("answer", shown, source))?;
        for (number, (request, answer)) in requests.iter().zip(answers).enumerate() {
            match (number.checked_sub(before_routes).and_then(|at| gateways.get(at)), answer) {
                (_, Ok(_)) => {}
                (Some(gateway), Err(refusal)) if refusal.is(Errno::EXIST) => {
                    self.settle_default_route(attachment, pod, index, *gateway, shown)?;
                }
                (_, Err(refusal)) => {
                    return Err(kernel(&messages::describe(&request.message), shown, refusal.into()));
                }
            }
        }
        Ok(())
    }

    /// There is a default route: ours, from before, or another interface's.
    fn settle_default_route(
        &self,
        attachment: &Attachment,
        pod: &mut Conversation,
        index: u32,
        gateway: IpAddr,
        shown: &str,
    ) -> Result<(), DataplaneError> {
        let mut route = messages::default_route(index, gateway, attachment.addresses.ipv4);
        let main_metric = if gateway.is_ipv6() { messages::IPV6_METRIC } else { 0 };
        let question = messages::all_routes(messages::family_of(gateway));
        let is_ours = dump_routes(pod, &question)?.iter().any(|found| {
            found.header.destination_prefix_length == 0
                && messages::output_interface(found) == Some(index)
                && messages::metric(found) == main_metric
        });
        if is_ours {
            let request = [Request::replace(RouteNetlinkMessage::NewRoute(route))];
            return perform(pod, &request, shown).map(drop);
        }
        let table = SECOND_TABLE_BASE + index;
        let mut requests =
            vec![Request::replace(RouteNetlinkMessage::NewRoute(messages::in_table(route.clone(), table)))];
        route = messages::with_metric(route, SECOND_METRIC_BASE + index);
        requests.push(Request::replace(RouteNetlinkMessage::NewRoute(route)));
        perform(pod, &requests, shown)?;
        self.add_rules(pod, table, gateway.is_ipv6(), shown)
    }

    /// What comes from this interface's addresses leaves by this interface:
    /// the node takes it from no other (strict reverse path).
    fn add_rules(
        &self,
        pod: &mut Conversation,
        table: u32,
        ipv6: bool,
        shown: &str,
    ) -> Result<(), DataplaneError> {
        let prefixes = if ipv6 { &self.ipv6 } else { &self.ipv4 };
        let requests: Vec<Request> = prefixes
            .iter()
            .filter(|(prefix, _)| prefix.prefix_len() == prefix.max_prefix_len())
            .map(|(prefix, _)| Request::create(messages::rule_from(*prefix, table)))
            .collect();
        let answers = pod.ask(&requests).map_err(|source| kernel("answer", shown, source))?;
        for answer in answers {
            match answer {
                Err(refusal) if !refusal.is(Errno::EXIST) => {
                    return Err(kernel("add a routing rule", shown, refusal.into()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

pub(crate) fn link_local_net(address: Ipv6Addr) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, 64))
}
