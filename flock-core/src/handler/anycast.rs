//! Which anycast addresses the node has, and who serves them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::attachment::{Attachment, AttachmentKey, AttachmentState};
use crate::dataplane::{AnycastRoute, AnycastServer, AnycastState};
use crate::name::InterfaceName;
use crate::node_config::AllowedPrefixes;

/// Anycast addresses with those who serve them.
pub(crate) type Served = BTreeMap<IpAddr, BTreeSet<AttachmentKey>>;

/// The routes to the anycast addresses of complete attachments, as far as the operator allows
/// them: over those that are ready; where none is, over those that served the address until a moment
/// ago, by `withdrawn`; where those are gone too, standing by over all.
pub(crate) fn anycast_routes<'a>(
    records: impl IntoIterator<Item = &'a Attachment>,
    allowed: &AllowedPrefixes,
    is_ready: impl Fn(&Attachment) -> bool,
    withdrawn: &Served,
) -> Vec<AnycastRoute> {
    let mut servers: BTreeMap<IpAddr, BTreeMap<AnycastState, Vec<AnycastServer>>> = BTreeMap::new();
    for record in servers_of(records) {
        let is_ready = is_ready(record);
        for address in record.anycast.iter().filter(|address| allowed.allow_anycast(**address)) {
            let was_ready = || withdrawn.get(address).is_some_and(|before| before.contains(&record.key));
            let state = match is_ready {
                true => AnycastState::Announced,
                false if was_ready() => AnycastState::Withdrawing,
                false => AnycastState::Standby,
            };
            let server =
                AnycastServer { key: record.key.clone(), host_interface: record.host_interface.clone() };
            servers.entry(*address).or_default().entry(state).or_default().push(server);
        }
    }
    // The best state that somebody is in.
    let best = |(address, mut servers): (IpAddr, BTreeMap<_, _>)| {
        let (state, servers) = servers.pop_first()?;
        Some(AnycastRoute { address, servers, state })
    };
    servers.into_iter().filter_map(best).collect()
}

/// Who served what when the routes were made that the kernel has, given those that are announced.
pub(crate) fn served_in_kernel<'a>(
    records: impl IntoIterator<Item = &'a Attachment>,
    announced: &[(IpAddr, InterfaceName)],
) -> Served {
    let mut served = Served::new();
    for record in servers_of(records) {
        let over_its_link = announced.iter().filter(|(_, link)| *link == record.host_interface);
        for (address, _) in over_its_link {
            served.entry(*address).or_default().insert(record.key.clone());
        }
    }
    served
}

/// The complete attachments that have anycast addresses.
pub(crate) fn servers_of<'a>(
    records: impl IntoIterator<Item = &'a Attachment>,
) -> impl Iterator<Item = &'a Attachment> {
    let complete = records.into_iter().filter(|record| record.state == AttachmentState::Committed);
    complete.filter(|record| !record.anycast.is_empty())
}
