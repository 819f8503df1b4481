//! What stands in a rendered configuration of BIRD: the words of the templates, and values of
//! the NodeConfig where they belong; nothing that a value could have slipped in.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use flock_bird::render::Renderer;
use flock_core::announcer::Announcements;
use flock_core::node_config::{Bgp, NodeConfig, Peer};
use ipnet::IpNet;

static RENDERER: LazyLock<Renderer> =
    LazyLock::new(|| Renderer::new(70).unwrap_or_else(|error| panic!("{error}")));

/// What can be rendered of any node, less the values.
static WORDS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let known = reference();
    let values: BTreeSet<String> = values(&known).into_iter().collect();
    render(&known).lines().filter(|line| !values.contains(*line)).map(str::to_owned).collect()
});

/// Renders `config` and looks at each line.
pub(crate) fn check(config: &NodeConfig) {
    let wanted = announcements(config);
    let text = render(&wanted);
    let mut expected = values(&wanted);
    for line in text.lines() {
        if !WORDS.contains(line) {
            let found = expected.iter().position(|value| value == line);
            let found = found.unwrap_or_else(|| panic!("the line {line:?} comes from no value:\n{text}"));
            expected.swap_remove(found);
        }
    }
    assert!(expected.is_empty(), "not rendered: {expected:?}\n{text}");
    let count = |wanted: char| text.chars().filter(|found| *found == wanted).count();
    for (open, close) in [('{', '}'), ('[', ']')] {
        assert_eq!(count(open), count(close), "{text}");
    }
    assert!(text.is_ascii() && !text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        assert_eq!(line.matches(['"', '\'']).count() % 2, 0, "a quote is left open: {line}");
    }
}

/// The lines that hold values, each once. A name without quotes, spaces and signs can't end
/// the quotes that it stands in.
fn values(wanted: &Announcements) -> Vec<String> {
    let mut lines = vec![format!("router id {};", wanted.router_id)];
    for version in [4, 6] {
        let is_it = |prefix: &IpNet| prefix.addr().is_ipv4() == (version == 4);
        let own: Vec<IpNet> = wanted.summaries.iter().copied().filter(is_it).collect();
        let hosts = wanted.anycast.iter().copied().map(IpNet::from).filter(is_it);
        let announced: BTreeSet<IpNet> = own.iter().copied().chain(hosts).collect();
        lines.extend(listed(own.iter().map(|prefix| format!("  {prefix}+"))));
        lines.extend(listed(announced.iter().map(|prefix| format!("  {prefix}"))));
    }
    for Peer { name, address, asn } in &wanted.peers {
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{name:?}");
        lines.push(format!("protocol bgp 'peer_{name}' {{"));
        lines.push(format!("  local as {};", wanted.asn));
        lines.push(format!("  neighbor {address} as {asn};"));
    }
    lines
}

/// With a comma behind each but the last.
fn listed(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.map(|line| line + ",").collect();
    if let Some(last) = lines.last_mut() {
        last.pop();
    }
    lines
}

fn render(wanted: &Announcements) -> String {
    RENDERER.render(wanted).unwrap_or_else(|error| panic!("a valid NodeConfig is refused: {error}"))
}

fn announcements(config: &NodeConfig) -> Announcements {
    let NodeConfig { cidrs, bgp, .. } = config;
    let Bgp { asn, router_id, peers } = bgp.clone().unwrap_or(Bgp { asn: 0, router_id: None, peers: vec![] });
    Announcements {
        asn,
        router_id: router_id.unwrap_or(Ipv4Addr::new(192, 0, 2, 1)),
        peers,
        summaries: cidrs.iter().collect(),
        anycast: BTreeSet::new(),
        standby: [].into(),
        exceptions: BTreeSet::new(),
    }
}

/// A node that has everything that the templates know.
fn reference() -> Announcements {
    let text = "
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: {name: host001}
spec:
  cidr6: 2001:db8:1::/64
  cidr4: 10.0.1.0/24
  bgp:
    asn: 64512
    routerId: 192.0.2.1
    peers:
    - {name: tor1, address: 2001:db8:ffff::1, asn: 64512}
    - {name: tor2, address: 192.0.2.254, asn: 64500}
";
    let config = NodeConfig::from_yaml(text, "reference").unwrap_or_else(|error| panic!("{error}"));
    announcements(&config)
}
