//! Addresses as numbers, and which of a prefix are never given.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The two address families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V6,
    V4,
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V6 => "IPv6",
            Self::V4 => "IPv4",
        }
    }

    /// The key of the NodeConfig that gives the node a prefix of this family.
    pub(super) fn config_key(self) -> &'static str {
        match self {
            Self::V6 => "spec.cidr6",
            Self::V4 => "spec.cidr4",
        }
    }

    pub(super) fn is_of(self, address: IpAddr) -> bool {
        address.is_ipv6() == (self == Self::V6)
    }
}

/// An address as a number: of an IPv4 address the low 32 bits are used.
pub(super) fn point_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V6(address) => address.to_bits(),
        IpAddr::V4(address) => address.to_bits().into(),
    }
}

pub(super) fn ipv6_of(point: u128) -> Ipv6Addr {
    Ipv6Addr::from_bits(point)
}

pub(super) fn ipv4_of(point: u128) -> Ipv4Addr {
    let [.., a, b, c, d] = point.to_be_bytes();
    Ipv4Addr::new(a, b, c, d)
}

/// The points from `first` to `last`, both inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Span {
    pub(super) first: u128,
    pub(super) last: u128,
}

impl Span {
    /// All addresses of `net`, whatever its host bits say.
    pub(super) fn of(net: IpNet) -> Self {
        Self { first: point_of(net.network()), last: point_of(net.broadcast()) }
    }

    pub(super) fn contains(self, point: u128) -> bool {
        (self.first..=self.last).contains(&point)
    }

    pub(super) fn contains_span(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// The point of this span that `bits` name: a span is that of a prefix, so
    /// each of its points is named by equally many.
    pub(super) fn point(self, bits: u128) -> u128 {
        self.first | (bits & (self.first ^ self.last))
    }
}

/// The prefix of one family that new addresses come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) net: IpNet,
    pub(super) span: Span,
    /// Those inside the prefix only.
    own: BTreeSet<u128>,
}

impl Prefix {
    pub(super) fn new(net: IpNet, own: &[IpAddr]) -> Self {
        let span = Span::of(net);
        let family = if net.addr().is_ipv6() { Family::V6 } else { Family::V4 };
        let own = own.iter().filter(|address| family.is_of(**address)).map(|address| point_of(*address));
        Self { net: net.trunc(), span, own: own.filter(|point| span.contains(*point)).collect() }
    }

    /// Whether `point` can be given to a pod at all.
    pub(super) fn gives(&self, point: u128) -> bool {
        self.span.contains(point) && self.reserved(point).is_none()
    }

    /// Why `point`, an address of this prefix, is never given; `None` if it may be.
    pub(super) fn reserved(&self, point: u128) -> Option<&'static str> {
        self.edges()
            .into_iter()
            .flatten()
            .find_map(|(edge, reason)| (edge == point).then_some(reason))
            .or_else(|| self.own.contains(&point).then_some("one of the node's own addresses"))
    }

    /// Every address of this prefix that is never given, once.
    pub(super) fn reserved_points(&self) -> BTreeSet<u128> {
        let edges = self.edges().into_iter().flatten().map(|(edge, _)| edge);
        edges.chain(self.own.iter().copied()).collect()
    }

    /// How many addresses of `span`, a part of this prefix, can be given at all.
    pub(super) fn size_of(&self, span: Span) -> u128 {
        let reserved = self.reserved_points().range(span.first..=span.last).count() as u128;
        let steps = span.last - span.first;
        // The whole of IPv6 has one address more than fits.
        match reserved.checked_sub(1) {
            Some(others) => steps - others,
            None => steps.saturating_add(1),
        }
    }

    fn edges(&self) -> [Option<(u128, &'static str)>; 2] {
        let Span { first, last } = self.span;
        let host_bits = self.net.max_prefix_len() - self.net.prefix_len();
        match self.net {
            // Point-to-point links (RFC 3021, RFC 6164) and single addresses use all they have.
            _ if host_bits < 2 => [None, None],
            IpNet::V4(_) => [
                Some((first, "the network address of the node's prefix")),
                Some((last, "the broadcast address of the node's prefix")),
            ],
            IpNet::V6(_) => [Some((first, "the subnet-router anycast address of the node's prefix")), None],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(net: &str, own: &[&str]) -> Prefix {
        let own: Vec<IpAddr> = own.iter().map(|address| address.parse().unwrap()).collect();
        Prefix::new(net.parse().unwrap(), &own)
    }

    #[test]
    fn sizes_leave_out_what_is_never_given() {
        for (net, own, size) in [
            ("10.0.1.0/24", vec![], 254),
            ("10.0.1.0/24", vec!["10.0.1.1", "10.0.1.1", "10.0.2.1", "2001:db8::1"], 253),
            ("10.0.1.0/24", vec!["10.0.1.0", "10.0.1.255"], 254),
            ("10.0.1.0/31", vec![], 2),
            ("10.0.1.0/32", vec![], 1),
            ("10.0.1.0/32", vec!["10.0.1.0"], 0),
            ("0.0.0.0/0", vec![], (1 << 32) - 2),
            ("2001:db8::/64", vec![], (1 << 64) - 1),
            ("2001:db8::/127", vec![], 2),
            ("2001:db8::/128", vec![], 1),
            ("::/0", vec![], u128::MAX),
            ("::/0", vec!["::1"], u128::MAX - 1),
        ] {
            let prefix = prefix(net, &own);
            assert_eq!(prefix.size_of(prefix.span), size, "{net} with {own:?}");
        }
    }

    #[test]
    fn a_part_lacks_only_what_the_whole_never_gives() {
        let prefix = prefix("10.0.1.0/24", &["10.0.1.130"]);
        for (part, size) in [("10.0.1.0/25", 127), ("10.0.1.64/26", 64), ("10.0.1.128/25", 126)] {
            assert_eq!(prefix.size_of(Span::of(part.parse().unwrap())), size, "{part}");
        }
    }

    #[test]
    fn points_of_a_span_stay_inside_and_reach_its_ends() {
        let span = Span::of("10.0.1.16/28".parse().unwrap());
        assert_eq!(span.point(0), span.first);
        assert_eq!(span.point(u128::MAX), span.last);
        assert!(span.contains(span.point(0x1234_5678_9abc)));
    }
}
