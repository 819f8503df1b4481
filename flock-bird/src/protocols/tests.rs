use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::control::reply;

fn one(text: &str) -> Protocol {
    let mut rows = parse(&reply(text));
    assert_eq!((rows.known.len(), &rows.unknown), (1, &Vec::new()), "{rows:?}");
    rows.known.remove(0)
}

#[test]
fn a_session_that_is_up() {
    let protocol = one(
        "1002-peer_tor1  BGP        ---        up     2026-01-01 10:00:00.250  Established   \n\
        1006-  BGP state:          Established\n     Neighbor address: 192.0.2.254\n     Neighbor AS:      64500\n     \
        Local AS:         64512\n     Neighbor ID:      192.0.2.253\n     Local capabilities\n       Route refresh\n     \
        Neighbor capabilities\n       Multiprotocol\n         AF announced: ipv4 ipv6\n       Extended next hop\n         \
        IPv6 nexthop: ipv4\n       Graceful restart\n         Restart time: 120\n         Restart recovery\n         \
        AF supported: ipv4\n         AF preserved:\n       Role: provider\n         Something below it\n     \
        Session:          external AS4\n     Source address:   192.0.2.1\n     Hold timer:       213.500/240\n   \
        Channel ipv4\n     State:          UP\n     Table:          master4\n     Import limit:   4 [HIT]\n       \
        Action:       block\n     Export limit:   9\n       Action:       warn\n     Routes:         4 imported, 1 filtered, 3 exported, 2 preferred\n     \
        Route change stats:     received   rejected\n       Import updates:              6          0\n     \
        BGP Next hop:   2001:db8::1 fe80::1\n \n0000 \n",
    );
    assert_eq!((protocol.state, protocol.table), (State::Up, None));
    let session = protocol.bgp.unwrap();
    assert_eq!(session.state, SessionState::Established);
    assert_eq!(session.neighbor, Some("192.0.2.254".parse().unwrap()));
    assert_eq!((session.neighbor_asn, session.local_asn), (Some(64500), Some(64512)));
    assert_eq!(session.neighbor_id, Some([192, 0, 2, 253].into()));
    assert_eq!(session.source_address, Some([192, 0, 2, 1].into()));
    let hold = Timer { left: Duration::from_millis(213_500), of: Duration::from_secs(240) };
    assert_eq!((session.hold_timer, session.keepalive_timer), (Some(hold), None));
    assert_eq!(session.last_error, None);
    let local = Capabilities { route_refresh: true, ..Capabilities::default() };
    assert_eq!(session.local_capabilities, Some(local));
    let neighbor = Capabilities {
        families: vec!["ipv4".into(), "ipv6".into()],
        extended_next_hop: vec!["ipv4".into()],
        graceful_restart: Some(GracefulRestart {
            time: Some(Duration::from_secs(120)),
            recovering: true,
            families: vec!["ipv4".into()],
            preserved: Vec::new(),
        }),
        other: vec!["Role: provider".into()],
        ..Capabilities::default()
    };
    assert_eq!(session.neighbor_capabilities, Some(neighbor));
    let limit = |routes, hit, action: &str| Some(Limit { routes, hit, action: Some(action.to_owned()) });
    let channel = Channel {
        name: "ipv4".into(),
        state: State::Up,
        table: Some("master4".into()),
        routes: Some(RouteCounts {
            imported: Some(4),
            filtered: Some(1),
            exported: Some(3),
            preferred: Some(2),
        }),
        receive_limit: None,
        import_limit: limit(4, true, "block"),
        export_limit: limit(9, false, "warn"),
        next_hops: ["2001:db8::1", "fe80::1"].map(|address| address.parse().unwrap()).into(),
    };
    assert_eq!(protocol.channels, [channel]);
}

#[test]
fn without_details_a_session_has_its_state_and_last_error() {
    for (info, state, error) in [
        (
            "Active        Socket: Connection refused",
            SessionState::Active,
            Some("Socket: Connection refused"),
        ),
        ("Idle          BGP Error: Bad peer AS", SessionState::Idle, Some("BGP Error: Bad peer AS")),
        ("Passive       ", SessionState::Passive, None),
        ("Dreaming      ", SessionState::Other("Dreaming".into()), None),
        ("", SessionState::Down, None),
    ] {
        let session = one(&format!("1002-a BGP --- start 10:00:00.000  {info}\n0000 \n")).bgp.unwrap();
        assert_eq!((session.state, session.last_error.as_deref()), (state, error), "{info}");
    }
}

#[test]
fn a_dynamic_session_has_a_range() {
    let session = one("1002-a BGP --- start 10:00:00.000  Passive\n1006-  Description:    all of them\n   \
        BGP state:          Passive\n     Neighbor range:   198.51.100.0/24\n     Neighbor AS:      0\n0000 \n");
    assert_eq!(session.description.as_deref(), Some("all of them"));
    let session = session.bgp.unwrap();
    assert_eq!(session.neighbor_range, Some("198.51.100.0/24".parse().unwrap()));
    assert_eq!((session.neighbor, session.neighbor_asn), (None, None));
}

#[test]
fn details_belong_to_the_row_above_and_rows_that_cant_be_read_have_none() {
    let rows = parse(&reply(
        "1006-  BGP state: Idle\n2002-Name Proto\n1002-a BGP --- up 10:00  Established\n1002-b BGP\n1006-  Channel ipv4\n     \
         State:          UP\n1002-c Kernel master4 up 10:00  \n1006-  Channel ipv6\n     State:          DOWN\n     \
         Neighbor AS: 1\n0000 \n",
    ));
    assert_eq!(rows.unknown, ["b BGP"]);
    let [a, c] = rows.known.as_slice() else { panic!("{rows:?}") };
    assert_eq!((a.name.as_str(), a.channels.len()), ("a", 0));
    assert_eq!((c.name.as_str(), c.table.as_deref(), &c.bgp), ("c", Some("master4"), &None));
    assert_eq!((c.channels[0].name.as_str(), &c.channels[0].state), ("ipv6", &State::Down));
}

/// What is not known stands between what is, at every place.
#[test]
fn what_a_later_release_says_beside_changes_nothing() {
    let lines = [
        "1002-a          BGP        ---        start  2026-01-01 10:00:00.250  Active        Socket: x",
        "1006-  BGP state:          Active",
        "     Neighbor address: 192.0.2.254",
        "     Local capabilities",
        "       Graceful restart",
        "         Restart time: 120",
        "   Channel ipv4",
        "     State:          UP",
        "     Import limit:   4 [HIT]",
        "       Action:       block",
        "     Routes:         4 imported, 3 exported, 4 preferred",
    ];
    let plain = lines.join("\n") + "\n0000 \n";
    let mut more = String::new();
    for line in &lines[..2] {
        writeln!(more, "{line}").unwrap();
    }
    for line in &lines[2..] {
        let indent = line.len() - line.trim_start().len();
        writeln!(more, "{:indent$}Moon phase:     7\n{line}", "").unwrap();
    }
    let more = more.replace("4 preferred", "4 preferred, 7 admired") + "0000 \n";
    let mut read = one(&more);
    // Of a capability, that it is not known is told.
    let local = read.bgp.as_mut().unwrap().local_capabilities.as_mut().unwrap();
    assert_eq!(std::mem::take(&mut local.other), ["Moon phase:     7"]);
    assert_eq!(read, one(&plain));
}

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_.-]{0,14}"
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Down),
        Just(State::Start),
        Just(State::Up),
        Just(State::Stop),
        Just(State::Flush),
        "[A-Z][a-z]{5,8}x".prop_map(State::Other),
    ]
}

fn since() -> impl Strategy<Value = Moment> {
    (2000_i16..2100, 1_i8..=12, 1_i8..=28, 0_i8..24, 0_i8..60, 0_i32..1_000, 0_u8..3).prop_map(
        |(year, month, day, hour, minute, ms, kind)| {
            let at = jiff::civil::datetime(year, month, day, hour, minute, 7, ms * 1_000_000);
            match kind {
                0 => Moment::DateTime(at),
                1 => Moment::Time(at.time()),
                _ => Moment::Date(at.date()),
            }
        },
    )
}

fn neighbor() -> impl Strategy<Value = NeighborAddress> {
    prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|address| (address.into(), None)),
        (any::<std::net::Ipv6Addr>(), option::of(word())).prop_map(|(address, on)| (address.into(), on)),
    ]
    .prop_map(|(address, interface)| NeighborAddress { address, interface })
}

fn session_state() -> impl Strategy<Value = SessionState> {
    prop_oneof![
        Just(SessionState::Idle),
        Just(SessionState::Connect),
        Just(SessionState::Active),
        Just(SessionState::OpenSent),
        Just(SessionState::OpenConfirm),
        Just(SessionState::Established),
        Just(SessionState::Close),
        Just(SessionState::Passive),
        Just(SessionState::Down),
    ]
}

fn families() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(prop_oneof![Just("ipv4".to_owned()), Just("ipv6-mc".to_owned())], 0..3)
}

prop_compose! {
    fn graceful_restart()(
        seconds in option::of(0_u64..4096), recovering: bool, families in families(), preserved in families(),
    ) -> GracefulRestart {
        GracefulRestart { time: seconds.map(Duration::from_secs), recovering, families, preserved }
    }
}

prop_compose! {
    fn capabilities()(
        families in families(),
        extended_next_hop in families(),
        flags: [bool; 5],
        graceful_restart in option::of(graceful_restart().boxed()),
        long_lived_graceful_restart in option::of(graceful_restart().boxed()),
        other in proptest::collection::vec("Role: [a-z]{1,8}", 0..2),
    ) -> Capabilities {
        let [route_refresh, enhanced_refresh, extended_messages, four_octet_asn, add_path] = flags;
        Capabilities {
            families, route_refresh, enhanced_refresh, extended_next_hop, extended_messages, four_octet_asn,
            add_path, graceful_restart, long_lived_graceful_restart, other,
        }
    }
}

fn timer() -> impl Strategy<Value = Timer> {
    (0_u64..1_000_000, 0_u64..1_000)
        .prop_map(|(left, of)| Timer { left: Duration::from_millis(left), of: Duration::from_secs(of) })
}

prop_compose! {
    fn session()(
        state in session_state(),
        neighbor in option::of(neighbor()),
        asn in option::of(1_u32..),
        local_asn in option::of(any::<u32>()),
        neighbor_id in option::of(any::<std::net::Ipv4Addr>()),
        source_address in option::of(any::<IpAddr>()),
        timers in (option::of(timer()), option::of(timer())),
        graceful_restart_active: bool,
        last_error in option::of("[A-Z][a-z]{2,8}: [a-zA-Z ]{1,20}x"),
        capabilities in (option::of(capabilities().boxed()), option::of(capabilities().boxed())),
    ) -> Session {
        Session {
            state, neighbor, neighbor_range: None, neighbor_asn: asn, local_asn, neighbor_id, source_address,
            hold_timer: timers.0, keepalive_timer: timers.1, graceful_restart_active, last_error,
            local_capabilities: capabilities.0, neighbor_capabilities: capabilities.1,
        }
    }
}

fn limit() -> impl Strategy<Value = Limit> {
    (any::<u64>(), any::<bool>(), option::of(word())).prop_map(|(routes, hit, action)| Limit {
        routes,
        hit,
        action,
    })
}

prop_compose! {
    fn channel()(
        name in word(),
        state in state(),
        table in option::of(word()),
        counts in option::of((any::<u64>(), option::of(any::<u64>()), any::<u64>(), any::<u64>())),
        limits in (option::of(limit()), option::of(limit()), option::of(limit())),
        next_hops in proptest::collection::vec(any::<IpAddr>(), 0..3),
    ) -> Channel {
        let routes = counts.map(|(imported, filtered, exported, preferred)| RouteCounts {
            imported: Some(imported), filtered, exported: Some(exported), preferred: Some(preferred),
        });
        Channel {
            name, state, table, routes, receive_limit: limits.0, import_limit: limits.1,
            export_limit: limits.2, next_hops,
        }
    }
}

prop_compose! {
    fn protocol()(
        name in word(),
        kind in word(),
        table in option::of(word()),
        state in state(),
        since in since(),
        description in option::of("[a-z]([a-z :]{0,10}[a-z])?"),
        bgp in option::of(session().boxed()),
        channels in proptest::collection::vec(channel().boxed(), 0..3),
    ) -> Protocol {
        let info = bgp.as_ref().map_or(String::new(), |session: &Session| {
            let error = session.last_error.as_deref().unwrap_or_default();
            format!("{:<13} {error}", session.state).trim().to_owned()
        });
        let kind = if bgp.is_some() { "BGP".to_owned() } else { kind };
        Protocol { name, kind, table, state, since, info, description, bgp, channels }
    }
}

/// Lines as BIRD indents them. Of an answer, the first one has a number.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn put(&mut self, indent: usize, line: &str) {
        let mark = if self.0.is_empty() { "1006-" } else { " " };
        writeln!(self.0, "{mark}{:indent$}{line}", "").unwrap();
    }

    fn entry(&mut self, indent: usize, key: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.put(indent, &format!("{key}: {}", value.to_string()));
        }
    }

    fn session(&mut self, session: &Session) {
        self.entry(2, "BGP state", Some(&session.state));
        self.entry(4, "Neighbor address", session.neighbor.as_ref());
        self.entry(4, "Neighbor AS", session.neighbor_asn);
        self.entry(4, "Local AS", session.local_asn);
        if session.graceful_restart_active {
            self.put(4, "Neighbor graceful restart active");
        }
        self.entry(4, "Neighbor ID", session.neighbor_id);
        for (heading, capabilities) in [
            ("Local capabilities", &session.local_capabilities),
            ("Neighbor capabilities", &session.neighbor_capabilities),
        ] {
            let Some(capabilities) = capabilities else { continue };
            self.put(4, heading);
            self.capabilities(capabilities);
        }
        self.entry(4, "Source address", session.source_address);
        let timer = |timer: Timer| format!("{:.3}/{}", timer.left.as_secs_f64(), timer.of.as_secs());
        self.entry(4, "Hold timer", session.hold_timer.map(timer));
        self.entry(4, "Keepalive timer", session.keepalive_timer.map(timer));
        self.entry(4, "Last error", session.last_error.as_ref());
    }

    fn capabilities(&mut self, capabilities: &Capabilities) {
        let flags = [
            (capabilities.route_refresh, "Route refresh"),
            (capabilities.enhanced_refresh, "Enhanced refresh"),
            (capabilities.extended_messages, "Extended message"),
            (capabilities.four_octet_asn, "4-octet AS numbers"),
            (capabilities.add_path, "ADD-PATH"),
        ];
        self.put(6, "Multiprotocol");
        self.entry(8, "AF announced", Some(capabilities.families.join(" ")));
        self.put(6, "Extended next hop");
        self.entry(8, "IPv6 nexthop", Some(capabilities.extended_next_hop.join(" ")));
        for (_, name) in flags.iter().filter(|(has, _)| *has) {
            self.put(6, name);
        }
        for (name, time, restart) in [
            ("Graceful restart", "Restart time", &capabilities.graceful_restart),
            ("Long-lived graceful restart", "LL stale time", &capabilities.long_lived_graceful_restart),
        ] {
            let Some(restart) = restart else { continue };
            self.put(6, name);
            self.entry(8, time, restart.time.map(|time| time.as_secs()));
            if restart.recovering {
                self.put(8, "Restart recovery");
            }
            self.entry(8, "AF supported", Some(restart.families.join(" ")));
            self.entry(8, "AF preserved", Some(restart.preserved.join(" ")));
        }
        for other in &capabilities.other {
            self.put(6, other);
        }
    }

    fn channel(&mut self, channel: &Channel) {
        self.put(2, &format!("Channel {}", channel.name));
        let state = match &channel.state {
            State::Other(word) => word.clone(),
            state => format!("{state:?}").to_uppercase(),
        };
        self.entry(4, "State", Some(state));
        self.entry(4, "Table", channel.table.as_ref());
        for (name, limit) in [
            ("Receive limit", &channel.receive_limit),
            ("Import limit", &channel.import_limit),
            ("Export limit", &channel.export_limit),
        ] {
            let Some(limit) = limit else { continue };
            let hit = if limit.hit { " [HIT]" } else { "" };
            self.entry(4, name, Some(format!("{}{hit}", limit.routes)));
            self.entry(6, "Action", limit.action.as_ref());
        }
        if let Some(routes) = &channel.routes {
            let counts = [
                (routes.imported, "imported"),
                (routes.filtered, "filtered"),
                (routes.exported, "exported"),
                (routes.preferred, "preferred"),
            ];
            let counts = counts.iter().filter_map(|(count, what)| Some(format!("{} {what}", (*count)?)));
            self.entry(4, "Routes", Some(counts.collect::<Vec<_>>().join(", ")));
        }
        let next_hops: Vec<String> = channel.next_hops.iter().map(ToString::to_string).collect();
        self.entry(4, "BGP Next hop", Some(next_hops.join(" ")));
    }
}

/// As BIRD writes it.
fn written(protocols: &[Protocol]) -> String {
    let mut text = String::from("2002-Name       Proto      Table      State  Since         Info\n");
    for protocol in protocols {
        let table = protocol.table.as_deref().unwrap_or("---");
        let state = match &protocol.state {
            State::Other(word) => word.clone(),
            state => format!("{state:?}").to_lowercase(),
        };
        let Protocol { name, kind, since, info, .. } = protocol;
        let since = since.to_string();
        writeln!(text, "1002-{name:<10} {kind:<10} {table:<10} {state:<6} {since:<12}  {info}").unwrap();
        let mut lines = Lines::default();
        lines.entry(2, "Description", protocol.description.as_ref());
        if let Some(session) = &protocol.bgp {
            lines.session(session);
        }
        for channel in &protocol.channels {
            lines.channel(channel);
        }
        lines.put(0, "");
        text += &lines.0;
    }
    text + "0000 \n"
}

proptest! {
    #[test]
    fn what_is_written_is_read(protocols in proptest::collection::vec(protocol().boxed(), 0..4)) {
        let text = written(&protocols);
        let read = parse(&reply(&text));
        prop_assert_eq!(read, Rows { known: protocols, unknown: Vec::new() }, "{}", text);
    }

    /// Any line may be missing, and may come in any other order.
    #[test]
    fn each_row_is_read_or_kept_whatever_stands_where(
        protocols in proptest::collection::vec(protocol().boxed(), 0..3),
        picks in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..3), 0..40),
    ) {
        let text = written(&protocols);
        let lines: Vec<&str> = text.lines().collect();
        let mut mixed = String::from("1002-\n");
        for (pick, cut) in picks {
            let line = pick.get(&lines);
            let line = if line.starts_with("0000") { "" } else { line };
            writeln!(mixed, "{}", if line.len() > 9 { &line[..line.len() - 2 * cut] } else { " " }).unwrap();
        }
        let said = reply(&(mixed + "0000 \n"));
        let rows = parse(&said);
        let expected = said.lines().filter(|line| line.code == ROW && !line.text.trim().is_empty()).count();
        prop_assert_eq!(rows.known.len() + rows.unknown.len(), expected);
    }
}
