use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::control::reply;

#[test]
fn a_table_with_all() {
    let rows = parse(&reply(
        "1007-Table master4:\n 203.0.113.0/24       unicast [tor1 2026-01-01 10:00:00.250 from 192.0.2.7] * (100/5) [AS64500i]\n \
         \tvia 192.0.2.254 on eth0 weight 2\n \tvia fe80::1 on eth1 onlink weight 1\n1008-\tType: BGP univ\n1012-\tBGP.origin: IGP\n \
         \tBGP.as_path: 64500 {64501 64502}\n \tBGP.next_hop: 2001:db8::1 fe80::1\n \tBGP.med: 7\n \tBGP.local_pref: 100\n \
         \tBGP.community: (64500,1) (65535,0)\n \t\t(64500,3)\n \tBGP.large_community: (64500, 1, 2)\n \tBGP.aggregator: 192.0.2.1 AS1\n\
         1007-                     blackhole [static1 10:00:00.000] (200)\n1008-\tType: static univ\n1007-\n Table master6:\n \
         2001:db8::/32 unreachable [tor2 2026-01-01] ! (100)\n0000 \n",
    ));
    assert_eq!(rows.unknown, [""; 0]);
    let [first, second, third] = rows.known.as_slice() else { panic!("{rows:?}") };
    assert_eq!((first.table.as_deref(), first.destination.as_str()), (Some("master4"), "unicast"));
    assert_eq!((first.protocol.as_str(), first.from), ("tor1", Some([192, 0, 2, 7].into())));
    assert_eq!((first.best, first.not_in_kernel, first.preference), (true, false, Some(100)));
    let hop = |via: &str, interface: &str, weight| NextHop {
        via: Some(via.parse().unwrap()),
        interface: Some(interface.to_owned()),
        weight: Some(weight),
    };
    assert_eq!(first.next_hops, [hop("192.0.2.254", "eth0", 2), hop("fe80::1", "eth1", 1)]);
    let expected = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath(vec![Segment::Sequence(vec![64500]), Segment::Set(vec![64501, 64502])])),
        next_hops: ["2001:db8::1", "fe80::1"].map(|address| address.parse().unwrap()).into(),
        local_preference: Some(100),
        med: Some(7),
        communities: vec![Community(64500, 1), Community(65535, 0), Community(64500, 3)],
        large_communities: vec![LargeCommunity(64500, 1, 2)],
        other: vec![("Type".into(), "BGP univ".into()), ("BGP.aggregator".into(), "192.0.2.1 AS1".into())],
    };
    assert_eq!(first.bgp, expected);
    assert_eq!((second.prefix, second.best, second.preference), (first.prefix, false, Some(200)));
    assert_eq!((third.table.as_deref(), third.best, third.not_in_kernel), (Some("master6"), true, true));
}

#[test]
fn what_cant_be_read_is_kept_and_takes_its_lines_along() {
    let rows = parse(&reply(
        "1007-64500:1 203.0.113.0/24 unicast [tor1 10:00] * (100)\n \tvia 192.0.2.254 on eth0\n                      \
         unicast [tor2 10:00] (100)\n 203.0.113.0/24 unicast [tor1 10:00] * (100)\n1012-\tBGP.as_path: 64500 ...\n \tBGP.med: many\n0000 \n",
    ));
    assert_eq!((rows.known.len(), rows.unknown.len()), (1, 2), "{rows:?}");
    let route = &rows.known[0];
    assert_eq!(route.next_hops, []);
    let other = [("BGP.as_path", "64500 ..."), ("BGP.med", "many")];
    assert_eq!(route.bgp.other, other.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn routes_are_counted_by_table() {
    let rows = parse_counts(&reply(
        "1007-4 of 5 routes for 3 networks in table master4\n many routes\n0014 Total: 4 of 5 routes\n0000 \n",
    ));
    let count = Count { table: "master4".into(), routes: 4, of: 5, prefixes: 3 };
    assert_eq!(rows, Rows { known: vec![count], unknown: vec!["many routes".into()] });
}

fn numbers() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(any::<u32>(), 1..4)
}

fn as_path() -> impl Strategy<Value = AsPath> {
    let segment = prop_oneof![
        numbers().prop_map(Segment::Sequence),
        numbers().prop_map(Segment::Set),
        numbers().prop_map(Segment::ConfederationSequence),
        numbers().prop_map(Segment::ConfederationSet),
    ];
    proptest::collection::vec(segment, 0..4).prop_map(|mut segments| {
        // Two sequences in a row are written as one.
        let is_sequence = |segment: &Segment| matches!(segment, Segment::Sequence(_));
        segments.dedup_by(|one, other| is_sequence(one) && is_sequence(other));
        AsPath(segments)
    })
}

prop_compose! {
    fn attributes()(
        origin in option::of(prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)]),
        as_path in option::of(as_path()),
        next_hops in proptest::collection::vec(any::<IpAddr>(), 0..3),
        local_preference in option::of(any::<u32>()),
        med in option::of(any::<u32>()),
        communities in proptest::collection::vec(any::<(u16, u16)>(), 0..5),
        large_communities in proptest::collection::vec(any::<(u32, u32, u32)>(), 0..5),
        other in proptest::collection::vec(("X[.][a-z]{1,6}", "[a-z]{0,6}"), 0..2),
    ) -> Attributes {
        Attributes {
            origin, as_path, next_hops, local_preference, med,
            communities: communities.into_iter().map(|(a, b)| Community(a, b)).collect(),
            large_communities: large_communities.into_iter().map(|(a, b, c)| LargeCommunity(a, b, c)).collect(),
            other,
        }
    }
}

prop_compose! {
    fn route()(
        prefix in prop_oneof![
            (any::<Ipv4Addr>(), 0_u8..=32).prop_map(|(address, len)| IpNet::V4(Ipv4Net::new(address, len).unwrap())),
            (any::<Ipv6Addr>(), 0_u8..=128).prop_map(|(address, len)| IpNet::V6(Ipv6Net::new(address, len).unwrap())),
        ],
        is_unicast: bool,
        protocol in "[a-z][a-z0-9_.-]{0,8}",
        time in (0_i8..24, 0_i8..60),
        from in option::of(any::<IpAddr>()),
        marks in 0_u8..3,
        preference in any::<u16>(),
        hops in proptest::collection::vec((option::of(any::<IpAddr>()), "[a-z]{1,8}[0-9]", option::of(1_u32..256)), 1..4),
        bgp in attributes(),
    ) -> Route {
        let hops = hops.into_iter().map(|(via, interface, weight)| NextHop { via, interface: Some(interface), weight });
        Route {
            table: Some("main".to_owned()),
            prefix,
            destination: if is_unicast { "unicast" } else { "blackhole" }.to_owned(),
            protocol,
            since: Moment::Time(jiff::civil::time(time.0, time.1, 0, 0)),
            from,
            best: marks > 0,
            not_in_kernel: marks > 1,
            preference: Some(preference.into()),
            next_hops: if is_unicast { hops.collect() } else { Vec::new() },
            bgp,
        }
    }
}

fn joined<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" ")
}

/// As BIRD writes it, lists on two lines.
fn written(routes: &[Route]) -> String {
    let mut text = String::from("1007-Table main:\n");
    let mut last = None;
    for route in routes {
        let prefix = if last == Some(route.prefix) { String::new() } else { route.prefix.to_string() };
        last = Some(route.prefix);
        let from = route.from.map(|from| format!(" from {from}")).unwrap_or_default();
        let mark = match (route.best, route.not_in_kernel) {
            (_, true) => " !",
            (true, false) => " *",
            (false, false) => "",
        };
        let (kind, protocol, since) = (&route.destination, &route.protocol, &route.since);
        let preference = route.preference.unwrap();
        writeln!(text, "1007-{prefix:<20} {kind} [{protocol} {since}{from}]{mark} ({preference}/-) [AS1i]")
            .unwrap();
        for hop in &route.next_hops {
            let interface = hop.interface.as_ref().unwrap();
            let way = hop.via.map_or(format!("dev {interface}"), |via| format!("via {via} on {interface}"));
            let weight = hop.weight.map(|weight| format!(" weight {weight}")).unwrap_or_default();
            writeln!(text, " \t{way}{weight}").unwrap();
        }
        let bgp = &route.bgp;
        let mut put = |name: &str, value: String| writeln!(text, "1012-\t{name}: {value}").unwrap();
        if let Some(origin) = bgp.origin {
            put("BGP.origin", format!("{origin:?}").replace("Igp", "IGP").replace("Egp", "EGP"));
        }
        if let Some(path) = &bgp.as_path {
            put("BGP.as_path", path.to_string());
        }
        if !bgp.next_hops.is_empty() {
            put("BGP.next_hop", joined(&bgp.next_hops));
        }
        if let Some(preference) = bgp.local_preference {
            put("BGP.local_pref", preference.to_string());
        }
        if let Some(med) = bgp.med {
            put("BGP.med", med.to_string());
        }
        let community = |community: &Community| format!("({},{})", community.0, community.1);
        if let Some((first, more)) = bgp.communities.split_first() {
            put("BGP.community", community(first));
            if !more.is_empty() {
                writeln!(text, " \t\t{}", joined(more.iter().map(community))).unwrap();
            }
        }
        let large = |large: &LargeCommunity| format!("({}, {}, {})", large.0, large.1, large.2);
        if let Some((first, more)) = bgp.large_communities.split_first() {
            writeln!(text, "1012-\tBGP.large_community: {}", large(first)).unwrap();
            if !more.is_empty() {
                writeln!(text, " \t\t{}", joined(more.iter().map(large))).unwrap();
            }
        }
        for (name, value) in &bgp.other {
            writeln!(text, "1012-\t{name}: {value}").unwrap();
        }
    }
    text + "0000 \n"
}

proptest! {
    #[test]
    fn what_is_written_is_read(routes in proptest::collection::vec(route(), 0..5), twice: bool) {
        let mut routes = routes;
        if twice {
            let again = routes.clone();
            routes.extend(again.last().cloned());
        }
        let text = written(&routes);
        let read = parse(&reply(&text));
        prop_assert_eq!(read, Rows { known: routes, unknown: Vec::new() }, "{}", text);
    }
}
