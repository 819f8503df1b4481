//! Many peers and many anycast addresses.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use flock_bird::control::Client;
use flock_bird::render::Renderer;
use flock_bird::{BirdAnnouncer, protocols, status};
use flock_core::announcer::{Announcements, RouteAnnouncer as _};
use flock_core::node_config::{Family, Peer};
use tokio::runtime::Runtime;

use super::{
    Lab, NODE_ASN, ROUTE_PROTOCOL, ROUTER_ASN, Scale, Series, batch, count, text, unexpected, until,
};
use crate::{LabError, Result};

/// Comes and goes, beside the others.
const EXTRA: &str = "2001:db8:a:ffff::1";

/// A node with many peers, which all take both families, and many anycast addresses.
#[derive(Debug, Clone)]
pub struct ManyPeers {
    /// How many peers; each session is up.
    pub peers: usize,
    /// How many anycast addresses, half of each family.
    pub anycast: usize,
    /// The size of BIRD's configuration, in bytes.
    pub file: usize,
    /// How long it takes to render that.
    pub render: Series,
    /// From the call that has one more address, or one less, until BIRD has taken that.
    pub apply: Series,
    /// How long BIRD takes for the same two files, one after the other, when it is told by hand.
    pub by_hand: Series,
    /// From the same call until all peers have the address, or have it no more.
    pub heard: Series,
    /// How long the kernel takes for the routes to the addresses.
    pub batch: Duration,
    /// From the begin of that until BIRD has them.
    pub learned: Duration,
    /// From the begin of that until all peers have them.
    pub told: Duration,
    /// How long it takes to ask BIRD how the sessions are.
    pub asked: Series,
    /// BIRD's resident memory with all that, in KiB.
    pub resident_kib: u64,
}

pub(super) fn measure(runtime: &Runtime, dir: &Path, scale: &Scale) -> Result<ManyPeers> {
    let lab = Lab::new("many", dir)?;
    let [mut here, mut there, mut sessions] = [const { String::new() }; 3];
    for number in 1..=scale.peers {
        // BIRD has one session at a time with an address.
        let _ = writeln!(here, "address add {}/64 dev uplink nodad", own(number));
        let _ = writeln!(there, "address add {}/64 dev down nodad", peer(number));
        let _ = writeln!(
            sessions,
            "protocol bgp n{number} {{ local {} as {ROUTER_ASN}; neighbor {} as {NODE_ASN};
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 {{ extended next hop; import all; export none; }}; ipv6 {{ import all; export none; }}; }}",
            peer(number),
            own(number)
        );
    }
    batch(&lab.node, &here)?;
    batch(&lab.router, &there)?;
    let (_router, router) = lab.start_router(&sessions)?;
    runtime.block_on(measure_in(&lab, &router, scale))
}

async fn measure_in(lab: &Lab, router: &Client, scale: &Scale) -> Result<ManyPeers> {
    let (without, with) = (wanted(scale, false)?, wanted(scale, true)?);
    let renderer = Renderer::new(ROUTE_PROTOCOL).map_err(unexpected)?;
    let mut render = Vec::new();
    for _ in 0..scale.bgp_rounds {
        let begin = Instant::now();
        renderer.render(&without).map_err(unexpected)?;
        render.push(begin.elapsed());
    }
    // BIRD starts with the last state that it was too late for.
    let announcer = BirdAnnouncer::start(&lab.config).map_err(unexpected)?;
    announcer.sync(&without).await.map_err(unexpected)?;
    announcer.applied().await.err();
    let (node, bird) = (lab.start_node()?, lab.client());
    until("all sessions to be up", async || {
        let Ok(rows) = protocols::protocols(&bird).await else { return Ok(false) };
        let sessions = rows.known.iter().filter_map(|protocol| protocol.bgp.as_ref());
        Ok(sessions.filter(|session| session.is_up()).count() == scale.peers)
    })
    .await?;
    until("BIRD to have taken its configuration", async || Ok(announcer.applied().await.is_ok())).await?;

    let batched = without.anycast.iter().fold(String::new(), |mut lines, address| {
        let _ = writeln!(lines, "route add blackhole {address} proto {ROUTE_PROTOCOL} metric 8");
        lines
    });
    let begin = Instant::now();
    let batch_took = batch(&lab.node, &batched)?;
    let from_kernel = "where source = RTS_INHERIT";
    until("BIRD to have the routes", async || Ok(count(&bird, from_kernel).await? == scale.anycast)).await?;
    let learned = begin.elapsed();
    let all = scale.peers * scale.anycast;
    until("all peers to have them", async || Ok(count(router, "").await? == all)).await?;
    let told = begin.elapsed();

    batch(&lab.node, &format!("route add blackhole {EXTRA} proto {ROUTE_PROTOCOL} metric 8\n"))?;
    let files = [("without", &without), ("with", &with)].map(|(name, state)| {
        let path = lab.config.config_path.with_file_name(format!("{name}.conf"));
        let content = renderer.render(state).map_err(unexpected)?;
        fs::write(&path, &content).map_err(LabError::file("write", &path))?;
        Ok((path, content.len()))
    });
    let [(without_path, file), (with_path, _)] = {
        let [one, other] = files;
        [one?, other?]
    };
    let [mut apply, mut by_hand, mut heard, mut asked] = [const { Vec::new() }; 4];
    let heard_by = async |there: bool| {
        let wanted = if there { scale.peers } else { 0 };
        until("the peers to hear of a change", async || {
            // Each of its routes is named with the session that it came over: `[n1 …]`.
            Ok(text(router, &format!("show route {EXTRA}/128")).await?.matches("[n").count() == wanted)
        })
        .await
    };
    for round in 0..scale.bgp_rounds {
        let there = round % 2 == 0;
        let begin = Instant::now();
        announcer.sync(if there { &with } else { &without }).await.map_err(unexpected)?;
        announcer.applied().await.map_err(unexpected)?;
        apply.push(begin.elapsed());
        heard_by(there).await?;
        heard.push(begin.elapsed());
        // There and back, so that the announcer's state is BIRD's again.
        for there in [!there, there] {
            let path = if there { &with_path } else { &without_path };
            let begin = Instant::now();
            let reply = bird.ask(&format!("configure \"{}\"", path.display())).await.map_err(unexpected)?;
            by_hand.push(begin.elapsed());
            if !reply.is_success() {
                return Err(unexpected(reply.text()));
            }
            heard_by(there).await?;
        }
        asked.push(ask(&bird).await?);
    }
    let of = |times| Series::of(times);
    Ok(ManyPeers {
        peers: scale.peers,
        anycast: scale.anycast,
        file,
        render: of(render),
        apply: of(apply),
        by_hand: of(by_hand),
        heard: of(heard),
        batch: batch_took,
        learned,
        told,
        asked: of(asked),
        resident_kib: node.resident_kib()?,
    })
}

/// How long it takes to ask what the observer of the sessions asks.
pub(super) async fn ask(bird: &Client) -> Result<Duration> {
    let begin = Instant::now();
    status::status(bird).await.map_err(unexpected)?;
    protocols::protocols(bird).await.map_err(unexpected)?;
    Ok(begin.elapsed())
}

/// The address of a peer, from 1.
fn peer(number: usize) -> String {
    format!("2001:db8:ffff::1:{number:x}")
}

/// The node's end of the session with it.
fn own(number: usize) -> String {
    format!("2001:db8:ffff::2:{number:x}")
}

fn wanted(scale: &Scale, extra: bool) -> Result<Announcements> {
    let peers = (1..=scale.peers).map(|number| {
        let address = peer(number).parse().map_err(unexpected)?;
        let local_address = Some(own(number).parse().map_err(unexpected)?);
        let peer = Peer::new(format!("tor{number}"), address, ROUTER_ASN);
        Ok(Peer { families: Family::ALL.into(), local_address, ..peer })
    });
    let hosts = (0..scale.anycast).map(|number| {
        let half = number / 2;
        let text = match number % 2 {
            0 => format!("2001:db8:a::{:x}", half + 1),
            _ => format!("198.51.{}.{}", half / 250, half % 250 + 1),
        };
        text.parse::<IpAddr>().map_err(unexpected)
    });
    let mut anycast = hosts.collect::<Result<BTreeSet<_>>>()?;
    if extra {
        anycast.insert(EXTRA.parse().map_err(unexpected)?);
    }
    Ok(Announcements {
        peers: peers.collect::<Result<_>>()?,
        anycast,
        ..Announcements::new(NODE_ASN, Ipv4Addr::new(192, 0, 2, 254))
    })
}
