//! Reading and writing the values of single annotations.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{ANYCAST, AnnotationProblem, CIDR4, CIDR6, IP_ALGO, IPV4, IPV6, Wish};
use crate::ipam::Algorithm;

/// What is different between the two families.
pub(super) trait Family {
    type Address: Copy + PartialEq + Display + FromStr + Into<IpAddr>;
    type Net: Copy + Display + FromStr + Into<IpNet>;
    const NAME: &'static str;
    const WISH_KEY: &'static str;
    const CIDR_KEY: &'static str;
    const NODE_KEY: &'static str;
    const EXAMPLE: &'static str;

    fn contains(net: Self::Net, address: Self::Address) -> bool;
}

pub(super) enum V6 {}
pub(super) enum V4 {}

impl Family for V6 {
    type Address = Ipv6Addr;
    type Net = Ipv6Net;
    const NAME: &'static str = "IPv6";
    const WISH_KEY: &'static str = IPV6;
    const CIDR_KEY: &'static str = CIDR6;
    const NODE_KEY: &'static str = "cidr6";
    const EXAMPLE: &'static str = "2001:db8:1::/80";

    fn contains(net: Ipv6Net, address: Ipv6Addr) -> bool {
        net.contains(&address)
    }
}

impl Family for V4 {
    type Address = Ipv4Addr;
    type Net = Ipv4Net;
    const NAME: &'static str = "IPv4";
    const WISH_KEY: &'static str = IPV4;
    const CIDR_KEY: &'static str = CIDR4;
    const NODE_KEY: &'static str = "cidr4";
    const EXAMPLE: &'static str = "10.0.1.64/26";

    fn contains(net: Ipv4Net, address: Ipv4Addr) -> bool {
        net.contains(&address)
    }
}

pub(super) fn wish<F: Family>(text: Option<&str>, problems: &mut Vec<AnnotationProblem>) -> Wish<F::Address> {
    match text {
        None => Wish::Unsaid,
        Some("true") => Wish::Yes,
        Some("false") => Wish::No,
        Some(text) => text.parse().map_or_else(
            |_| {
                let expected = format!("true, false or one {} address", F::NAME);
                problems.push(invalid(F::WISH_KEY, text, expected));
                Wish::Unsaid
            },
            Wish::Exactly,
        ),
    }
}

pub(super) fn wish_text<A: Display>(wish: Wish<A>) -> Option<String> {
    match wish {
        Wish::Unsaid => None,
        Wish::Yes => Some("true".to_owned()),
        Wish::No => Some("false".to_owned()),
        Wish::Exactly(address) => Some(address.to_string()),
    }
}

pub(super) fn cidr<F: Family>(text: Option<&str>, problems: &mut Vec<AnnotationProblem>) -> Option<F::Net> {
    let text = text?;
    let Ok(net) = text.parse::<F::Net>() else {
        let expected = format!("an {} prefix like {}", F::NAME, F::EXAMPLE);
        problems.push(invalid(F::CIDR_KEY, text, expected));
        return None;
    };
    let any: IpNet = net.into();
    if any.addr() != any.network() {
        let expected = format!("{}, without bits set beyond the length", any.trunc());
        problems.push(invalid(F::CIDR_KEY, text, expected));
        return None;
    }
    Some(net)
}

const ALGORITHMS: [(&str, Algorithm); 3] =
    [("sequential", Algorithm::Sequential), ("random", Algorithm::Random), ("stable", Algorithm::Stable)];

pub(super) fn algorithm(text: Option<&str>, problems: &mut Vec<AnnotationProblem>) -> Option<Algorithm> {
    let text = text?;
    let known = ALGORITHMS.iter().find(|(name, _)| *name == text);
    if known.is_none() {
        problems.push(invalid(IP_ALGO, text, "sequential, random or stable"));
    }
    known.map(|(_, algorithm)| *algorithm)
}

pub(super) fn algorithm_text(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Sequential => "sequential",
        Algorithm::Random => "random",
        Algorithm::Stable => "stable",
    }
}

/// Each is a route of its own, on the node and in the whole network.
const MAX_ANYCAST: usize = 64;

pub(super) fn anycast(text: Option<&str>, problems: &mut Vec<AnnotationProblem>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let count = text.map_or(0, |text| text.split(',').count());
    if count > MAX_ANYCAST {
        let expected = format!("at most {MAX_ANYCAST} addresses, not {count}");
        problems.push(invalid(ANYCAST, text.unwrap_or_default(), expected));
        return addresses;
    }
    for item in text.iter().flat_map(|text| text.split(',')).map(str::trim) {
        match item.parse::<IpAddr>() {
            Ok(address) if !is_unicast(address) => problems.push(invalid(
                ANYCAST,
                item,
                "global or private unicast addresses, none that is multicast, loopback, link-local, unspecified or reserved",
            )),
            Ok(address) if addresses.contains(&address) => {}
            Ok(address) => addresses.push(address),
            Err(_) => problems.push(invalid(ANYCAST, item, "IPv6 or IPv4 addresses separated by commas")),
        }
    }
    addresses
}

/// Whether a packet to it is routed, beyond one link, to one receiver (RFC 6890).
fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            // 0/8 is "this network", 224/3 is multicast, reserved and broadcast.
            (1..224).contains(&first) && !v4.is_loopback() && !v4.is_link_local()
        }
        IpAddr::V6(v6) => {
            // Embedded IPv4 addresses (RFC 4291, section 2.5.5), unspecified and loopback among them.
            !(v6.to_ipv4().is_some() || v6.is_multicast() || v6.is_unicast_link_local())
        }
    }
}

fn invalid(key: &'static str, value: &str, expected: impl Into<String>) -> AnnotationProblem {
    AnnotationProblem::Invalid { key, value: value.to_owned(), expected: expected.into() }
}
