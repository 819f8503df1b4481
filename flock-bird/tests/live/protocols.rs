//! What a real BIRD says, as values.

use std::time::Duration;

use flock_bird::control::Client;
use flock_bird::protocols::{Protocol, SessionState, State};
use flock_bird::query::QueryError;
use flock_bird::routes::{AsPath, Community, LargeCommunity, Origin, Segment};
use flock_bird::time::Moment;
use flock_bird::{bfd, protocols, routes, status};

use crate::lab::{Bird, Namespace, eventually};

/// Of two routers with one session for both families and with BFD, and sessions that never come up.
struct Pair {
    near: Bird,
    _far: Bird,
    _namespaces: [Namespace; 2],
    _directory: tempfile::TempDir,
}

const NEAR: &str = "log stderr all; timeformat protocol iso long ms; router id 192.0.2.1; protocol device {}
protocol kernel kernel4 { ipv4 { export all; }; }
protocol static own4 { ipv4; route 10.0.1.0/24 blackhole; }
protocol static shared { ipv4; route 10.0.2.0/24 via 192.0.2.254 weight 3 via 192.0.2.253; }
protocol bfd bfd1 {}
protocol bgp far {
  local as 64512; neighbor 192.0.2.254 as 64500; bfd; connect delay time 1; hold time 90;
  graceful restart on; long lived graceful restart on;
  ipv4 { import limit 1 action block; import all; export where proto = \"own4\"; extended next hop; };
  ipv6 { import keep filtered; import where net != 2001:db8:dead::/48; export none; };
}
protocol bgp refused { local as 64512; neighbor 192.0.2.254 port 1790 as 64501; connect delay time 1; ipv4 { import none; export none; }; }
protocol bgp local1 { description \"on the link\"; local as 64512; neighbor fe80::1%up0 as 64502; ipv6 { import none; export none; }; }
protocol bgp waiting { local as 64512; passive; neighbor 192.0.2.77 as 64503; ipv4 { import none; export none; }; }
protocol bgp anyone { local as 64512; neighbor range 198.51.100.0/24 external; ipv4 { import none; export none; }; }
protocol bgp turned_off { disabled; local as 64512; neighbor 192.0.2.78 as 64504; ipv4 { import none; export none; }; }
";

const FAR: &str = "log stderr all; router id 192.0.2.254; protocol device {}
protocol bfd {}
protocol static { ipv4; route 203.0.113.0/24 blackhole {
  bgp_path.prepend(64600); bgp_community.add((64500, 1)); bgp_community.add((65535, 0));
  bgp_large_community.add((64500, 1, 2)); }; route 203.0.114.0/24 blackhole; }
protocol static { ipv6; route 2001:db8:cafe::/48 blackhole; route 2001:db8:dead::/48 blackhole; }
protocol bgp near { local as 64500; neighbor 192.0.2.1 as 64512; bfd; connect delay time 1;
  graceful restart on; long lived graceful restart on;
  ipv4 { import all; export filter { bgp_med = 7; accept; }; extended next hop; };
  ipv6 { import all; export all; next hop address 2001:db8:ffff::1; }; }
";

impl Pair {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let namespaces = [Namespace::new(), Namespace::new()];
        let [near, far] = &namespaces;
        near.ip(&format!("link add up0 type veth peer name down0 netns {}", far.pid()));
        near.ip("addr add 192.0.2.1/24 dev up0");
        near.ip("addr add 2001:db8:ffff::2/64 dev up0 nodad");
        near.ip("link set up0 up");
        far.ip("addr add 192.0.2.254/24 dev down0");
        far.ip("addr add 2001:db8:ffff::1/64 dev down0 nodad");
        far.ip("link set down0 up");
        let bird = |namespace, name: &str, config| {
            let path = directory.path().join(name);
            std::fs::write(&path, config).unwrap();
            Bird::start(namespace, &path, &[])
        };
        let (near, far) = (bird(near, "near.conf", NEAR), bird(far, "far.conf", FAR));
        eventually("the session is up, with all routes", async || {
            near.is_established("far").await && near.routes_of("far").await.len() == 2
        })
        .await;
        Self { near, _far: far, _namespaces: namespaces, _directory: directory }
    }

    fn client(&self) -> &Client {
        self.near.client()
    }

    async fn protocol(&self, name: &str) -> Protocol {
        let rows = protocols::protocols(self.client()).await.unwrap();
        assert_eq!(rows.unknown, [""; 0]);
        rows.known.into_iter().find(|protocol| protocol.name == name).expect("it is configured")
    }
}

#[tokio::test]
async fn everything_that_it_says_of_protocols_is_understood() {
    let pair = Pair::new().await;
    let far = pair.protocol("far").await;
    assert_eq!((far.kind.as_str(), &far.state, &far.table), ("BGP", &State::Up, &None));
    let now = status::status(pair.client()).await.unwrap().now.unwrap();
    assert!(far.since.age(now).unwrap() < Duration::from_secs(60), "{far:?} at {now}");
    let session = far.bgp.unwrap();
    assert!(session.is_up());
    assert_eq!(session.neighbor.unwrap().to_string(), "192.0.2.254");
    assert_eq!((session.neighbor_asn, session.local_asn), (Some(64500), Some(64512)));
    assert_eq!(session.neighbor_id, Some([192, 0, 2, 254].into()));
    assert_eq!(session.source_address, Some([192, 0, 2, 1].into()));
    let hold = session.hold_timer.unwrap();
    assert!(hold.of == Duration::from_secs(90) && hold.left <= hold.of, "{hold:?}");
    assert_eq!(session.keepalive_timer.unwrap().of, Duration::from_secs(30));
    for capabilities in [session.local_capabilities, session.neighbor_capabilities] {
        let capabilities = capabilities.unwrap();
        assert_eq!(capabilities.families, ["ipv4", "ipv6"]);
        assert_eq!(capabilities.extended_next_hop, ["ipv4"]);
        let restart = capabilities.graceful_restart.unwrap();
        assert_eq!((restart.time, restart.families.len()), (Some(Duration::from_secs(120)), 2));
        let long_lived = capabilities.long_lived_graceful_restart.unwrap();
        assert_eq!((long_lived.time, long_lived.families.len()), (Some(Duration::from_secs(3600)), 2));
        assert!(capabilities.route_refresh && capabilities.four_octet_asn);
        assert_eq!(capabilities.other, [""; 0]);
    }
    let [ipv4, ipv6] = far.channels.as_slice() else { panic!("{:?}", far.channels) };
    assert_eq!(
        (ipv4.name.as_str(), &ipv4.state, ipv4.table.as_deref()),
        ("ipv4", &State::Up, Some("master4"))
    );
    let counts = ipv4.routes.unwrap();
    assert_eq!((counts.imported, counts.exported, counts.filtered), (Some(1), Some(1), None));
    let limit = ipv4.import_limit.as_ref().unwrap();
    assert_eq!((limit.routes, limit.hit, limit.action.as_deref()), (1, true, Some("block")));
    assert_eq!(ipv4.next_hops, [std::net::Ipv4Addr::new(192, 0, 2, 1)]);
    let counts = ipv6.routes.unwrap();
    assert_eq!((counts.imported, counts.exported, counts.filtered), (Some(1), Some(0), Some(1)));

    let kernel = pair.protocol("kernel4").await;
    assert_eq!(
        (kernel.kind.as_str(), kernel.table.as_deref(), kernel.bgp),
        ("Kernel", Some("master4"), None)
    );
}

#[tokio::test]
async fn why_a_session_is_not_up_is_understood() {
    let pair = Pair::new().await;
    eventually("the refusal is known", async || {
        let session = pair.protocol("refused").await.bgp.unwrap();
        session.last_error.as_deref() == Some("Socket: Connection refused")
    })
    .await;
    let link = pair.protocol("local1").await;
    assert_eq!(link.description.as_deref(), Some("on the link"));
    assert_eq!(link.bgp.unwrap().neighbor.unwrap().to_string(), "fe80::1%up0");
    let waiting = pair.protocol("waiting").await;
    assert_eq!((waiting.state, waiting.bgp.unwrap().state), (State::Start, SessionState::Passive));
    let off = pair.protocol("turned_off").await;
    assert_eq!((off.state, off.bgp.unwrap().state), (State::Down, SessionState::Down));
    assert_eq!((&off.channels[0].state, off.channels[0].routes), (&State::Down, None));
    let any = pair.protocol("anyone").await.bgp.unwrap();
    assert_eq!(any.neighbor_range, Some("198.51.100.0/24".parse().unwrap()));
    assert_eq!((any.neighbor, any.neighbor_asn), (None, None));
}

#[tokio::test]
async fn everything_that_it_says_of_routes_is_understood() {
    let pair = Pair::new().await;
    let rows = routes::routes(pair.client(), "all").await.unwrap();
    assert_eq!(rows.unknown, [""; 0]);
    let route = |prefix: &str| {
        let prefix = prefix.parse().unwrap();
        rows.known.iter().find(|route| route.prefix == prefix).expect("it is there")
    };
    let own = route("10.0.1.0/24");
    assert_eq!((own.destination.as_str(), own.protocol.as_str(), own.best), ("blackhole", "own4", true));
    assert_eq!((own.table.as_deref(), own.preference), (Some("master4"), Some(200)));
    assert!(matches!(own.since, Moment::Time(_)), "{own:?}");
    let shared = &route("10.0.2.0/24").next_hops;
    let mut weights: Vec<_> = shared.iter().map(|hop| (hop.via.unwrap().to_string(), hop.weight)).collect();
    weights.sort();
    assert_eq!(weights, [("192.0.2.253".to_owned(), Some(1)), ("192.0.2.254".to_owned(), Some(3))]);

    let imported = pair.near.routes_of("far").await;
    let far = rows.known.iter().filter(|route| route.protocol == "far");
    assert_eq!(far.map(|route| route.prefix).collect::<std::collections::BTreeSet<_>>(), imported);
    let learned = route("203.0.113.0/24");
    assert_eq!(learned.next_hops[0].via, Some([192, 0, 2, 254].into()));
    assert_eq!(learned.next_hops[0].interface.as_deref(), Some("up0"));
    assert_eq!(learned.bgp.origin, Some(Origin::Igp));
    assert_eq!(learned.bgp.as_path, Some(AsPath(vec![Segment::Sequence(vec![64500, 64600])])));
    assert_eq!(learned.bgp.next_hops, [std::net::Ipv4Addr::new(192, 0, 2, 254)]);
    assert_eq!((learned.bgp.med, learned.bgp.local_preference), (Some(7), Some(100)));
    assert_eq!(learned.bgp.communities, [Community(64500, 1), Community(65535, 0)]);
    assert_eq!(learned.bgp.large_communities, [LargeCommunity(64500, 1, 2)]);

    let counts = routes::counts(pair.client(), "table master4").await.unwrap();
    let of_master4 = rows.known.iter().filter(|route| route.table.as_deref() == Some("master4"));
    let count = u64::try_from(of_master4.count()).unwrap();
    assert_eq!(counts.unknown, [""; 0]);
    assert_eq!((counts.known[0].table.as_str(), counts.known[0].routes), ("master4", count));
}

#[tokio::test]
async fn bfd_and_the_daemon_are_understood_and_a_refusal_is_told() {
    let pair = Pair::new().await;
    eventually("BFD is up", async || {
        let rows = bfd::sessions(pair.client()).await.unwrap();
        assert_eq!(rows.unknown, [""; 0]);
        let session = &rows.known[0];
        assert_eq!(session.protocol.as_deref(), Some("bfd1"));
        assert_eq!(session.neighbor, std::net::Ipv4Addr::new(192, 0, 2, 254));
        assert_eq!(session.interface.as_deref(), Some("up0"));
        assert!(matches!(session.since, Moment::DateTime(_)), "{session:?}");
        assert!(session.interval.is_some() && session.timeout.is_some(), "{session:?}");
        session.state == bfd::SessionState::Up
    })
    .await;
    let status = status::status(pair.client()).await.unwrap();
    let installed = std::process::Command::new("bird").arg("--version").output().unwrap();
    let installed = String::from_utf8(installed.stderr).unwrap();
    assert_eq!(status.version.as_deref(), installed.trim().strip_prefix("BIRD version "));
    assert_eq!((status.router_id, status.recovering), (Some([192, 0, 2, 1].into()), false));
    assert!(status.last_reboot.unwrap().age(status.now.unwrap()).unwrap() < Duration::from_secs(60));
    assert!(matches!(status.last_reconfiguration, Some(Moment::DateTime(_))));

    let error = routes::routes(pair.client(), "protocol nothing").await.unwrap_err();
    let QueryError::Refused { command, .. } = &error else { panic!("{error}") };
    assert_eq!(command, "show route protocol nothing");
}
