//! A node and a router, each a network namespace with a real BIRD, joined by a veth.
//!
//! Everything dies with the test: processes are killed when they are dropped, and by the
//! kernel should the test itself be killed. Namespaces end with the process that holds them.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flock_bird::control::{Client, Reply};
use flock_bird::{BirdAnnouncer, BirdConfig};
use flock_core::announcer::Announcements;
use flock_core::node_config::Peer;
use ipnet::IpNet;
use tempfile::TempDir;

/// Marks the routes that play Flock's part in the kernel.
pub(crate) const ROUTE_PROTOCOL: u8 = 70;
/// The metrics of routes that are not announced.
pub(crate) const WITHDRAWING: u32 = 16;
pub(crate) const STANDBY: u32 = 32_768;
/// How long anything may take: a session takes about 4 s.
const DEADLINE: Duration = Duration::from_secs(30);

/// A node with a router at the other end of its link. The router's BIRD runs from the start.
pub(crate) struct Lab {
    pub(crate) node: Namespace,
    pub(crate) router: Bird,
    kind: Router,
    pub(crate) directory: TempDir,
    pub(crate) router_namespace: Namespace,
}

impl Lab {
    /// A lab whose router announces `routes` to the node.
    pub(crate) fn new(routes: &[&str]) -> Self {
        Self::with_router(Router { asn: 64500, options: "" }, routes)
    }

    /// A lab with a router of another kind.
    pub(crate) fn with_router(kind: Router, announced: &[&str]) -> Self {
        Self::prepared(kind, &kind.config(announced), |_, _| {})
    }

    /// A lab whose router is configured with `sessions`, and whose node and router, in this order,
    /// are prepared further before it starts.
    pub(crate) fn with_sessions(sessions: &str, prepare: impl FnOnce(&Namespace, &Namespace)) -> Self {
        Self::prepared(Router { asn: 64500, options: "" }, &router_config(sessions), prepare)
    }

    fn prepared(kind: Router, config: &str, prepare: impl FnOnce(&Namespace, &Namespace)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (node, router_namespace) = (Namespace::new(), Namespace::new());
        node.ip(&format!("link add up0 type veth peer name down0 netns {}", router_namespace.pid()));
        node.ip("addr add 192.0.2.1/24 dev up0");
        node.ip("addr add 2001:db8:ffff::2/64 dev up0 nodad");
        node.ip("link set up0 up");
        router_namespace.ip("addr add 192.0.2.254/24 dev down0");
        router_namespace.ip("addr add 2001:db8:ffff::1/64 dev down0 nodad");
        router_namespace.ip("link set down0 up");
        let path = directory.path().join("router.conf");
        fs::write(&path, config).unwrap();
        prepare(&node, &router_namespace);
        let router = Bird::start(&router_namespace, &path, &[]);
        Self { node, router, kind, directory, router_namespace }
    }

    /// What the node's announcer is told of its BIRD.
    pub(crate) fn config(&self) -> BirdConfig {
        BirdConfig {
            config_path: self.directory.path().join("bird.conf"),
            socket_path: self.directory.path().join("bird.ctl"),
            unannounced_metrics: vec![WITHDRAWING, STANDBY],
            ..BirdConfig::new(ROUTE_PROTOCOL)
        }
    }

    /// Starts the node's BIRD again with what the announcer has written, to take up where it left.
    pub(crate) fn restart_bird(&self) -> Bird {
        Bird::start(&self.node, &self.config().config_path, &["-R"])
    }

    /// Starts the node's BIRD with what the announcer has written.
    pub(crate) fn start_bird(&self) -> Bird {
        Bird::start(&self.node, &self.config().config_path, &[])
    }

    /// An announcer that has handed `wanted` to the node's BIRD, both sessions being up.
    pub(crate) async fn announcing(&self, wanted: &Announcements) -> (BirdAnnouncer, Bird) {
        let (announcer, bird) = self.speaking(wanted).await;
        for session in ["peer_tor-v4", "peer_tor-v6"] {
            eventually(session, async || bird.is_established(session).await).await;
        }
        (announcer, bird)
    }

    /// An announcer that has handed `wanted` to the node's BIRD.
    pub(crate) async fn speaking(&self, wanted: &Announcements) -> (BirdAnnouncer, Bird) {
        use flock_core::announcer::RouteAnnouncer as _;
        let announcer = BirdAnnouncer::start(&self.config()).unwrap();
        announcer.sync(wanted).await.unwrap();
        announcer.applied().await.unwrap_err();
        let bird = self.start_bird();
        let mut status = announcer.status();
        let taken = status.wait_for(|status| matches!(status, flock_bird::announcer::Status::Applied { .. }));
        tokio::time::timeout(DEADLINE, taken).await.expect("BIRD takes the state").unwrap();
        (announcer, bird)
    }

    /// Changes what the router announces.
    pub(crate) async fn router_announces(&self, routes: &[&str]) {
        fs::write(self.directory.path().join("router.conf"), self.kind.config(routes)).unwrap();
        assert!(self.router.ask("configure").await.is_success());
    }

    /// Waits until the router has from the node exactly `expected`.
    pub(crate) async fn router_has(&self, expected: &[&str]) {
        let expected: BTreeSet<IpNet> = expected.iter().map(|prefix| prefix.parse().unwrap()).collect();
        eventually(&format!("the router has exactly {expected:?}"), async || {
            let mut found = self.router.routes_of("node4").await;
            found.extend(self.router.routes_of("node6").await);
            found == expected
        })
        .await;
    }
}

/// What is special about a router. Each one announces whatever is asked for, and takes whatever it
/// is sent.
#[derive(Clone, Copy)]
pub(crate) struct Router {
    pub(crate) asn: u32,
    /// Of its sessions.
    pub(crate) options: &'static str,
}

impl Router {
    fn config(self, routes: &[&str]) -> String {
        let of = |v6: bool| {
            let chosen = routes.iter().filter(|route| route.contains(':') == v6);
            chosen.map(|route| format!("route {route} blackhole;")).collect::<Vec<_>>().join(" ")
        };
        let session = |name: &str, neighbor: &str, family: &str| {
            format!(
                "protocol bgp {name} {{ local as {}; neighbor {neighbor} as 64512; connect delay time 1;
  connect retry time 1; error wait time 1, 2; {}
  {family} {{ import all; export where source = RTS_STATIC; }}; }}\n",
                self.asn, self.options
            )
        };
        "log stderr all;\nrouter id 192.0.2.254;\nprotocol device {}\nprotocol direct { ipv4; ipv6; }\n"
            .to_owned()
            + &format!(
                "protocol static {{ ipv4; {} }}\nprotocol static {{ ipv6; {} }}\n",
                of(false),
                of(true)
            )
            + &session("node4", "192.0.2.1", "ipv4")
            + &session("node6", "2001:db8:ffff::2", "ipv6")
    }
}

/// A router with these protocols beside what each has.
pub(crate) fn router_config(sessions: &str) -> String {
    format!("log stderr all;\nrouter id 192.0.2.254;\nprotocol device {{}}\n{sessions}")
}

/// What a node with a prefix of each family wants, and `anycast`.
pub(crate) fn wanted(anycast: &[&str]) -> Announcements {
    let peer = |name: &str, address: &str| Peer::new(name, address.parse().unwrap(), 64500);
    Announcements {
        peers: vec![peer("tor-v6", "2001:db8:ffff::1"), peer("tor-v4", "192.0.2.254")],
        summaries: ["2001:db8:1::/64", "10.0.1.0/24"].map(|prefix| prefix.parse().unwrap()).into(),
        anycast: anycast.iter().map(|address| address.parse().unwrap()).collect(),
        ..Announcements::new(64512, Ipv4Addr::new(192, 0, 2, 1))
    }
}

/// A network namespace, held by a process.
pub(crate) struct Namespace {
    holder: Killed,
}

impl Namespace {
    /// A new one with `lo` up.
    pub(crate) fn new() -> Self {
        Self::holding("--net", "ip link set lo up")
    }

    /// New namespaces of the kinds that unshare(1) is told of, prepared by a shell command.
    pub(crate) fn holding(kinds: &str, prepare: &str) -> Self {
        let script = format!("{prepare} && echo ready && exec sleep infinity");
        let mut child = bound_to_test("unshare")
            .args(kinds.split(' '))
            .args(["sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let holder = Killed(child);
        assert_eq!(line, "ready\n", "the namespace needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN");
        Self { holder }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.holder.0.id()
    }

    /// A command in this namespace that dies with the test.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = bound_to_test("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid())).arg(program);
        command
    }

    /// Runs `ip` and returns what it prints.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let output = self.command("ip").args(arguments.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a program that prints something.
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The destinations that BIRD has put into the kernel.
    pub(crate) fn routes_by_bird(&self) -> BTreeSet<String> {
        let text = self.ip("-4 route show proto bird") + &self.ip("-6 route show proto bird");
        // Each way of a multipath route has an indented line of its own.
        let routes = text.lines().filter(|line| !line.starts_with(char::is_whitespace));
        let words = routes.map(|line| line.split_whitespace().find(|word| *word != "blackhole"));
        words.map(|word| word.unwrap().to_owned()).collect()
    }
}

/// A running BIRD.
pub(crate) struct Bird {
    process: Killed,
    log: PathBuf,
    client: Client,
}

/// Milliseconds of the day. BIRD reckons them anew each time, and may be off by one of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since(i64);

impl PartialEq for Since {
    fn eq(&self, other: &Self) -> bool {
        (self.0 - other.0).abs() < 50
    }
}

impl Bird {
    /// What asks it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Starts `bird -c config`; its socket has the file's name with another extension.
    pub(crate) fn start(namespace: &Namespace, config: &Path, options: &[&str]) -> Self {
        let socket = config.with_extension("ctl");
        let log = config.with_extension("log");
        let process = namespace
            .command("bird")
            .arg("-f")
            .arg("-c")
            .arg(config)
            .arg("-s")
            .arg(&socket)
            .args(options)
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { process: Killed(process), log, client: Client::new(socket, Duration::from_secs(5)) }
    }

    pub(crate) async fn ask(&self, command: &str) -> Reply {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.client.ask(command).await {
                Ok(reply) => return reply,
                Err(error) => assert!(Instant::now() < deadline, "{command}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn is_established(&self, protocol: &str) -> bool {
        self.row(protocol).await.is_some_and(|row| row.last().is_some_and(|info| info == "Established"))
    }

    /// Since when the protocol is in its state.
    pub(crate) async fn since(&self, protocol: &str) -> Since {
        let row = self.row(protocol).await.expect("the protocol exists");
        // With the date before it, where Flock has configured BIRD.
        let time = row.iter().skip(4).find(|word| word.contains(':')).expect("a time");
        let units = time.split([':', '.']).map(|unit| unit.parse::<i64>().expect("hh:mm:ss.ms"));
        Since(units.zip([3_600_000, 60_000, 1_000, 1]).map(|(unit, worth)| unit * worth).sum())
    }

    /// What BIRD prints.
    pub(crate) async fn text(&self, command: &str) -> String {
        let reply = self.ask(command).await;
        reply.lines().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n")
    }

    pub(crate) async fn row(&self, protocol: &str) -> Option<Vec<String>> {
        let reply = self.ask("show protocols").await;
        let rows = reply.lines().map(|line| line.text.split_whitespace().map(str::to_owned).collect());
        rows.into_iter().find(|row: &Vec<String>| row.first().is_some_and(|name| name == protocol))
    }

    /// What came in over a session, or from the kernel.
    pub(crate) async fn routes_of(&self, protocol: &str) -> BTreeSet<IpNet> {
        let reply = self.ask(&format!("show route protocol '{protocol}'")).await;
        let first_words = reply.lines().filter_map(|line| line.text.split_whitespace().next());
        first_words.filter_map(|word| word.parse().ok()).collect()
    }

    /// Whom it has sessions with, or tries to.
    pub(crate) async fn neighbors(&self) -> BTreeSet<IpAddr> {
        let reply = self.ask("show protocols all").await;
        let values = reply.lines().filter_map(|line| line.text.trim().strip_prefix("Neighbor address:"));
        values.map(|value| value.trim().parse().unwrap()).collect()
    }

    /// How often it has taken a configuration while it ran.
    pub(crate) fn reconfigurations(&self) -> usize {
        self.said().matches("<INFO> Reconfigured").count()
    }

    /// Has it end without saying goodbye to its peers, and waits until it has.
    pub(crate) async fn end_for_restart(mut self) {
        assert!(self.ask("graceful restart").await.is_success());
        assert!(self.process.0.wait().unwrap().success());
    }

    /// Sends it a signal, as kill(1) calls it.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(self) {
        drop(self);
    }

    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        self.process.end();
        if std::thread::panicking() {
            eprintln!("BIRD said in {}:\n{}", self.log.display(), self.said());
        }
    }
}

/// Asks `condition` until it holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The files in a directory.
pub(crate) fn names_in(directory: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| PathBuf::from(entry.unwrap().file_name())).collect()
}

/// A command that the kernel ends with the test.
pub(crate) fn bound_to_test(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// A process that ends when it is dropped.
pub(crate) struct Killed(pub(crate) Child);

impl Killed {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.end();
    }
}
