//! A router that sends a full table to a node that takes the default routes of it.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use flock_bird::control::Client;
use flock_bird::{BirdAnnouncer, status, table};
use flock_core::announcer::{Announcements, RouteAnnouncer as _};
use flock_core::node_config::{Family, Import, Peer};
use tokio::runtime::Runtime;

use super::many::ask;
use super::{LIMIT, Lab, NODE_ASN, ROUTER_ASN, Scale, Series, count, kernel_routes, text, unexpected, until};
use crate::{LabError, Result};

/// The routes that are taken: a default route of each family.
pub(super) const DEFAULTS: usize = 2;

/// A node whose router has many routes, of which the import policy takes the default routes alone.
#[derive(Debug, Clone)]
pub struct FullTable {
    /// How many there are beside the default routes, half of each family.
    pub routes: usize,
    /// From the call that adds the peer until the session was up.
    pub session: Duration,
    /// From the same call until the node's BIRD had looked at all of them.
    pub settled: Duration,
    /// The resident memory of the node's BIRD before, in KiB.
    pub before_kib: u64,
    /// The same with the session, in KiB.
    pub after_kib: u64,
    /// That of the router's BIRD, in KiB.
    pub router_kib: u64,
    /// How many routes the node's kernel had before.
    pub kernel_before: usize,
    /// How many it had afterwards.
    pub kernel_after: usize,
    /// How long it took meanwhile to ask BIRD how the sessions are.
    pub asked: Series,
    /// How long it took afterwards to ask BIRD what it has of Flock's, as `flock-agent check` does.
    pub judged: Duration,
}

pub(super) fn measure(runtime: &Runtime, dir: &Path, scale: &Scale) -> Result<FullTable> {
    let lab = Lab::new("full", dir)?;
    let (router, client) = lab.start_router(&configuration(scale.routes))?;
    let router_kib = || router.resident_kib();
    runtime.block_on(async {
        let there = async || Ok(status::status(&client).await.is_ok());
        until("the router to answer", there).await?;
        let all = scale.routes + DEFAULTS;
        until("the router to have its routes", async || Ok(count(&client, "").await? == all)).await?;
        let numbers = measure_in(&lab, scale).await?;
        Ok(FullTable { router_kib: router_kib()?, ..numbers })
    })
}

async fn measure_in(lab: &Lab, scale: &Scale) -> Result<FullTable> {
    let nobody = Announcements::new(NODE_ASN, Ipv4Addr::new(192, 0, 2, 254));
    let address = "2001:db8:ffff::1".parse().map_err(unexpected)?;
    let peer = Peer {
        families: Family::ALL.into(),
        import: Import::Default,
        ..Peer::new("tor", address, ROUTER_ASN)
    };
    let with_peer = Announcements { peers: vec![peer], ..nobody.clone() };
    let announcer = BirdAnnouncer::start(&lab.config).map_err(unexpected)?;
    announcer.sync(&nobody).await.map_err(unexpected)?;
    announcer.applied().await.err();
    let (node, bird) = (lab.start_node()?, lab.client());
    until("BIRD to have taken its configuration", async || Ok(announcer.applied().await.is_ok())).await?;
    let (before_kib, kernel_before) = (node.resident_kib()?, kernel_routes(&lab.node)?);

    let begin = Instant::now();
    announcer.sync(&with_peer).await.map_err(unexpected)?;
    announcer.applied().await.map_err(unexpected)?;
    let (mut session, mut asked) = (None, Vec::new());
    let settled = loop {
        asked.push(ask(&bird).await?);
        let Looked { is_up, received } = look(&bird).await?;
        session = session.or(is_up.then(|| begin.elapsed()));
        if received >= scale.routes + DEFAULTS {
            break begin.elapsed();
        }
        if begin.elapsed() > LIMIT {
            let last = format!("; it has received {received}");
            return Err(LabError::Timeout { what: "all routes".to_owned(), limit: LIMIT, last });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let wanted = kernel_before + DEFAULTS;
    until("the default routes in the kernel", async || Ok(kernel_routes(&lab.node)? >= wanted)).await?;
    let judged = Instant::now();
    table::spoken(&bird).await.map_err(unexpected)?;
    let judged = judged.elapsed();
    Ok(FullTable {
        routes: scale.routes,
        session: session.unwrap_or(settled),
        settled,
        before_kib,
        after_kib: node.resident_kib()?,
        router_kib: 0,
        kernel_before,
        kernel_after: kernel_routes(&lab.node)?,
        asked: Series::of(asked),
        judged,
    })
}

struct Looked {
    is_up: bool,
    /// How many routes came over the session, whatever became of them.
    received: usize,
}

async fn look(bird: &Client) -> Result<Looked> {
    let said = text(bird, "show protocols all 'peer_tor'").await?;
    let values = |name: &'static str| {
        said.lines().filter_map(move |line| line.trim().strip_prefix(name).map(str::trim))
    };
    let received = values("Import updates:")
        .filter_map(|counts| counts.split_whitespace().next()?.parse::<usize>().ok())
        .sum();
    Ok(Looked { is_up: values("BGP state:").any(|state| state == "Established"), received })
}

/// A router with so many routes beside the default ones.
fn configuration(routes: usize) -> String {
    let mut text = String::new();
    for family in [6, 4] {
        let _ = writeln!(text, "protocol static {{ ipv{family};");
        let default = if family == 6 { "::/0" } else { "0.0.0.0/0" };
        let _ = writeln!(text, "route {default} blackhole;");
        for number in 0..routes / 2 {
            let _ = if family == 6 {
                let (high, low) = (0x8000 + (number >> 16), number & 0xffff);
                writeln!(text, "route 2001:db8:{high:x}:{low:x}::/64 blackhole;")
            } else {
                let bits = (number << 2) & 0x00ff_ffff;
                let (high, middle, low) = (bits >> 16, bits >> 8 & 0xff, bits & 0xff);
                writeln!(text, "route 10.{high}.{middle}.{low}/30 blackhole;")
            };
        }
        text.push_str("}\n");
    }
    let _ = writeln!(
        text,
        "protocol bgp node {{ local as {ROUTER_ASN}; neighbor 2001:db8:ffff::254 as {NODE_ASN};
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 {{ extended next hop; import all; export where source = RTS_STATIC; }};
  ipv6 {{ import all; export where source = RTS_STATIC; }}; }}"
    );
    text
}
