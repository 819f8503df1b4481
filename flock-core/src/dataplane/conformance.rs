//! Contract tests of [`Dataplane`], one public function per case.
//!
//! A backend implements [`DataplaneHarness`] and runs all cases with
//! [`dataplane_conformance!`](crate::dataplane_conformance). Whether packets pass
//! is each backend's own business to test; here it is [`Dataplane::check`] that
//! has to find nothing.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "these are tests, they fail by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use ipnet::IpNet;

use super::{
    AnycastRoute, AnycastServer, AnycastState, Dataplane, DataplaneError, Drift, FoundLink, Link, Side,
};
use crate::attachment::{
    Addresses, Attachment, AttachmentKey, AttachmentState, GATEWAY_V4, GATEWAY_V6, Netns,
};
use crate::name::{ContainerId, InterfaceName, NetworkName};
use crate::retry::Retry;

mod disturbances;
mod node;

pub use disturbances::*;
pub use node::*;

/// What a backend supplies to be tested, on a node of its own where nothing is attached.
#[async_trait]
pub trait DataplaneHarness: Send + Sync {
    /// The backend.
    fn dataplane(&self) -> &dyn Dataplane;

    /// Makes a network namespace with no interface but `lo`, and gives its path.
    async fn make_namespace(&self) -> PathBuf;

    /// Puts a new namespace in the place of the one at `path`; the old one ends.
    async fn replace_namespace(&self, path: &std::path::Path);

    /// Takes away the namespace at `path`, and the path too.
    async fn remove_namespace(&self, path: &std::path::Path);

    /// Makes an interface that is not Flock's in the namespace at `path`.
    async fn make_foreign_pod_interface(&self, path: &std::path::Path, name: &InterfaceName);

    /// Makes an interface that is not Flock's on the node.
    async fn make_foreign_host_interface(&self, name: &InterfaceName);

    /// Whether the node has an interface of that name.
    async fn has_host_interface(&self, name: &InterfaceName) -> bool;

    /// The blackhole routes that the backend has made.
    async fn summaries(&self) -> BTreeSet<IpNet>;

    /// Takes away the node's route to the attachment's IPv6 address, as somebody else would, in
    /// one go; others of the attachment may go with it.
    async fn lose_route(&self, attachment: &Attachment);

    /// Takes away a blackhole route, as somebody else would.
    async fn lose_summary(&self, prefix: IpNet);

    /// The anycast routes that the backend has made in one state, with the links that they lead over.
    async fn anycast(&self, state: AnycastState) -> BTreeMap<IpAddr, BTreeSet<InterfaceName>>;
}

/// Makes one `#[tokio::test]` of each case of
/// [`dataplane::conformance`](crate::dataplane::conformance).
///
/// Takes an expression for a
/// [`DataplaneHarness`](crate::dataplane::conformance::DataplaneHarness), which is
/// evaluated anew in each test. The crate that uses it needs tokio with `macros`
/// and `rt`.
#[macro_export]
macro_rules! dataplane_conformance {
    (@cases $harness:expr; $($case:ident)*) => {
        $(
            #[::tokio::test]
            async fn $case() {
                let harness = $harness;
                $crate::dataplane::conformance::$case(&harness).await;
            }
        )*
    };
    ($harness:expr) => {
        $crate::dataplane_conformance! { @cases $harness;
            prepare_can_be_repeated_and_names_the_gateways
            a_namespace_is_identified_by_what_it_is
            a_path_that_is_no_namespace_is_refused
            an_attachment_is_complete
            a_second_attach_finds_nothing_to_do
            an_attachment_may_have_one_family_only
            an_attachment_may_serve_anycast_addresses_of_a_family_it_has_no_address_of
            attachments_do_not_disturb_each_other
            a_container_may_have_two_attachments
            another_namespace_at_the_path_is_refused
            a_namespace_that_is_gone_is_refused
            a_taken_pod_interface_is_refused
            a_taken_host_interface_is_refused
            a_host_interface_of_somebody_else_is_refused
            detach_takes_the_routes_and_leaves_the_link
            detach_of_the_unknown_is_success
            attach_after_detach_restores
            reap_removes_links_and_can_be_repeated
            reap_removes_many_and_leaves_the_others
            reap_passes_over_what_is_not_the_owners
            reap_without_detach_leaves_nothing
            check_answers_in_order
            check_tells_a_namespace_that_changed
            check_tells_a_difference_in_mtu
            a_link_goes_with_its_namespace
            summaries_are_made_equal
            anycast_routes_are_made_equal
            anycast_routes_leave_out_links_that_are_gone
            anycast_routes_are_no_pod_routes
            an_anycast_route_has_one_state
            a_node_as_it_should_be_has_no_differences
            check_node_tells_summaries
            check_node_tells_anycast_routes
            a_route_that_is_nobodys_is_found_and_removed
            a_lost_route_is_told
            a_lost_summary_is_told
            what_happens_between_two_calls_is_told
            own_changes_are_not_told
        }
    };
}

/// `prepare` is repeatable, and reports addresses that no pod may get.
pub async fn prepare_can_be_repeated_and_names_the_gateways(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let first = dataplane.prepare().await.unwrap();
    let second = dataplane.prepare().await.unwrap();
    assert_eq!(first, second);
    for gateway in [IpAddr::V6(GATEWAY_V6), IpAddr::V4(GATEWAY_V4)] {
        assert!(first.addresses.contains(&gateway), "{gateway} in {:?}", first.addresses);
    }
}

/// The same file twice is the same namespace, two files are two.
pub async fn a_namespace_is_identified_by_what_it_is(harness: &dyn DataplaneHarness) {
    let (one, other) = (harness.make_namespace().await, harness.make_namespace().await);
    let dataplane = harness.dataplane();
    let first = dataplane.identify(&one).await.unwrap();
    assert_eq!(first.path, one);
    assert_eq!(first, dataplane.identify(&one).await.unwrap());
    let second = dataplane.identify(&other).await.unwrap();
    assert!(!first.is_same(&second), "{first:?} {second:?}");
}

/// The message names the path.
pub async fn a_path_that_is_no_namespace_is_refused(harness: &dyn DataplaneHarness) {
    let path = PathBuf::from("/nowhere/at/all");
    let error = harness.dataplane().identify(&path).await.unwrap_err();
    assert!(matches!(&error, DataplaneError::NotANamespace { path: named, .. } if *named == path), "{error}");
    assert!(error.to_string().contains("/nowhere/at/all is not a network namespace"), "{error}");
    assert_eq!(error.retry(), Retry::Never);
}

/// After `attach` there is no difference, and the link is listed under its owner.
pub async fn an_attachment_is_complete(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let made = attached(harness, 1).await;
    assert_no_drift(dataplane, &made).await;
    assert_eq!(dataplane.list().await.unwrap(), [found(&made)]);
}

/// Idempotence.
pub async fn a_second_attach_finds_nothing_to_do(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let made = attached(harness, 1).await;
    dataplane.attach(&made).await.unwrap();
    assert_no_drift(dataplane, &made).await;
    assert_eq!(dataplane.list().await.unwrap(), [found(&made)]);
}

/// IPv6 without IPv4, and the other way round.
pub async fn an_attachment_may_have_one_family_only(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let mut ipv6 = wanted(harness, 1).await;
    ipv6.addresses.ipv4 = None;
    let mut ipv4 = wanted(harness, 2).await;
    ipv4.addresses.ipv6 = None;
    for attachment in [ipv6, ipv4] {
        dataplane.attach(&attachment).await.unwrap();
        assert_no_drift(dataplane, &attachment).await;
    }
}

/// Its answers have to leave all the same.
pub async fn an_attachment_may_serve_anycast_addresses_of_a_family_it_has_no_address_of(
    harness: &dyn DataplaneHarness,
) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let mut attachment = wanted(harness, 1).await;
    attachment.addresses.ipv4 = None;
    attachment.anycast = vec![anycast_v4(), anycast_v6()];
    dataplane.attach(&attachment).await.unwrap();
    assert_no_drift(dataplane, &attachment).await;
}

/// Each is complete while others come and go.
pub async fn attachments_do_not_disturb_each_other(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let first = attached(harness, 1).await;
    let second = attached(harness, 2).await;
    assert_no_drift(dataplane, &first).await;
    dataplane.detach(&second).await.unwrap();
    dataplane.reap(&[Link::of(&second)]).await.unwrap();
    assert_no_drift(dataplane, &first).await;
    assert_eq!(dataplane.list().await.unwrap(), [found(&first)]);
}

/// The second one gets the second candidate of the host interface's name.
pub async fn a_container_may_have_two_attachments(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let first = attached(harness, 1).await;
    let second = sibling(&first, 2);
    let error = dataplane
        .attach(&Attachment { host_interface: first.host_interface.clone(), ..second.clone() })
        .await
        .unwrap_err();
    assert!(matches!(error, DataplaneError::HostInterfaceTaken { .. }), "{error}");
    dataplane.attach(&second).await.unwrap();
    for attachment in [&first, &second] {
        assert_no_drift(dataplane, attachment).await;
    }
    dataplane.detach(&second).await.unwrap();
    dataplane.reap(&[Link::of(&second)]).await.unwrap();
    assert_no_drift(dataplane, &first).await;
}

/// A runtime may have reused the path for another container.
pub async fn another_namespace_at_the_path_is_refused(harness: &dyn DataplaneHarness) {
    let attachment = wanted(harness, 1).await;
    harness.replace_namespace(&attachment.netns.path).await;
    let error = harness.dataplane().attach(&attachment).await.unwrap_err();
    assert!(matches!(error, DataplaneError::NamespaceChanged { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Never);
    assert_nothing(harness).await;
}

/// The container may have ended meanwhile.
pub async fn a_namespace_that_is_gone_is_refused(harness: &dyn DataplaneHarness) {
    let attachment = wanted(harness, 1).await;
    harness.remove_namespace(&attachment.netns.path).await;
    let error = harness.dataplane().attach(&attachment).await.unwrap_err();
    assert!(matches!(error, DataplaneError::NotANamespace { .. }), "{error}");
    assert_nothing(harness).await;
}

/// The pod's interface is somebody else's: nothing is left over.
pub async fn a_taken_pod_interface_is_refused(harness: &dyn DataplaneHarness) {
    let attachment = wanted(harness, 1).await;
    harness.make_foreign_pod_interface(&attachment.netns.path, &attachment.key.interface).await;
    let error = harness.dataplane().attach(&attachment).await.unwrap_err();
    assert!(matches!(error, DataplaneError::InterfaceExists { .. }), "{error}");
    let text = error.to_string();
    let path = attachment.netns.path.display().to_string();
    assert!(text.contains(attachment.key.interface.as_str()) && text.contains(&path), "{text}");
    assert_nothing(harness).await;
}

/// The host interface is another attachment's, whose name the error tells.
pub async fn a_taken_host_interface_is_refused(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let first = attached(harness, 1).await;
    let mut second = wanted(harness, 2).await;
    second.host_interface = first.host_interface.clone();
    let error = dataplane.attach(&second).await.unwrap_err();
    assert!(matches!(error, DataplaneError::HostInterfaceTaken { .. }), "{error}");
    assert!(error.to_string().contains(&first.key.to_string()), "{error}");
    assert_no_drift(dataplane, &first).await;
    assert_eq!(dataplane.list().await.unwrap(), [found(&first)]);
}

/// The host interface is none of Flock's, and is left alone.
pub async fn a_host_interface_of_somebody_else_is_refused(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let attachment = wanted(harness, 1).await;
    harness.make_foreign_host_interface(&attachment.host_interface).await;
    let error = dataplane.attach(&attachment).await.unwrap_err();
    assert!(matches!(error, DataplaneError::HostInterfaceTaken { .. }), "{error}");
    dataplane.detach(&attachment).await.unwrap();
    dataplane.reap(&[Link::of(&attachment)]).await.unwrap();
    assert!(harness.has_host_interface(&attachment.host_interface).await);
    let found = check_one(dataplane, &attachment).await;
    assert!(found.contains(&Drift::LinkForeign(Side::Host)), "{found:?}");
}

/// Nothing reaches the pod, and its link waits for `reap`.
pub async fn detach_takes_the_routes_and_leaves_the_link(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let other = attached(harness, 1).await;
    let attachment = attached(harness, 2).await;
    for _ in 0..2 {
        dataplane.detach(&attachment).await.unwrap();
        let missing: Vec<Drift> =
            attachment.addresses.prefixes().map(|prefix| Drift::RouteMissing(Side::Host, prefix)).collect();
        assert_eq!(check_one(dataplane, &attachment).await, missing);
    }
    assert!(dataplane.list().await.unwrap().iter().any(|found| found.link == Link::of(&attachment)));
    assert_no_drift(dataplane, &other).await;
}

/// DEL may come for what never was.
pub async fn detach_of_the_unknown_is_success(harness: &dyn DataplaneHarness) {
    let attachment = wanted(harness, 1).await;
    harness.dataplane().detach(&attachment).await.unwrap();
    harness.remove_namespace(&attachment.netns.path).await;
    harness.dataplane().detach(&attachment).await.unwrap();
    assert_nothing(harness).await;
}

/// Half of the work is there, `attach` does the other half.
pub async fn attach_after_detach_restores(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let attachment = attached(harness, 1).await;
    dataplane.detach(&attachment).await.unwrap();
    dataplane.attach(&attachment).await.unwrap();
    assert_no_drift(dataplane, &attachment).await;
}

/// One link, twice, and with the empty list.
pub async fn reap_removes_links_and_can_be_repeated(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let attachment = attached(harness, 1).await;
    dataplane.reap(&[]).await.unwrap();
    assert_eq!(dataplane.list().await.unwrap(), [found(&attachment)]);
    dataplane.detach(&attachment).await.unwrap();
    for _ in 0..2 {
        dataplane.reap(&[Link::of(&attachment)]).await.unwrap();
        assert_nothing(harness).await;
        let found = check_one(dataplane, &attachment).await;
        assert_eq!(found, [Drift::LinkMissing(Side::Host), Drift::LinkMissing(Side::Pod)]);
    }
}

/// A batch with a link that is not there.
pub async fn reap_removes_many_and_leaves_the_others(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let kept = attached(harness, 1).await;
    let mut links = vec![Link::of(&wanted(harness, 2).await)];
    for number in 3..8 {
        links.push(Link::of(&attached(harness, number).await));
    }
    dataplane.reap(&links).await.unwrap();
    assert_eq!(dataplane.list().await.unwrap(), [found(&kept)]);
    assert_no_drift(dataplane, &kept).await;
}

/// The name was given to another attachment meanwhile.
pub async fn reap_passes_over_what_is_not_the_owners(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let attachment = attached(harness, 1).await;
    let stranger = wanted(harness, 2).await;
    for owner in [Some(stranger.key), None] {
        let link = Link { interface: attachment.host_interface.clone(), owner };
        dataplane.reap(&[link]).await.unwrap();
        assert_no_drift(dataplane, &attachment).await;
    }
}

/// Routes over a link go with it.
pub async fn reap_without_detach_leaves_nothing(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let attachment = attached(harness, 1).await;
    dataplane.reap(&[Link::of(&attachment)]).await.unwrap();
    assert_nothing(harness).await;
    dataplane.attach(&attachment).await.unwrap();
    dataplane.reap(&[Link::of(&attachment)]).await.unwrap();
    assert_nothing(harness).await;
}

/// One list of differences for each attachment, few and many.
pub async fn check_answers_in_order(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    assert!(dataplane.check(&[]).await.unwrap().is_empty());
    for count in [3, 20] {
        let mut attachments = Vec::new();
        for number in 0..count {
            let attachment = wanted(harness, 100 * count + number).await;
            if number % 2 == 0 {
                dataplane.attach(&attachment).await.unwrap();
            }
            attachments.push(attachment);
        }
        let found = dataplane.check(&attachments).await.unwrap();
        assert_eq!(found.len(), attachments.len());
        for (number, drifts) in found.iter().enumerate() {
            let missing = drifts.contains(&Drift::LinkMissing(Side::Host));
            assert_eq!(missing, number % 2 == 1, "{number}: {drifts:?}");
            assert_eq!(drifts.is_empty(), number % 2 == 0, "{number}: {drifts:?}");
        }
    }
}

/// The record's namespace is another one now.
pub async fn check_tells_a_namespace_that_changed(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let attachment = attached(harness, 1).await;
    let path = attachment.netns.path.clone();
    let other = Attachment {
        netns: Netns { inode: attachment.netns.inode + 1, ..attachment.netns.clone() },
        ..attachment.clone()
    };
    assert_eq!(check_one(dataplane, &other).await, [Drift::NamespaceGone(path)]);
    assert_no_drift(dataplane, &attachment).await;
}

/// Both sides, and a second `attach` repairs it.
pub async fn check_tells_a_difference_in_mtu(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let made = attached(harness, 1).await;
    let other = Attachment { mtu: 1400, ..made.clone() };
    let expected = [Side::Host, Side::Pod].map(|side| Drift::Mtu { side, expected: 1400, found: made.mtu });
    assert_eq!(check_one(dataplane, &other).await, expected);
    dataplane.attach(&other).await.unwrap();
    assert_no_drift(dataplane, &other).await;
}

/// The kernel removes a link with the namespace that its other end is in.
pub async fn a_link_goes_with_its_namespace(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let attachment = attached(harness, 1).await;
    harness.remove_namespace(&attachment.netns.path).await;
    let found = check_one(dataplane, &attachment).await;
    assert!(found.contains(&Drift::NamespaceGone(attachment.netns.path.clone())), "{found:?}");
    assert!(found.contains(&Drift::LinkMissing(Side::Host)), "{found:?}");
    dataplane.detach(&attachment).await.unwrap();
    dataplane.reap(&[Link::of(&attachment)]).await.unwrap();
    assert_nothing(harness).await;
}

/// Declarative: what is not named is removed.
pub async fn summaries_are_made_equal(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let prefixes = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    for wanted in [
        prefixes(&["2001:db8:1::/64", "10.0.1.0/24"]),
        prefixes(&["2001:db8:1::/64", "10.0.1.0/24"]),
        prefixes(&["2001:db8:1::/64", "10.0.2.0/24"]),
        prefixes(&["2001:db8:1::/64"]),
        BTreeSet::new(),
    ] {
        dataplane.set_summaries(&wanted).await.unwrap();
        assert_eq!(harness.summaries().await, wanted);
    }
}

/// Declarative, with one server, with two, and back.
pub async fn anycast_routes_are_made_equal(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let (one, two) = (attached_server(harness, 1).await, attached_server(harness, 2).await);
    for servers in [&[&one][..], &[&one, &two], &[&one, &two], &[&two], &[]] {
        let routes: Vec<AnycastRoute> = [anycast_v6(), anycast_v4()]
            .into_iter()
            .filter(|_| !servers.is_empty())
            .map(|address| {
                let servers = servers.iter().map(|attachment| server(attachment));
                AnycastRoute::announced(address, servers.collect())
            })
            .collect();
        dataplane.set_anycast(&routes).await.unwrap();
        let links: BTreeSet<InterfaceName> =
            servers.iter().map(|attachment| attachment.host_interface.clone()).collect();
        let expected: BTreeMap<_, _> = routes.iter().map(|route| (route.address, links.clone())).collect();
        assert_eq!(harness.anycast(AnycastState::Announced).await, expected);
    }
}

/// There is one route for an address, in one state, and only the announced ones are told.
pub async fn an_anycast_route_has_one_state(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let (one, two) = (attached_server(harness, 1).await, attached_server(harness, 2).await);
    let (both, second) = (vec![server(&one), server(&two)], vec![server(&two)]);
    let route = |address, state, servers: &Vec<AnycastServer>| AnycastRoute {
        address,
        servers: servers.clone(),
        state,
    };
    let [a, w, s] = AnycastState::ALL;
    // From each state to each other, and to itself.
    let walk = [a, a, w, w, a, s, s, w, s, a];
    for number in 0..=walk.len() {
        let [state_v6, state_v4] = [number, number + 5].map(|step| walk[step % walk.len()]);
        let servers = if number % 2 == 0 { &both } else { &second };
        let routes = [route(anycast_v6(), state_v6, servers), route(anycast_v4(), state_v4, servers)];
        dataplane.set_anycast(&routes).await.unwrap();
        let over = |state: AnycastState| -> BTreeMap<IpAddr, BTreeSet<InterfaceName>> {
            let links = |route: &AnycastRoute| {
                route.servers.iter().map(|server| server.host_interface.clone()).collect()
            };
            let in_state = routes.iter().filter(|route| route.state == state);
            in_state.map(|route| (route.address, links(route))).collect()
        };
        for state in AnycastState::ALL {
            assert_eq!(harness.anycast(state).await, over(state), "{state:?} of {routes:?}");
        }
        let mut told: BTreeMap<IpAddr, BTreeSet<InterfaceName>> = BTreeMap::new();
        for (address, interface) in dataplane.announced_anycast().await.unwrap() {
            told.entry(address).or_default().insert(interface);
        }
        assert_eq!(told, over(AnycastState::Announced), "told as announced");
    }
    dataplane.set_anycast(&[]).await.unwrap();
    for state in AnycastState::ALL {
        assert!(harness.anycast(state).await.is_empty(), "{state:?}");
    }
}

/// A link that is not there, or that is another attachment's, serves nothing.
pub async fn anycast_routes_leave_out_links_that_are_gone(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    let (one, two) = (attached_server(harness, 1).await, attached_server(harness, 2).await);
    let stranger = wanted(harness, 3).await;
    let mut impostor = server(&stranger);
    impostor.host_interface = one.host_interface.clone();
    let servers = vec![server(&one), server(&two), server(&stranger), impostor];
    let routes = [AnycastRoute::announced(anycast_v6(), servers)];
    dataplane.set_anycast(&routes).await.unwrap();
    let links = BTreeSet::from([one.host_interface.clone(), two.host_interface.clone()]);
    assert_eq!(harness.anycast(AnycastState::Announced).await, BTreeMap::from([(anycast_v6(), links)]));

    dataplane.reap(&[Link::of(&one)]).await.unwrap();
    dataplane.set_anycast(&routes).await.unwrap();
    let links = BTreeSet::from([two.host_interface.clone()]);
    assert_eq!(harness.anycast(AnycastState::Announced).await, BTreeMap::from([(anycast_v6(), links)]));

    dataplane.reap(&[Link::of(&two)]).await.unwrap();
    dataplane.set_anycast(&routes).await.unwrap();
    assert!(harness.anycast(AnycastState::Announced).await.is_empty());
}

/// Neither sort of route is taken for the other, nor for a summary.
pub async fn anycast_routes_are_no_pod_routes(harness: &dyn DataplaneHarness) {
    let dataplane = harness.dataplane();
    dataplane.prepare().await.unwrap();
    let attachment = attached_server(harness, 1).await;
    let summaries = BTreeSet::from(["2001:db8:1::/64".parse().unwrap()]);
    dataplane.set_summaries(&summaries).await.unwrap();
    let routes = [AnycastRoute::announced(anycast_v6(), vec![server(&attachment)])];
    dataplane.set_anycast(&routes).await.unwrap();
    assert_no_drift(dataplane, &attachment).await;
    dataplane.set_anycast(&[]).await.unwrap();
    assert_no_drift(dataplane, &attachment).await;
    assert_eq!(harness.summaries().await, summaries);
    dataplane.set_anycast(&routes).await.unwrap();
    dataplane.set_summaries(&BTreeSet::new()).await.unwrap();
    assert_no_drift(dataplane, &attachment).await;
    assert_eq!(harness.anycast(AnycastState::Announced).await.len(), 1);
}

/// A record of a container of its own, with a namespace and addresses of both
/// families that follow from `number`.
pub async fn wanted(harness: &dyn DataplaneHarness, number: u16) -> Attachment {
    let path = harness.make_namespace().await;
    let netns = harness.dataplane().identify(&path).await.unwrap();
    let key = AttachmentKey::new(
        ContainerId::new(format!("container{number:05}")).unwrap(),
        InterfaceName::new("eth0").unwrap(),
    );
    let [host_interface, _] = key.host_interface_candidates();
    Attachment {
        key,
        state: AttachmentState::Pending,
        network: NetworkName::new("flock").unwrap(),
        pod: None,
        pod_uid: None,
        netns,
        host_interface,
        addresses: addresses(number),
        anycast: Vec::new(),
        mtu: 1500,
        boot_id: "0f0f0f0f-0000-4000-8000-000000000000".to_owned(),
        created_ms: 0,
    }
}

/// How `attachment` is listed while it is attached.
fn found(attachment: &Attachment) -> FoundLink {
    FoundLink { link: Link::of(attachment), addresses: attachment.addresses, mtu: attachment.mtu }
}

/// As [`wanted`], attached.
pub async fn attached(harness: &dyn DataplaneHarness, number: u16) -> Attachment {
    let attachment = wanted(harness, number).await;
    harness.dataplane().attach(&attachment).await.unwrap();
    attachment
}

/// Another interface of the same container, `net1`.
pub fn sibling(attachment: &Attachment, number: u16) -> Attachment {
    let interface = InterfaceName::new("net1").unwrap();
    let key = AttachmentKey::new(attachment.key.container.clone(), interface);
    let [_, host_interface] = key.host_interface_candidates();
    Attachment { key, host_interface, addresses: addresses(number), ..attachment.clone() }
}

async fn attached_server(harness: &dyn DataplaneHarness, number: u16) -> Attachment {
    let mut attachment = wanted(harness, number).await;
    attachment.anycast = vec![anycast_v6(), anycast_v4()];
    harness.dataplane().attach(&attachment).await.unwrap();
    attachment
}

fn addresses(number: u16) -> Addresses {
    let [high, low] = number.to_be_bytes();
    Addresses {
        ipv6: Some([0x2001, 0xdb8, 1, 0, 0, 0, 0, number + 0x10].into()),
        ipv4: Some([10, 0, high, low].into()),
    }
}

/// An anycast address of documentation (RFC 3849).
pub fn anycast_v6() -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x53])
}

/// An anycast address of documentation (RFC 5737).
pub fn anycast_v4() -> IpAddr {
    IpAddr::from([198, 51, 100, 53])
}

/// The attachment as a server of an anycast address.
pub fn server(attachment: &Attachment) -> AnycastServer {
    AnycastServer { key: attachment.key.clone(), host_interface: attachment.host_interface.clone() }
}

async fn check_one(dataplane: &dyn Dataplane, attachment: &Attachment) -> Vec<Drift> {
    let mut found = dataplane.check(std::slice::from_ref(attachment)).await.unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

async fn assert_no_drift(dataplane: &dyn Dataplane, attachment: &Attachment) {
    let found = check_one(dataplane, attachment).await;
    assert!(found.is_empty(), "{}: {found:?}", attachment.key);
}

async fn assert_nothing(harness: &dyn DataplaneHarness) {
    let left = harness.dataplane().list().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}
