use proptest::prelude::*;

use super::*;

fn map(annotations: &[(&str, &str)]) -> BTreeMap<String, String> {
    annotations.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn parse(annotations: &[(&str, &str)]) -> Result<Annotations, AnnotationError> {
    Annotations::parse(&map(annotations))
}

/// The message of annotations that are wrong by themselves.
fn refusal(annotations: &[(&str, &str)]) -> String {
    parse(annotations).unwrap_err().to_string()
}

const NONE: NodeCidrs = NodeCidrs { ipv6: None, ipv4: None };

fn dual() -> NodeCidrs {
    NodeCidrs { ipv6: "2001:db8:1::/64".parse().ok(), ipv4: "10.0.1.0/24".parse().ok() }
}

fn v6_only() -> NodeCidrs {
    NodeCidrs { ipv4: None, ..dual() }
}

fn v4_only() -> NodeCidrs {
    NodeCidrs { ipv6: None, ..dual() }
}

#[test]
fn the_keys_are_those_that_pods_use() {
    let names = ["ipv6", "ipv4", "cidr6", "cidr4", "ip-algo", "anycast"];
    assert_eq!(KEYS.to_vec(), names.map(|name| format!("flock.fritzlab.net/{name}")));
    assert!(KEYS.iter().all(|key| key.starts_with(PREFIX)));
}

#[test]
fn every_value_of_the_table_is_understood() {
    let asked = parse(&[
        (IPV6, "2001:db8:1::7"),
        (IPV4, "true"),
        (CIDR6, "2001:db8:1::/80"),
        (CIDR4, "10.0.1.64/26"),
        (IP_ALGO, "stable"),
        (ANYCAST, "2001:db8:a::53,192.0.2.53"),
    ])
    .unwrap();
    assert_eq!(asked.ipv6(), Wish::Exactly("2001:db8:1::7".parse().unwrap()));
    assert_eq!(asked.ipv4(), Wish::Yes);
    assert_eq!(asked.cidr6(), "2001:db8:1::/80".parse().ok());
    assert_eq!(asked.cidr4(), "10.0.1.64/26".parse().ok());
    assert_eq!(asked.algorithm(), Some(Algorithm::Stable));
    assert_eq!(asked.anycast(), ["2001:db8:a::53", "192.0.2.53"].map(|a| a.parse::<IpAddr>().unwrap()));
    for (name, algorithm) in
        [("sequential", Algorithm::Sequential), ("random", Algorithm::Random), ("stable", Algorithm::Stable)]
    {
        assert_eq!(parse(&[(IP_ALGO, name)]).unwrap().algorithm(), Some(algorithm));
    }
}

#[test]
fn without_annotations_a_pod_gets_what_the_node_has() {
    let asked = parse(&[]).unwrap();
    assert_eq!(asked, Annotations::default());
    for (node, ipv6, ipv4) in [
        (dual(), FamilyRequest::Any, FamilyRequest::Any),
        (v6_only(), FamilyRequest::Any, FamilyRequest::None),
        (v4_only(), FamilyRequest::None, FamilyRequest::Any),
    ] {
        let algorithm = Algorithm::Sequential;
        assert_eq!(asked.request(&node, &allowed()).unwrap(), AddressRequest { ipv6, ipv4, algorithm });
    }
}

/// What the operator lets pods have beside the node's prefixes.
fn allowed() -> AllowedPrefixes {
    let prefixes = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
    AllowedPrefixes {
        anycast: prefixes(["2001:db8:a::/48", "192.0.2.0/24"]),
        fixed: prefixes(["2001:db8:f::/64", "203.0.113.0/24"]),
    }
}

#[test]
fn an_address_outside_the_node_s_prefix_is_granted_where_the_operator_allows_it() {
    let asked = parse(&[(IPV6, "2001:db8:f::7"), (IPV4, "203.0.113.7")]).unwrap();
    // Also where the node has nothing of that family to give by itself.
    for node in [dual(), v6_only(), v4_only(), NONE] {
        let request = asked.request(&node, &allowed()).unwrap();
        assert_eq!(request.ipv6, FamilyRequest::Granted("2001:db8:f::7".parse().unwrap()));
        assert_eq!(request.ipv4, FamilyRequest::Granted("203.0.113.7".parse().unwrap()));
    }
    // What is allowed for others to serve is not a pod's own.
    for (address, expected) in [("192.0.2.7", "192.0.2.7"), ("203.0.112.255", "203.0.112.255")] {
        let request = parse(&[(IPV4, address)]).unwrap().request(&dual(), &allowed()).unwrap();
        assert_eq!(request.ipv4, FamilyRequest::Exactly(expected.parse().unwrap()));
    }
    // One of the node's own prefix needs nobody's leave.
    let wide = AllowedPrefixes { fixed: vec!["10.0.0.0/8".parse().unwrap()], ..AllowedPrefixes::default() };
    let request = parse(&[(IPV4, "10.0.1.7")]).unwrap().request(&dual(), &wide).unwrap();
    assert_eq!(request.ipv4, FamilyRequest::Exactly("10.0.1.7".parse().unwrap()));
}

#[test]
fn an_anycast_address_that_is_not_allowed_is_refused() {
    for (address, allowed, expected) in [
        ("198.51.100.1", allowed(), "expected an address of 2001:db8:a::/48 or 192.0.2.0/24; "),
        // A pod's own address is nobody else's.
        ("203.0.113.1", allowed(), "expected an address of 2001:db8:a::/48 or 192.0.2.0/24; "),
        (
            "2001:db8:b::1",
            AllowedPrefixes::default(),
            "a prefix that is allowed, and this node allows none; ",
        ),
    ] {
        let asked = parse(&[(ANYCAST, address)]).unwrap();
        let error = asked.request(&dual(), &allowed).unwrap_err().to_string();
        let named = format!("annotation flock.fritzlab.net/anycast names {address}, ");
        assert!(error.starts_with(&named) && error.contains(expected), "{error}\nexpected: {expected}");
        assert!(error.contains("spec.anycastPrefixes of the NodeConfig"), "{error}");
    }
    let many = (0..20).map(|number| format!("192.0.2.{number}/32").parse().unwrap()).collect();
    let allowed = AllowedPrefixes { anycast: many, ..AllowedPrefixes::default() };
    let error = parse(&[(ANYCAST, "198.51.100.1")]).unwrap().request(&dual(), &allowed).unwrap_err();
    assert!(error.to_string().contains("192.0.2.7/32 or 12 more"), "{error}");
}

#[test]
fn annotations_become_a_request() {
    let request =
        |annotations: &[(&str, &str)]| parse(annotations).unwrap().request(&dual(), &allowed()).unwrap();
    assert_eq!(request(&[(IPV6, "false")]).ipv6, FamilyRequest::None);
    assert_eq!(request(&[(IPV4, "false")]).ipv4, FamilyRequest::None);
    assert_eq!(request(&[(IPV6, "true")]).ipv6, FamilyRequest::Any);
    let (address, part) = ("10.0.1.77", "10.0.1.64/26");
    let (exactly, from) =
        (FamilyRequest::Exactly(address.parse().unwrap()), FamilyRequest::From(part.parse().unwrap()));
    assert_eq!(request(&[(IPV4, address)]).ipv4, exactly);
    assert_eq!(request(&[(IPV4, address), (CIDR4, part)]).ipv4, exactly);
    assert_eq!(request(&[(CIDR4, part)]).ipv4, from);
    assert_eq!(request(&[(IPV4, "true"), (CIDR4, part)]).ipv4, from);
    let from_v6 = FamilyRequest::From("2001:db8:1::/80".parse().unwrap());
    assert_eq!(request(&[(CIDR6, "2001:db8:1::/80")]).ipv6, from_v6);
    assert_eq!(request(&[(IP_ALGO, "random")]).algorithm, Algorithm::Random);
}

#[test]
fn white_space_around_a_value_has_no_meaning() {
    let asked = parse(&[(IPV6, " true\n"), (ANYCAST, " 192.0.2.1 ,\n 192.0.2.2 ")]).unwrap();
    assert_eq!(asked.ipv6(), Wish::Yes);
    assert_eq!(asked.anycast().len(), 2);
}

#[test]
fn an_anycast_address_counts_once() {
    let asked = parse(&[(ANYCAST, "2001:db8:a::53, 192.0.2.1, 2001:DB8:A:0::53")]).unwrap();
    assert_eq!(asked.anycast(), ["2001:db8:a::53", "192.0.2.1"].map(|a| a.parse::<IpAddr>().unwrap()));
}

#[test]
fn annotations_of_others_are_passed_over() {
    let others = [
        ("flock.fritzlab.net", "x"),
        ("ipv6", "x"),
        ("example.com/ipv6", "x"),
        ("flock.fritzlab.network/ipv6", "x"),
    ];
    assert_eq!(parse(&others).unwrap(), Annotations::default());
}

#[test]
fn a_value_that_does_not_parse_is_told_with_what_is_allowed() {
    let v6 = "expected true, false or one IPv6 address";
    let v4 = "expected true, false or one IPv4 address";
    let net6 = "expected an IPv6 prefix like 2001:db8:1::/80";
    let net4 = "expected an IPv4 prefix like 10.0.1.64/26";
    let list = "expected IPv6 or IPv4 addresses separated by commas";
    for (key, value, expected) in [
        (IPV6, "yes", v6),
        (IPV6, "True", v6),
        (IPV6, "", v6),
        (IPV6, "10.0.1.7", v6),
        (IPV6, "2001:db8:1::7/64", v6),
        (IPV6, "2001:db8:1::7,2001:db8:1::8", v6),
        (IPV4, "2001:db8:1::7", v4),
        (IPV4, "10.0.1.007", v4),
        (IPV4, "10.0.1", v4),
        (CIDR6, "10.0.1.0/24", net6),
        (CIDR6, "2001:db8:1::", net6),
        (CIDR6, "true", net6),
        (CIDR6, "2001:db8:1::7/80", "expected 2001:db8:1::/80, without bits set beyond the length"),
        (CIDR4, "2001:db8:1::/80", net4),
        (CIDR4, "10.0.1.0/33", net4),
        (CIDR4, "10.0.1.65/26", "expected 10.0.1.64/26, without bits set beyond the length"),
        (IP_ALGO, "Random", "expected sequential, random or stable"),
        (IP_ALGO, "", "expected sequential, random or stable"),
        (ANYCAST, "", list),
        (ANYCAST, "192.0.2.0/24", list),
        (ANYCAST, "dns.example.com", list),
    ] {
        assert_eq!(refusal(&[(key, value)]), format!("annotation {key} is {value:?}, {expected}"));
    }
}

#[test]
fn a_list_says_which_of_its_items_is_wrong() {
    let message = refusal(&[(ANYCAST, "192.0.2.1,,192.0.2.x")]);
    let list = "expected IPv6 or IPv4 addresses separated by commas";
    assert_eq!(
        message,
        format!("annotation {ANYCAST} is \"\", {list}; annotation {ANYCAST} is \"192.0.2.x\", {list}")
    );
}

#[test]
fn a_pod_serves_64_addresses_and_no_more() {
    let list = |count: u8| (0..count).map(|i| format!("192.0.2.{i}")).collect::<Vec<_>>().join(",");
    assert_eq!(parse(&[(ANYCAST, &list(64))]).unwrap().anycast().len(), 64);
    let message = refusal(&[(ANYCAST, &list(65))]);
    assert!(message.contains("expected at most 64 addresses, not 65"), "{message}");
    let commas = parse(&[(ANYCAST, &",".repeat(100_000))]).unwrap_err();
    assert_eq!(commas.problems.len(), 1);
}

#[test]
fn anycast_addresses_are_unicast_addresses() {
    for address in [
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "::ffff:192.0.2.1",
        "::192.0.2.1",
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "169.254.1.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
    ] {
        assert_eq!(
            refusal(&[(ANYCAST, address)]),
            format!(
                "annotation {ANYCAST} is \"{address}\", expected global or private unicast addresses, \
                 none that is multicast, loopback, link-local, unspecified or reserved"
            )
        );
    }
    for address in ["fd00::53", "2001:db8::53", "10.255.0.53", "1.1.1.1", "223.255.255.255"] {
        assert!(parse(&[(ANYCAST, address)]).is_ok(), "{address}");
    }
}

#[test]
fn a_key_that_does_not_exist_is_not_ignored() {
    assert_eq!(
        refusal(&[("flock.fritzlab.net/ipv-6", "false")]),
        "annotation flock.fritzlab.net/ipv-6 does not exist, expected one of flock.fritzlab.net/ipv6, \
         flock.fritzlab.net/ipv4, flock.fritzlab.net/cidr6, flock.fritzlab.net/cidr4, flock.fritzlab.net/ip-algo, \
         flock.fritzlab.net/anycast; correct or remove it"
    );
    assert!(parse(&[("flock.fritzlab.net/", "")]).is_err());
    assert!(parse(&[("flock.fritzlab.net/IPv6", "true")]).is_err());
}

#[test]
fn contradictions_are_told_with_both_sides() {
    for (key, value, cidr_key, cidr) in [
        (IPV6, "false", CIDR6, "2001:db8:1::/80"),
        (IPV4, "false", CIDR4, "10.0.1.64/26"),
        (IPV6, "2001:db8:1:0:1::", CIDR6, "2001:db8:1::/80"),
        (IPV4, "10.0.1.63", CIDR4, "10.0.1.64/26"),
    ] {
        assert_eq!(
            refusal(&[(key, value), (cidr_key, cidr)]),
            format!(
                "annotation {key} is \"{value}\", which contradicts {cidr_key} \"{cidr}\"; remove one of the two"
            )
        );
    }
}

#[test]
fn all_problems_are_named_at_once() {
    let error =
        parse(&[(IPV6, "x"), (CIDR4, "x"), (IP_ALGO, "x"), ("flock.fritzlab.net/x", "x")]).unwrap_err();
    assert_eq!(error.problems.len(), 4, "{error}");
    assert_eq!(error.retry(), crate::retry::Retry::Never);
}

#[test]
fn a_message_does_not_grow_with_the_number_of_problems() {
    let others: Vec<String> = (0..1000).map(|number| format!("{PREFIX}{number}")).collect();
    let error = parse(&others.iter().map(|key| (key.as_str(), "")).collect::<Vec<_>>()).unwrap_err();
    assert_eq!(error.problems.len(), 1000);
    let message = error.to_string();
    assert!(message.len() < 4096 && message.ends_with("; and 992 more"), "{message}");
    // What is shown is all of it.
    let error = parse(&others.iter().take(8).map(|key| (key.as_str(), "")).collect::<Vec<_>>()).unwrap_err();
    assert!(!error.to_string().contains(" more"), "{error}");
}

#[test]
fn long_values_are_cut_in_messages() {
    let message = refusal(&[(IPV6, &"é".repeat(100_000)), (&format!("{PREFIX}{}", "x".repeat(100_000)), "")]);
    assert!(message.len() < 1000, "{} bytes", message.len());
    assert!(message.contains("\" (cut), expected true, false"), "{message}");
}

#[test]
fn what_the_node_does_not_have_is_refused_when_asked_for() {
    for (annotation, node, family, node_key) in [
        ((IPV4, "true"), v6_only(), "IPv4", "cidr4"),
        ((IPV4, "10.0.1.7"), v6_only(), "IPv4", "cidr4"),
        ((CIDR4, "10.0.1.0/28"), v6_only(), "IPv4", "cidr4"),
        ((IPV6, "true"), v4_only(), "IPv6", "cidr6"),
        ((CIDR6, "2001:db8:1::/80"), v4_only(), "IPv6", "cidr6"),
    ] {
        let (key, value) = annotation;
        let error = parse(&[annotation]).unwrap().request(&node, &allowed()).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "annotation {key} is \"{value}\", but this node has no {family} prefix: its NodeConfig sets no \
                 {node_key}; remove the annotation or let the pod run on another node"
            )
        );
    }
    assert!(parse(&[(IPV4, "false")]).unwrap().request(&v6_only(), &allowed()).is_ok());
}

#[test]
fn a_pod_without_any_address_is_refused() {
    let both = [(IPV6, "false"), (IPV4, "false")];
    for (annotations, node, has) in [
        (&both[..], dual(), "IPv6 and IPv4"),
        (&both[..1], v6_only(), "IPv6 only"),
        (&both[1..], v4_only(), "IPv4 only"),
        (&[], NONE, "no prefix at all"),
    ] {
        let error = parse(annotations).unwrap().request(&node, &allowed()).unwrap_err().to_string();
        let expected = format!("no address family is left for this pod: the node has {has}");
        assert!(error.starts_with(&expected), "{error}\nexpected: {expected}");
    }
}

#[test]
fn an_anycast_address_needs_a_pod_that_can_answer() {
    let error = |annotations: &[(&str, &str)], node: NodeCidrs| {
        parse(annotations).unwrap().request(&node, &allowed()).unwrap_err().to_string()
    };
    assert_eq!(
        error(&[(ANYCAST, "192.0.2.53")], v6_only()),
        "annotation flock.fritzlab.net/anycast names 192.0.2.53, but the pod gets no IPv4 address and so has no \
         route to answer by; give it one or remove the anycast address"
    );
    assert!(error(&[(ANYCAST, "2001:db8:a::53"), (IPV6, "false")], dual()).contains("gets no IPv6 address"));
    assert_eq!(
        error(&[(ANYCAST, "2001:db8:1::53")], dual()),
        "annotation flock.fritzlab.net/anycast names 2001:db8:1::53, which is in this node's prefix 2001:db8:1::/64 \
         for the pods' own addresses; expected an address outside it"
    );
    assert!(parse(&[(ANYCAST, "2001:db8:a::53,192.0.2.53")]).unwrap().request(&dual(), &allowed()).is_ok());
}

fn any_wish<A: std::fmt::Debug + Clone + 'static>(
    address: impl Strategy<Value = A> + 'static,
) -> impl Strategy<Value = Wish<A>> {
    prop_oneof![Just(Wish::Unsaid), Just(Wish::Yes), Just(Wish::No), address.prop_map(Wish::Exactly)]
}

prop_compose! {
    /// Without contradictions: a part only where it is not excluded.
    fn any_annotations()(
        ipv6 in any_wish(any::<Ipv6Addr>()),
        ipv4 in any_wish(any::<Ipv4Addr>()),
        part6 in proptest::option::of((any::<Ipv6Addr>(), 0..=128_u8)),
        part4 in proptest::option::of((any::<Ipv4Addr>(), 0..=32_u8)),
        algorithm in proptest::option::of(prop_oneof![
            Just(Algorithm::Sequential), Just(Algorithm::Random), Just(Algorithm::Stable),
        ]),
        anycast in proptest::collection::btree_set("2001:db8::[1-9a-f]{1,4}|192\\.0\\.2\\.[1-9]", 0..4),
    ) -> Annotations {
        let cidr6 = part6.and_then(|(address, length)| match ipv6 {
            Wish::No => None,
            Wish::Exactly(exact) => Ipv6Net::new(exact, length).ok(),
            Wish::Unsaid | Wish::Yes => Ipv6Net::new(address, length).ok(),
        });
        let cidr4 = part4.and_then(|(address, length)| match ipv4 {
            Wish::No => None,
            Wish::Exactly(exact) => Ipv4Net::new(exact, length).ok(),
            Wish::Unsaid | Wish::Yes => Ipv4Net::new(address, length).ok(),
        });
        Annotations {
            ipv6,
            ipv4,
            cidr6: cidr6.map(|net| net.trunc()),
            cidr4: cidr4.map(|net| net.trunc()),
            algorithm,
            anycast: anycast.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }
}

proptest! {
    #[test]
    fn annotations_are_read_back_from_what_they_are_written_as(annotations in any_annotations()) {
        prop_assert_eq!(Annotations::parse(&annotations.to_map()), Ok(annotations));
    }

    #[test]
    fn parsing_never_panics(
        values in proptest::collection::btree_map(
            prop_oneof![proptest::sample::select(&KEYS[..]).prop_map(str::to_owned), "(flock\\.fritzlab\\.net/)?.{0,8}"],
            prop_oneof![".*", "[0-9a-f:.,/ ]{0,40}", "(true|false|,| ){0,3}"],
            0..8,
        ),
    ) {
        match Annotations::parse(&values) {
            Ok(annotations) => {
                prop_assert_eq!(Annotations::parse(&annotations.to_map()), Ok(annotations.clone()));
                for node in [dual(), v6_only(), v4_only(), NONE] {
                    let _ = annotations.request(&node, &allowed());
                }
            }
            Err(error) => prop_assert!(!error.problems.is_empty() && !error.to_string().is_empty()),
        }
    }
}
