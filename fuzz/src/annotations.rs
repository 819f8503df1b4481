//! Annotations of pods, on nodes with any prefixes.
//!
//! The first line is the node's two prefixes, as a NodeConfig has them: IPv6, a space, IPv4;
//! either may be missing. Each other line is `key=value`, with `\n` in a value for a new line;
//! a key without a slash is one of Flock's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use flock_bird::render::Renderer;
use flock_core::annotations::{Annotations, PREFIX, Wish};
use flock_core::announcer::Announcements;
use flock_core::attachment::{Addresses, AttachmentKey, NodeCidrs};
use flock_core::clock::ManualClock;
use flock_core::ipam::{AddressRequest, FamilyRequest, Ipam, LeaseOwner, MemoryIpam};
use flock_core::name::{ContainerId, InterfaceName, PodKey};
use flock_core::node_config::{API_VERSION, AllowedPrefixes, KIND, Manifest, Metadata, NodeConfig, Spec};
use futures_util::FutureExt as _;
use ipnet::IpNet;

use crate::message::assert_readable;

/// The operator lets pods serve whatever they like, and have nothing else of others.
static ANYTHING: LazyLock<AllowedPrefixes> = LazyLock::new(|| {
    let all = ["::/0", "0.0.0.0/0"].map(|prefix| prefix.parse().unwrap_or_else(|error| panic!("{error}")));
    AllowedPrefixes { anycast: all.into(), fixed: Vec::new() }
});

/// Reads `data` as a node's prefixes and a pod's annotations.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (first, rest) = text.split_once('\n').unwrap_or(("", &text));
    let of_the_pod: BTreeMap<String, String> = rest.lines().filter_map(annotation).collect();
    let annotations = match Annotations::parse(&of_the_pod) {
        Ok(annotations) => annotations,
        Err(error) => {
            assert_readable(&error);
            assert!(!error.problems.is_empty());
            for problem in &error.problems {
                assert_readable(problem);
                assert!(problem.to_string().contains(PREFIX), "{problem}");
            }
            return;
        }
    };
    valid(&annotations);
    let Some(node) = node(first) else { return };
    let request = match annotations.request(&node, &ANYTHING) {
        Ok(request) => request,
        Err(error) => return assert_readable(&error),
    };
    matches_annotations(&request, &annotations, &node);
    allocated(&request, &node);
    announced(&annotations, &node);
}

fn annotation(line: &str) -> Option<(String, String)> {
    let (key, value) = line.split_once('=')?;
    let key = if key.contains('/') { key.to_owned() } else { format!("{PREFIX}{key}") };
    Some((key, value.replace("\\n", "\n")))
}

/// Only prefixes that a NodeConfig can have.
fn node(line: &str) -> Option<NodeCidrs> {
    let (cidr6, cidr4) = line.split_once(' ')?;
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let manifest = Manifest {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        metadata: Metadata { name: "host001".to_owned() },
        spec: Spec { cidr6: some(cidr6), cidr4: some(cidr4), ..Spec::default() },
    };
    NodeConfig::from_manifest(&manifest).ok().map(|config| config.cidrs)
}

fn valid(annotations: &Annotations) {
    assert_eq!(Annotations::parse(&annotations.to_map()).as_ref(), Ok(annotations));
    if let Some(cidr) = annotations.cidr6() {
        assert_eq!(cidr, cidr.trunc());
        assert!(annotations.ipv6() != Wish::No);
    }
    if let Some(cidr) = annotations.cidr4() {
        assert_eq!(cidr, cidr.trunc());
        assert!(annotations.ipv4() != Wish::No);
    }
    if let (Wish::Exactly(address), Some(cidr)) = (annotations.ipv6(), annotations.cidr6()) {
        assert!(cidr.contains(&address));
    }
    if let (Wish::Exactly(address), Some(cidr)) = (annotations.ipv4(), annotations.cidr4()) {
        assert!(cidr.contains(&address));
    }
    let distinct: BTreeSet<&IpAddr> = annotations.anycast().iter().collect();
    assert_eq!(distinct.len(), annotations.anycast().len(), "{:?}", annotations.anycast());
    for address in annotations.anycast() {
        assert!(!address.is_multicast() && !address.is_loopback() && !address.is_unspecified(), "{address}");
    }
}

fn matches_annotations(request: &AddressRequest, annotations: &Annotations, node: &NodeCidrs) {
    assert!(request.ipv6 != FamilyRequest::None || request.ipv4 != FamilyRequest::None);
    assert!(node.ipv6.is_some() || request.ipv6 == FamilyRequest::None);
    assert!(node.ipv4.is_some() || request.ipv4 == FamilyRequest::None);
    assert!((annotations.ipv6() == Wish::No) <= (request.ipv6 == FamilyRequest::None));
    assert!((annotations.ipv4() == Wish::No) <= (request.ipv4 == FamilyRequest::None));
    for address in annotations.anycast() {
        assert!(!node.contain(*address), "{address} is one that the node gives to pods");
    }
}

/// A pod is given what it asked for, from its node's prefixes, or an error.
fn allocated(request: &AddressRequest, node: &NodeCidrs) {
    let ipam = MemoryIpam::new(Arc::new(ManualClock::new()), Duration::from_secs(60), 0);
    let owner = owner();
    ready(ipam.configure(*node, &[])).unwrap_or_else(|error| panic!("{error}"));
    let Addresses { ipv6, ipv4 } = match ready(ipam.allocate(&owner, request)) {
        Ok(addresses) => addresses,
        Err(error) => return assert_readable(&error),
    };
    assert_eq!(ipv6.is_some(), request.ipv6 != FamilyRequest::None);
    assert_eq!(ipv4.is_some(), request.ipv4 != FamilyRequest::None);
    if let Some(address) = ipv6 {
        assert!(node.contain(address.into()), "{address}");
        match request.ipv6 {
            FamilyRequest::Exactly(asked) | FamilyRequest::Granted(asked) => assert_eq!(address, asked),
            FamilyRequest::From(part) => assert!(part.contains(&address), "{address} is not of {part}"),
            FamilyRequest::Any | FamilyRequest::None => {}
        }
    }
    if let Some(address) = ipv4 {
        assert!(node.contain(address.into()), "{address}");
        match request.ipv4 {
            FamilyRequest::Exactly(asked) | FamilyRequest::Granted(asked) => assert_eq!(address, asked),
            FamilyRequest::From(part) => assert!(part.contains(&address), "{address} is not of {part}"),
            FamilyRequest::Any | FamilyRequest::None => {}
        }
    }
    assert_eq!(ready(ipam.allocate(&owner, request)), Ok(Addresses { ipv6, ipv4 }), "asked again");
}

/// BIRD can be told of every address that a pod may serve.
fn announced(annotations: &Annotations, node: &NodeCidrs) {
    static RENDERER: LazyLock<Renderer> =
        LazyLock::new(|| Renderer::new(70).unwrap_or_else(|error| panic!("{error}")));
    let wanted = Announcements {
        summaries: node.iter().collect(),
        anycast: annotations.anycast().iter().copied().collect(),
        ..Announcements::new(64512, Ipv4Addr::new(192, 0, 2, 1))
    };
    let text = RENDERER.render(&wanted).unwrap_or_else(|error| panic!("{error}"));
    for address in annotations.anycast() {
        let line = format!("  {}", IpNet::from(*address));
        assert!(text.lines().any(|found| found.trim_end_matches(',') == line), "{address} is not announced");
    }
}

fn owner() -> LeaseOwner {
    let key = ContainerId::new("0123456789ab")
        .and_then(|container| Ok(AttachmentKey::new(container, InterfaceName::new("eth0")?)));
    LeaseOwner {
        key: key.unwrap_or_else(|error| panic!("{error}")),
        pod: PodKey::new("default", "web-0").ok(),
    }
}

/// The allocator waits for nothing.
fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap_or_else(|| panic!("it waits"))
}
