//! Nodes and their router, each with what its side of a recipe says.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use flock_bird::render::Renderer;
use flock_core::announcer::Announcements;
use flock_core::node_config::{Family, NodeConfig, Password};
use ipnet::IpNet;
use tempfile::TempDir;

use super::document::{self, Recipe};
use super::route::{Route, Routes};
use super::router::{Host, Router, Speaker, WITHOUT_DAD};
use crate::lab::{Bird, Namespace, ROUTE_PROTOCOL, eventually};

/// What pods of every node serve.
const ANYCAST: [&str; 2] = ["198.51.100.53/32", "2001:db8:a::53/128"];

/// A router with its nodes.
pub(crate) struct Rack {
    pub(crate) nodes: Vec<Node>,
    pub(crate) router: Router,
    commands: String,
    _directory: TempDir,
}

impl Rack {
    /// Starts this many nodes on one segment, all announcing their prefixes and what they serve.
    pub(crate) async fn start(recipe: &Recipe, speaker: Speaker, nodes: u8) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::new(directory.path().join("router"));
        host.namespace.ip("link add swp1 type bridge");
        let wired = (1..=nodes).map(|number| {
            let node = wire(&host.namespace, &format!("port{number}"));
            host.namespace.ip(&format!("link set port{number} master swp1 up"));
            node.ip(&format!("addr add 192.0.2.1{number}/24 dev eth0"));
            node.ip(&format!("addr add 2001:db8:ffff::1{number}/64 dev eth0 nodad"));
            node.ip("link set eth0 up");
            node
        });
        let namespaces = wired.collect();
        host.namespace.ip("addr add 192.0.2.1/24 dev swp1");
        host.namespace.ip("addr add 2001:db8:ffff::1/64 dev swp1 nodad");
        Self::on(host, namespaces, recipe, speaker, directory).await
    }

    /// Starts a node on a link with nothing but link-local addresses, its own being fe80::11.
    pub(crate) async fn unnumbered(recipe: &Recipe, speaker: Speaker) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::new(directory.path().join("router"));
        let node = wire(&host.namespace, "swp1");
        node.ip("link set eth0 addrgenmode none up");
        node.ip("addr add fe80::11/64 dev eth0 nodad");
        Self::on(host, vec![node], recipe, speaker, directory).await
    }

    async fn on(
        host: Host,
        namespaces: Vec<Namespace>,
        recipe: &Recipe,
        speaker: Speaker,
        directory: TempDir,
    ) -> Self {
        host.namespace.ip("link set swp1 up");
        let link_local =
            async || !host.namespace.ip("-6 addr show dev swp1 scope link -tentative").is_empty();
        eventually("the link has come up", link_local).await;
        let router = Router::start(host, speaker, &recipe.router).await;
        let started = namespaces
            .into_iter()
            .zip(1..)
            .map(|(namespace, number)| Node::start(namespace, number, &recipe.node, directory.path()));
        let nodes = started.collect();
        Self { nodes, router, commands: recipe.commands.clone(), _directory: directory }
    }

    /// Waits until the router has from the nodes exactly `expected`.
    pub(crate) async fn router_has(&self, expected: &Routes) {
        let found = Found(RefCell::default());
        eventually(&format!("the router has {expected:#?}"), async || {
            let routes = self.router.routes().await;
            let is = routes == *expected;
            found.0.replace(routes);
            is
        })
        .await;
    }

    /// Gives the commands of the recipe on the router, until they show `expected`.
    pub(crate) async fn commands_show(&self, expected: &str) {
        eventually(&format!("{} shows {expected}", self.commands), async || {
            self.commands_shown().contains(expected)
        })
        .await;
    }

    /// What the commands of the recipe show on the router.
    pub(crate) fn commands_shown(&self) -> String {
        self.router.host.output("sh", &["-euc", &self.commands]).expect("commands that work")
    }
}

/// What the router had last, which is said where that was not what it should have.
struct Found(RefCell<Routes>);

impl Drop for Found {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the router has {:#?}", self.0.borrow());
        }
    }
}

/// A link from this interface of the router to the `eth0` of a new node.
fn wire(router: &Namespace, interface: &str) -> Namespace {
    let node = Namespace::holding("--net", &format!("{WITHOUT_DAD} && ip link set lo up"));
    node.ip(&format!("link add eth0 type veth peer name {interface} netns {}", router.pid()));
    node
}

/// A node with its BIRD.
pub(crate) struct Node {
    pub(crate) namespace: Namespace,
    bird: Option<Bird>,
    pub(crate) wanted: Announcements,
    number: u8,
    config: PathBuf,
}

impl Node {
    /// The host of this number, which takes the place of host001 in the recipe.
    fn start(namespace: Namespace, number: u8, bgp: &str, directory: &Path) -> Self {
        let spec = format!("  {}\n", bgp.trim_end().replace('\n', "\n  "));
        let manifest = (document::node_config() + &spec)
            .replace("host001", &format!("host00{number}"))
            .replace("2001:db8:1:1:", &format!("2001:db8:1:{number}:"))
            .replace("10.0.1.0", &format!("10.0.{number}.0"));
        let config = NodeConfig::from_yaml(&manifest, "docs/recipes.md").unwrap();
        let config = config.with_passwords(|_| Ok(Password::new(document::password()).unwrap()));
        let bgp = config.bgp.unwrap();
        assert!(bgp.refused.is_empty(), "{:?}", bgp.refused);
        let router_id = bgp.router_id.unwrap_or_else(|| [192, 0, 2, 10 + number].into());
        let wanted = Announcements {
            maximum_paths: bgp.maximum_paths,
            export: bgp.export.clone(),
            peers: bgp.resolved_peers().cloned().collect(),
            summaries: config.cidrs.iter().collect(),
            anycast: ANYCAST.map(|route| route.parse::<IpNet>().unwrap().addr()).into(),
            ..Announcements::new(bgp.asn, router_id)
        };
        for prefix in &wanted.summaries {
            namespace.ip(&format!("route add blackhole {prefix} proto {ROUTE_PROTOCOL}"));
        }
        for address in ANYCAST {
            namespace.ip(&format!("route add {address} dev lo proto {ROUTE_PROTOCOL}"));
        }
        let path = directory.join(format!("host00{number}.conf"));
        fs::write(&path, render(&wanted)).unwrap();
        let bird = Bird::start(&namespace, &path, &[]);
        Self { namespace, bird: Some(bird), wanted, number, config: path }
    }

    /// Tells its BIRD of a change.
    pub(crate) async fn change(&mut self, change: impl FnOnce(&mut Announcements)) {
        change(&mut self.wanted);
        fs::write(&self.config, render(&self.wanted)).unwrap();
        assert!(self.bird().ask("configure").await.is_success());
    }

    /// Has its BIRD end without saying goodbye to the router, and starts another one.
    pub(crate) async fn restart_bird(&mut self) {
        let bird = self.bird.take().unwrap();
        bird.end_for_restart().await;
        self.bird = Some(Bird::start(&self.namespace, &self.config, &["-R"]));
    }

    /// Its BIRD.
    pub(crate) fn bird(&self) -> &Bird {
        self.bird.as_ref().unwrap()
    }

    /// Adds a route as the dataplane does, and announces it: it becomes a summary.
    pub(crate) async fn announce_also(&mut self, prefixes: impl IntoIterator<Item = IpNet>) {
        let prefixes: Vec<IpNet> = prefixes.into_iter().collect();
        for prefix in &prefixes {
            self.namespace.ip(&format!("route add blackhole {prefix} proto {ROUTE_PROTOCOL}"));
        }
        self.change(|wanted| wanted.summaries.extend(prefixes)).await;
    }

    /// What it announces, with its own address of the family as the next hop, and nothing added.
    pub(crate) fn own(&self) -> Routes {
        let (ipv4, ipv6) = (format!("192.0.2.1{}", self.number), format!("2001:db8:ffff::1{}", self.number));
        self.own_via(&ipv4, &ipv6)
    }

    /// What it announces, with a next hop for each family, and nothing added.
    pub(crate) fn own_via(&self, ipv4: &str, ipv6: &str) -> Routes {
        let summaries = self.wanted.summaries.iter().copied();
        let anycast = ANYCAST.map(|route| route.parse().unwrap());
        let via = |prefix: &IpNet| Route::via(if prefix.addr().is_ipv4() { ipv4 } else { ipv6 });
        let families: BTreeSet<Family> =
            self.wanted.peers.iter().flat_map(|peer| peer.families.iter().copied()).collect();
        let told = summaries.chain(anycast).filter(|prefix| families.contains(&Family::of(prefix.addr())));
        told.map(|prefix| (prefix, [via(&prefix)].into())).collect()
    }

    /// Waits until BIRD has put into the kernel exactly routes that begin with these words.
    pub(crate) async fn takes(&self, expected: &[&str]) {
        eventually(&format!("{expected:?} in the node's kernel"), async || {
            let text = self.by_bird();
            let lines: Vec<&str> = text.lines().collect();
            lines.len() == expected.len()
                && expected.iter().all(|words| lines.iter().any(|line| line.starts_with(words)))
        })
        .await;
    }

    /// What BIRD has put into the kernel.
    pub(crate) fn by_bird(&self) -> String {
        self.namespace.ip("-4 route show proto bird") + &self.namespace.ip("-6 route show proto bird")
    }
}

fn render(wanted: &Announcements) -> String {
    Renderer::new(ROUTE_PROTOCOL).unwrap().render(wanted).unwrap()
}
