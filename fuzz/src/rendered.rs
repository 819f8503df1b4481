//! What stands in a rendered configuration of BIRD: the words of the templates, and values of
//! the NodeConfig where they belong; nothing that a value could have slipped in.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use flock_bird::render::Renderer;
use flock_core::announcer::Announcements;
use flock_core::node_config::{Bgp, Family, GracefulRestart, Import, Kind, Neighbor, NodeConfig, Peer};
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
    for version in [4, 6] {
        if wanted.maximum_paths > 1 {
            lines.push(format!("  merge paths on limit {};", wanted.maximum_paths));
        }
        let has = |family: &Family| family.version() == version;
        if wanted.peers.iter().any(|peer| peer.import == Import::Default && peer.families.iter().any(has)) {
            lines.push(format!("filter flock_default_from_peers{version} {{"));
            lines.push(format!(
                "  if net != {} then reject;",
                if version == 4 { "0.0.0.0/0" } else { "::/0" }
            ));
        }
    }
    wanted.peers.iter().for_each(|peer| session(peer, wanted, &mut lines));
    lines
}

fn session(peer: &Peer, wanted: &Announcements, lines: &mut Vec<String>) {
    let Peer { name, neighbor, asn, .. } = peer;
    assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{name:?}");
    let or_nothing = |text: Option<String>| text.unwrap_or_default();
    let local = or_nothing(peer.local_address.map(|address| format!(" {address}")));
    let port = or_nothing((peer.port != Peer::DEFAULT_PORT).then(|| format!(" port {}", peer.port)));
    let address = neighbor.address().map_or("range fe80::/10".to_owned(), |address| address.to_string());
    lines.push(format!("protocol bgp 'peer_{name}' {{"));
    lines.push(format!("  local{local} as {};", wanted.asn));
    lines.push(format!("  neighbor {address}{port} as {asn};"));
    if let Some(interface) = neighbor.interface() {
        lines.push(format!("  interface \"{interface}\";"));
    }
    if let Neighbor::Unnumbered { interface } = neighbor {
        lines.push(format!("  dynamic name \"session_{name}_\";"));
        lines.push(format!("  interface \"{interface}\" {{"));
    }
    lines.extend(peer.multihop.map(|hops| format!("  multihop {hops};")));
    lines.push(format!("  hold time {};", peer.hold_time));
    lines.extend(peer.keepalive().map(|time| format!("  keepalive time {time};")));
    if let Some(bfd) = peer.bfd {
        lines.push(format!("    min rx interval {} ms;", bfd.min_rx_ms));
        lines.push(format!("    min tx interval {} ms;", bfd.min_tx_ms));
        lines.push(format!("    multiplier {};", bfd.multiplier));
    }
    if let GracefulRestart::Restart { restart_time, stale_time } = peer.graceful_restart {
        lines.extend(restart_time.map(|time| format!("  graceful restart time {time};")));
        lines.extend(stale_time.map(|time| format!("  long lived stale time {time};")));
    }
    for family in &peer.families {
        let version = family.version();
        lines
            .extend(peer.max_prefixes.map(|limit| format!("    import limit {} action block;", limit.count)));
        lines.push(match peer.import {
            Import::All => format!("    import filter flock_from_peers{version};"),
            Import::Default => format!("    import filter flock_default_from_peers{version};"),
            Import::None => "    import none;".to_owned(),
        });
        // Nobody serves an anycast address here.
        let mut carried = wanted.export.effective(&peer.export, Kind::Summary);
        let internal = peer.asn == wanted.asn;
        carried.local_preference = carried.local_preference.filter(|_| internal);
        carried.prepend = carried.prepend.filter(|times| !internal && *times > 0);
        if carried.is_empty() || !wanted.summaries.iter().any(|net| Family::of(net.addr()) == *family) {
            lines.push(format!("    export filter flock_to_peers{version};"));
            continue;
        }
        lines.push(format!("    export filter 'flock_to_{name}_v{version}';"));
        lines.push(format!("# What announcements to {name} carry."));
        lines.push(format!("filter 'flock_to_{name}_v{version}' {{"));
        lines.push(format!(
            "  if !(proto = \"flock_kernel{version}\" && net ~ FLOCK_ANNOUNCED{version}) then reject;"
        ));
        lines.extend(
            carried.communities.iter().map(|one| format!("  bgp_community.add(({},{}));", one.0, one.1)),
        );
        lines.extend(carried.med.map(|med| format!("  bgp_med = {med};")));
        let times = carried.prepend.unwrap_or_default();
        lines.extend((0..times).map(|_| format!("  bgp_path.prepend({});", wanted.asn)));
    }
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
    let bgp = bgp.clone().unwrap_or_else(|| Bgp::new(0)).with_passwords(|_| Err("there is none".to_owned()));
    Announcements {
        maximum_paths: bgp.maximum_paths,
        export: bgp.export,
        peers: bgp.peers,
        summaries: cidrs.iter().collect(),
        ..Announcements::new(bgp.asn, bgp.router_id.unwrap_or(Ipv4Addr::new(192, 0, 2, 1)))
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
    - name: tor2
      address: 192.0.2.254
      asn: 64500
      passive: true
      ttlSecurity: true
      bfd: {}
      gracefulRestart: {longLived: {staleTime: 1}}
      families: [ipv4, ipv6]
    - {name: tor3, interface: eth1, asn: 64500, families: [ipv4, ipv6]}
";
    let config = NodeConfig::from_yaml(text, "reference").unwrap_or_else(|error| panic!("{error}"));
    announcements(&config)
}
