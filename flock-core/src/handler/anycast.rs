//! Which anycast addresses the node has, and who serves them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::attachment::{Attachment, AttachmentKey, AttachmentState};
use crate::dataplane::{AnycastRoute, AnycastServer};
use crate::name::InterfaceName;
use crate::node_config::AllowedPrefixes;

/// The routes to the anycast addresses of complete attachments, as far as the operator allows
/// them: over those that are ready, or, where none is, standing by over all.
pub(crate) fn anycast_routes<'a>(
    records: impl IntoIterator<Item = &'a Attachment>,
    allowed: &AllowedPrefixes,
    is_ready: impl Fn(&Attachment) -> bool,
) -> Vec<AnycastRoute> {
    let mut servers: BTreeMap<IpAddr, [Vec<AnycastServer>; 2]> = BTreeMap::new();
    for record in servers_of(records) {
        let group = usize::from(is_ready(record));
        for address in record.anycast.iter().filter(|address| allowed.allow_anycast(**address)) {
            servers.entry(*address).or_default()[group].push(AnycastServer {
                key: record.key.clone(),
                host_interface: record.host_interface.clone(),
            });
        }
    }
    let route = |(address, [others, ready]): (IpAddr, [Vec<AnycastServer>; 2])| {
        if ready.is_empty() {
            AnycastRoute::standby(address, others)
        } else {
            AnycastRoute::announced(address, ready)
        }
    };
    servers.into_iter().map(route).collect()
}

/// Which attachments were ready when the routes were made that the kernel has.
pub(crate) fn ready_in_kernel<'a>(
    records: impl IntoIterator<Item = &'a Attachment>,
    announced: &[(IpAddr, InterfaceName)],
) -> BTreeSet<AttachmentKey> {
    let links: BTreeSet<&InterfaceName> = announced.iter().map(|(_, link)| link).collect();
    let ready = servers_of(records).filter(|record| links.contains(&record.host_interface));
    ready.map(|record| record.key.clone()).collect()
}

/// The complete attachments that have anycast addresses.
pub(crate) fn servers_of<'a>(
    records: impl IntoIterator<Item = &'a Attachment>,
) -> impl Iterator<Item = &'a Attachment> {
    let complete = records.into_iter().filter(|record| record.state == AttachmentState::Committed);
    complete.filter(|record| !record.anycast.is_empty())
}
