//! The node beside its links.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{
    DataplaneHarness, anycast_v4, anycast_v6, assert_no_drift, attached, attached_server, check_one, server,
};
use crate::attachment::{Attachment, AttachmentState};
use crate::dataplane::{AnycastRoute, AnycastState, Drift, Link, NodeDrift, NodeWanted, Side, Stray};

fn prefixes(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A node with everything that there can be, made as `wanted` says.
async fn complete(harness: &dyn DataplaneHarness) -> NodeWanted {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let attachments = vec![attached_server(harness, 1).await, attached(harness, 2).await];
    let servers = vec![server(&attachments[0])];
    let wanted = NodeWanted {
        summaries: prefixes(&["2001:db8:1::/64", "10.0.0.0/16"]),
        anycast: [anycast_v6(), anycast_v4()]
            .map(|address| AnycastRoute::announced(address, servers.clone()))
            .to_vec(),
        attachments,
    };
    dataplane.set_summaries(&wanted.summaries).await.unwrap();
    dataplane.set_anycast(&wanted.anycast).await.unwrap();
    wanted
}

/// Whatever the attachments' state, also without routes, and also beside a link that is not asked about.
pub async fn a_node_as_it_should_be_has_no_differences(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let mut wanted = complete(harness).await;
    assert_eq!(dataplane.check_node(&wanted).await.unwrap(), []);
    let unknown = attached(harness, 3).await;
    assert_eq!(dataplane.check_node(&wanted).await.unwrap(), []);
    dataplane.detach(&unknown).await.unwrap();
    wanted.attachments.push(Attachment { state: AttachmentState::Deleting, ..unknown });
    assert_eq!(dataplane.check_node(&wanted).await.unwrap(), []);
}

/// What is missing and what is there without being wanted; nothing is changed.
pub async fn check_node_tells_summaries(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let wanted = complete(harness).await;
    let other = NodeWanted { summaries: prefixes(&["2001:db8:1::/64", "10.1.0.0/16"]), ..wanted.clone() };
    for _ in 0..2 {
        let expected = [
            NodeDrift::SummaryMissing("10.1.0.0/16".parse().unwrap()),
            NodeDrift::SummaryUnexpected("10.0.0.0/16".parse().unwrap()),
        ];
        assert_eq!(dataplane.check_node(&other).await.unwrap(), expected);
    }
    dataplane.set_summaries(&other.summaries).await.unwrap();
    assert_eq!(dataplane.check_node(&other).await.unwrap(), []);
}

/// A server that is missing or too many, a route that is missing or too many.
pub async fn check_node_tells_anycast_routes(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let mut wanted = complete(harness).await;
    let names = |attachments: &[&Attachment]| -> BTreeSet<String> {
        attachments.iter().map(|attachment| attachment.host_interface.to_string()).collect()
    };
    let second = attached_server(harness, 3).await;
    let first = wanted.attachments[0].clone();
    wanted.attachments.push(second.clone());
    wanted.anycast[0].servers.push(server(&second));
    let expected = [
        NodeDrift::Anycast {
            address: anycast_v6(),
            state: AnycastState::Announced,
            expected: names(&[&first, &second]),
            found: names(&[&first]),
        },
        NodeDrift::AnycastUnexpected { address: anycast_v4(), state: AnycastState::Announced },
    ];
    let both = wanted.anycast.clone();
    wanted.anycast.pop();
    assert_eq!(dataplane.check_node(&wanted).await.unwrap(), expected);
    dataplane.set_anycast(&wanted.anycast).await.unwrap();
    assert_eq!(dataplane.check_node(&wanted).await.unwrap(), []);

    let missing = |state| NodeDrift::Anycast {
        address: anycast_v4(),
        state,
        expected: names(&[&first]),
        found: BTreeSet::new(),
    };
    let expected = [missing(AnycastState::Announced)];
    wanted.anycast = both;
    assert_eq!(dataplane.check_node(&wanted).await.unwrap(), expected);
    dataplane.set_anycast(&wanted.anycast).await.unwrap();
    assert_eq!(dataplane.check_node(&wanted).await.unwrap(), []);
    // One in another state is not the one that is wanted.
    for state in AnycastState::ALL.into_iter().rev() {
        let before = wanted.anycast[1].state;
        wanted.anycast[1].state = state;
        let unexpected = NodeDrift::AnycastUnexpected { address: anycast_v4(), state: before };
        let expected = [missing(state), unexpected];
        let found = dataplane.check_node(&wanted).await.unwrap();
        assert!(found.len() == 2 && expected.iter().all(|drift| found.contains(drift)), "{found:?}");
        dataplane.set_anycast(&wanted.anycast).await.unwrap();
        assert_eq!(dataplane.check_node(&wanted).await.unwrap(), []);
    }
    // A server without a link is the attachment's difference, not the route's.
    dataplane.reap(&[Link::of(&second)]).await.unwrap();
    dataplane.set_anycast(&wanted.anycast).await.unwrap();
    assert_eq!(dataplane.check_node(&wanted).await.unwrap(), []);
}

/// A link has a route that its attachment does not have. Only that is removed, also where the
/// same prefix is named with another interface.
pub async fn a_route_that_is_nobodys_is_found_and_removed(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let mut wanted = complete(harness).await;
    let before = wanted.attachments[1].clone();
    wanted.attachments[1].addresses.ipv4 = None;
    let prefix = before.addresses.prefixes().last().unwrap();
    let stray = |interface: &Attachment| Stray::Route {
        prefix,
        interface: Some(interface.host_interface.to_string()),
    };
    let found = dataplane.check_node(&wanted).await.unwrap();
    assert!(found.contains(&NodeDrift::Stray(stray(&before))), "{found:?}");
    dataplane.remove_strays(&[stray(&wanted.attachments[0])]).await.unwrap();
    assert_no_drift(dataplane, &before).await;
    let strays: Vec<Stray> = found
        .into_iter()
        .map(|drift| match drift {
            NodeDrift::Stray(stray) => stray,
            other => panic!("{other}"),
        })
        .collect();
    for _ in 0..2 {
        dataplane.remove_strays(&strays).await.unwrap();
        assert_eq!(dataplane.check_node(&wanted).await.unwrap(), []);
        let found = check_one(dataplane, &before).await;
        assert!(found.contains(&Drift::RouteMissing(Side::Host, prefix)), "{found:?}");
        assert_no_drift(dataplane, &wanted.attachments[0]).await;
    }
}
