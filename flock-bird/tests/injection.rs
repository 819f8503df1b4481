//! Whatever somebody writes into a NodeConfig: it is refused, or BIRD gets a configuration with
//! exactly the protocols that were asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;

use flock_bird::render::{Renderer, protocol_name};
use flock_core::announcer::Announcements;
use flock_core::node_config::{
    Bgp, Family, Import, Manifest, Neighbor, NodeConfig, Password, PasswordReference,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

/// Good values, what would get out of its place in BIRD's language, in YAML or in a template, and
/// anything at all.
fn text(good: &'static [&'static str]) -> impl Strategy<Value = String> {
    let breaking = [
        "'; protocol static evil { ipv4; route 0.0.0.0/0 blackhole; } #",
        "\"; include \"/etc/passwd\"; #",
        "a' {}\nprotocol direct evil { ipv4; }\n#",
        "a\r\nfilter evil { accept; }",
        "}}; {{evil}} {{",
        "/* evil",
        "*/ evil",
        "# evil",
        "%evil",
        "fe80::1%evil",
        "2001:db8::1%eth0",
        "fe80::1%eth0",
        "2001:db8:1::1/64",
        "10.0.1.1/24",
        "10.0.1.0/24, 0.0.0.0/0",
        "10.0.1.0/24+",
        "0.0.0.0/0",
        "::/0",
        "192.0.2.1 as 1; evil",
        "0x7f000001",
        "\0",
        "",
    ];
    let spoilt = (prop::sample::select(good), prop::sample::select(breaking.to_vec()), any::<bool>());
    prop_oneof![
        4 => prop::sample::select(good).prop_map(str::to_owned),
        1 => prop::sample::select(breaking.to_vec()).prop_map(str::to_owned),
        1 => spoilt.prop_map(|(good, breaking, after)| {
            if after { format!("{good}{breaking}") } else { format!("{breaking}{good}") }
        }),
        1 => any::<String>(),
    ]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => (1_u32..65_000).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => text(&["64512", "1.1"]).prop_map(Value::from),
    ]
}

fn spec() -> impl Strategy<Value = Value> {
    let rarely = |values| prop::option::weighted(0.15, text(values));
    let words = (
        prop::option::weighted(0.03, text(&["a description"])),
        rarely(&["all", "default", "none"]),
        rarely(&["ipv4", "ipv6"]),
        rarely(&["restart", "helper", "disabled"]),
        rarely(&["restart", "disable", "block", "warn"]),
    );
    let texts = (
        rarely(&["192.0.2.1", "2001:db8:ffff::2"]),
        rarely(&["/etc/flock/password", "/x"]),
        rarely(&["64512:100", "no-export", "blackhole"]),
        rarely(&["64512:1:2"]),
        prop::option::weighted(0.15, number()),
        any::<[bool; 3]>(),
    );
    let place = prop_oneof![
        8 => text(&["192.0.2.254", "2001:db8:ffff::1", "192.0.2.253"]).prop_map(|at| json!({"address": at})),
        1 => text(&["eth1", "eth1.5"]).prop_map(|at| json!({"interface": at})),
        1 => text(&["eth1", "eth1.5"]).prop_map(|at| json!({"interface": at, "address": "fe80::1"})),
    ];
    let peer = (text(&["tor1", "tor2", "bgp", "ipv4", "a-b"]), place, number(), words, texts).prop_map(
        |(name, place, asn, words, texts)| {
            let (description, import, family, mode, action) = words;
            let (local, file, community, large, med, [ttl, bfd, of_kind]) = texts;
            let mut peer = json!({"name": name, "asn": asn, "ttlSecurity": ttl});
            peer.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
            let mut set = |field: &str, value: Option<Value>| {
                if let Some(value) = value {
                    peer[field] = value;
                }
            };
            let attributes = json!({
                "communities": Vec::from_iter(community), "largeCommunities": Vec::from_iter(large), "med": med,
            });
            set("description", description.map(Value::from));
            set("import", import.map(Value::from));
            set("families", family.map(|family| json!([family])));
            set("gracefulRestart", mode.map(|mode| json!({"mode": mode})));
            set("maxPrefixes", action.map(|action| json!({"count": 7, "action": action})));
            set("localAddress", local.map(Value::from));
            set("passwordFile", file.map(Value::from));
            set("bfd", bfd.then(|| json!({})));
            set("export", Some(if of_kind { json!({"anycast": attributes}) } else { attributes }));
            peer
        },
    );
    (
        prop::option::of(text(&["2001:db8:1::/64", "2001:db8:2::/48"])),
        prop::option::of(text(&["10.0.1.0/24", "192.168.0.0/16"])),
        prop::option::weighted(0.7, text(&["192.0.2.1", "10.0.0.1"])),
        number(),
        prop::collection::vec(peer, 0..3),
    )
        .prop_map(|(cidr6, cidr4, router_id, asn, peers)| {
            let mut bgp = json!({"asn": asn, "peers": peers});
            if let Some(id) = router_id {
                bgp["routerId"] = id.into();
            }
            let mut spec = json!({"bgp": bgp});
            for (key, value) in [("cidr6", cidr6), ("cidr4", cidr4)] {
                if let Some(value) = value {
                    spec[key] = value.into();
                }
            }
            spec
        })
}

/// By both ways in which a NodeConfig comes: as a file, and as an object.
fn read(name: &str, spec: &Value) -> Option<NodeConfig> {
    let manifest = json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1",
        "kind": "NodeConfig",
        "metadata": {"name": name},
        "spec": spec,
    });
    let file = NodeConfig::from_yaml(&manifest.to_string(), "test").ok();
    let object = serde_json::from_value::<Manifest>(manifest).ok();
    let object = object.and_then(|manifest| NodeConfig::from_manifest(&manifest).ok());
    if let (Some(file), Some(object)) = (&file, &object) {
        assert_eq!(file, object);
    }
    // YAML takes a quoted number for a number.
    file.or(object)
}

/// Every word of BIRD's language that defines or includes something.
const DEFINING: [&str; 8] =
    ["protocol", "filter", "function", "define", "include", "template", "table", "eval"];

/// A line with a password, which may hold anything but the end of its quotes.
fn is_password(line: &str) -> bool {
    let password = line.strip_prefix("  password \"").and_then(|rest| rest.strip_suffix("\";"));
    password.is_some_and(|password| !password.contains('"') && password.is_ascii())
}

/// What a configuration that BIRD takes defines or uses, wherever in a line that stands: the
/// kind and the name.
fn defined(text: &str) -> BTreeSet<String> {
    let spread = text
        .lines()
        .filter(|line| !is_password(line))
        .map(|line| line.split('#').next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
        .replace('{', " { ")
        .replace([';', '}'], " ");
    let words: Vec<&str> = spread.split_whitespace().collect();
    let defining = words.iter().enumerate().filter(|(_, word)| DEFINING.contains(word));
    defining
        .map(|(at, word)| match *word {
            "protocol" => words[at..at + 3].join(" "),
            _ => words[at..at + 2].join(" "),
        })
        .collect()
}

/// What should be in it.
fn expected(config: &NodeConfig, bgp: &Bgp) -> BTreeSet<String> {
    // The second one is of `timeformat`, and defines nothing.
    let mut wanted: BTreeSet<String> = ["protocol device {", "protocol iso long"].map(str::to_owned).into();
    for (version, has_prefix) in [(4, config.cidrs.ipv4.is_some()), (6, config.cidrs.ipv6.is_some())] {
        wanted.insert(format!("protocol kernel flock_kernel{version}"));
        for name in ["from_kernel", "to_kernel", "from_peers", "to_peers"] {
            wanted.insert(format!("filter flock_{name}{version}"));
        }
        if has_prefix {
            wanted.extend(["OWN", "ANNOUNCED"].map(|name| format!("define FLOCK_{name}{version}")));
        }
    }
    for peer in &bgp.peers {
        wanted.insert(format!("protocol bgp '{}'", protocol_name(&peer.name)));
        if !peer.is_on_link(bgp.asn) {
            wanted.insert("protocol direct flock_direct".to_owned());
        }
        if peer.bfd.is_some() {
            wanted.insert("protocol bfd flock_bfd".to_owned());
        }
        if matches!(peer.neighbor, Neighbor::Unnumbered { .. }) {
            wanted.insert("protocol radv flock_radv".to_owned());
        }
        for family in &peer.families {
            let version = family.version();
            if peer.import == Import::Default {
                wanted.insert(format!("filter flock_default_from_peers{version}"));
            }
            let has_prefix = config.cidrs.iter().any(|cidr| Family::of(cidr.addr()) == *family);
            // Nobody serves an anycast address here.
            if has_prefix && !peer.export.all.is_empty() {
                wanted.insert(format!("filter 'flock_to_{}_v{version}'", peer.name));
            }
        }
    }
    // Used only where there is a peer, and defined in any case.
    wanted
}

fn bird_takes(text: &str) -> Result<(), String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let output =
        Command::new("bird").arg("-p").arg("-c").arg(file.path()).output().expect("bird2 is installed");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn nothing_that_a_node_config_says_gets_out_of_its_place() {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 5_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let (read_well, taken) = (Cell::new(0), Cell::new(0));
    let strategy = (text(&["host001", "host001.example.com"]), spec(), text(&["geheim", "a'b\\c #;{}"]));
    let outcome = runner.run(&strategy, |(name, spec, password)| {
        let Some(config) = read(&name, &spec) else { return Ok(()) };
        let find = |_: &PasswordReference| Password::new(&*password).map_err(|error| error.to_string());
        let bgp = config.bgp.clone().unwrap().with_passwords(find);
        if bgp.peers.is_empty() {
            return Ok(());
        }
        read_well.set(read_well.get() + 1);
        // Others were refused, and told of without what acts on a terminal.
        for refused in &bgp.refused {
            prop_assert!(!refused.to_string().contains(char::is_control), "{refused}");
        }
        let known = bgp.clone();
        let wanted = Announcements {
            peers: bgp.peers,
            summaries: config.cidrs.iter().collect(),
            maximum_paths: bgp.maximum_paths,
            export: bgp.export,
            ..Announcements::new(bgp.asn, bgp.router_id.unwrap_or(Ipv4Addr::new(192, 0, 2, 1)))
        };
        // The renderer looks once more: what it refuses is not written.
        let Ok(text) = Renderer::new(70).unwrap().render(&wanted) else { return Ok(()) };
        let evil = text.lines().any(|line| line.contains("evil") && !is_password(line));
        prop_assert!(!evil, "{text}");
        prop_assert_eq!(defined(&text), expected(&config, &known), "{}", text);
        bird_takes(&text).map_err(|said| TestCaseError::fail(format!("{said}\n{text}")))?;
        taken.set(taken.get() + 1);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    // A reader that refuses everything would pass as well.
    assert!(taken.get() > 30 && taken.get() >= read_well.get() / 2, "{} of {}", taken.get(), read_well.get());
    assert!(read_well.get() < 1_000, "hardly anything was refused: {}", read_well.get());
}
