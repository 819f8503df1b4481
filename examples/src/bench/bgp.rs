//! BGP with much of everything: peers, anycast addresses, routes of others, changes.
//!
//! BIRD is a real one on both sides. What BIRD and the kernel take by themselves is measured
//! beside it: the same file given to BIRD by hand, the same routes by `ip -batch`.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use flock_bird::config::BirdConfig;
use flock_bird::control::Client;
use tokio::runtime::Builder;

mod full;
mod many;

pub use full::FullTable;
pub use many::ManyPeers;

use super::Scale;
use super::report::{Target, milliseconds};
use super::series::Series;
use crate::changes::{self, Changes};
use crate::fabric::Fabric;
use crate::netns::{End, Netns, link};
use crate::process::{Daemon, start_error, status_text};
use crate::{LabError, Result};

/// Of the routes that play Flock's part; that of flock-netlink.
const ROUTE_PROTOCOL: u8 = 70;
const NODE_ASN: u32 = 64_512;
const ROUTER_ASN: u32 = 64_500;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The numbers.
#[derive(Debug, Clone)]
pub struct BgpNumbers {
    /// A node with many peers and anycast addresses.
    pub many: ManyPeers,
    /// A node whose router has a full table.
    pub full: FullTable,
    /// Changes at a pace that can be followed, and without a pause.
    pub changes: [Changes; 2],
}

/// Measures everything.
pub(super) fn measure(dir: &Path, scale: &Scale) -> Result<BgpNumbers> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| LabError::Unexpected(format!("tokio: {error}")))?;
    let many = many::measure(&runtime, dir, scale)?;
    let full = full::measure(&runtime, dir, scale)?;
    let mut fabric = Fabric::build(1)?;
    let mut servers = changes::servers(&mut fabric, LIMIT)?;
    let mut change = |during| servers.change(&mut fabric, scale.changes, during, LIMIT);
    let pace = Duration::from_millis(5) * u32::try_from(scale.changes).unwrap_or(u32::MAX);
    Ok(BgpNumbers { many, full, changes: [change(pace)?, change(Duration::ZERO)?] })
}

impl BgpNumbers {
    /// What of the targets is reached.
    pub(super) fn targets(&self) -> Vec<Target> {
        let Self { many, full, changes: [paced, _] } = self;
        let median = |series: &Series| series.percentile(50).as_secs_f64();
        let ratio = median(&many.apply) / median(&many.by_hand);
        let grown = full.after_kib.saturating_sub(full.before_kib);
        let worst = full.asked.percentile(100);
        let put = full.kernel_after.saturating_sub(full.kernel_before);
        vec![
            Target {
                what: "BGP, rendering",
                wanted: "at most 20 ms with 1000 addresses".to_owned(),
                measured: format!("{} ms with {}", milliseconds(many.render.percentile(50)), many.anycast),
                is_reached: median(&many.render) <= 0.020,
            },
            Target {
                what: "BGP, a change taken, median",
                wanted: "at most 50 ms with 64 peers".to_owned(),
                measured: format!("{} ms, {ratio:.1} by hand", milliseconds(many.apply.percentile(50))),
                is_reached: median(&many.apply) <= 0.050,
            },
            Target {
                what: "BGP, anycast routes at all peers",
                wanted: "1000 at 64 within 1 s".to_owned(),
                measured: format!("{} at {}, {} ms", many.anycast, many.peers, milliseconds(many.told)),
                is_reached: many.told <= Duration::from_secs(1),
            },
            Target {
                what: "BGP, routes kept out, BIRD's memory",
                wanted: "at most 8 MiB more with 500000".to_owned(),
                measured: format!("{grown} KiB with {}", full.routes),
                is_reached: grown <= 8 * 1024,
            },
            Target {
                what: "BGP, routes kept out, kernel",
                wanted: "the default routes alone".to_owned(),
                measured: format!("{put} of {}", full.routes + full::DEFAULTS),
                is_reached: put == full::DEFAULTS,
            },
            Target {
                what: "BGP, a question meanwhile, worst",
                wanted: "at most 1 s".to_owned(),
                measured: format!("{} ms", milliseconds(worst)),
                is_reached: worst <= Duration::from_secs(1),
            },
            Target {
                what: "BGP, last of many changes at router",
                wanted: "within 100 ms, 2000 in 10 s".to_owned(),
                measured: format!("{} ms, {}", milliseconds(paced.caught_up), paced.changes),
                is_reached: paced.caught_up <= Duration::from_millis(100),
            },
        ]
    }
}

impl fmt::Display for BgpNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { many, full, changes } = self;
        writeln!(f, "BGP with {} peers and {} anycast addresses; milliseconds.\n", many.peers, many.anycast)?;
        writeln!(f, "{:52} {:>8}{:>8}{:>8}  {:>5}", "", "median", "p90", "worst", "times")?;
        for (what, series) in [
            ("configuration rendered", &many.render),
            ("an address more or less: BIRD has taken it", &many.apply),
            ("the same files given to BIRD by hand", &many.by_hand),
            ("an address more or less: all peers know", &many.heard),
            ("how the sessions are, asked of BIRD", &many.asked),
            ("the same while a full table comes in", &full.asked),
        ] {
            write!(f, "{what:52} ")?;
            for percent in [50, 90, 100] {
                write!(f, "{:>8}", milliseconds(series.percentile(percent)))?;
            }
            writeln!(f, "  {:>5}", series.count())?;
        }
        writeln!(f, "\nConfiguration: {} KiB. BIRD: {} KiB resident.", many.file / 1024, many.resident_kib)?;
        writeln!(
            f,
            "{} routes to anycast addresses: ip -batch took {} ms, BIRD had them after {} ms, all peers after {} ms.",
            many.anycast,
            milliseconds(many.batch),
            milliseconds(many.learned),
            milliseconds(many.told)
        )?;
        writeln!(
            f,
            "{} routes of a router, import: default: session after {} ms, all looked at after {} ms; BIRD had {} KiB \
             before and {} KiB after (the router's {} KiB), the kernel {} routes before and {} after; flock-agent \
             check's question of it took {} ms.",
            full.routes,
            milliseconds(full.session),
            milliseconds(full.settled),
            full.before_kib,
            full.after_kib,
            full.router_kib,
            full.kernel_before,
            full.kernel_after,
            milliseconds(full.judged)
        )?;
        for change in changes {
            writeln!(
                f,
                "{} changes of readiness in {:.2} s: the router had the last state {} ms later; {} changes of the \
                 kernel's routes, {} configurations of BIRD, {} ms of processor time of the agent.",
                change.changes,
                change.took.as_secs_f64(),
                milliseconds(change.caught_up),
                change.kernel_writes,
                change.configurations,
                milliseconds(change.worked)
            )?;
        }
        Ok(())
    }
}

/// A node and a router on one link: 2001:db8:ffff::254 and 192.0.2.254 are the node,
/// 2001:db8:ffff::1 and 192.0.2.1 the router.
struct Lab {
    node: Netns,
    router: Netns,
    /// Where BIRD's files of the node are.
    config: BirdConfig,
    /// Where those of the router are.
    router_dir: PathBuf,
}

impl Lab {
    fn new(name: &str, dir: &Path) -> Result<Self> {
        let (node, router) = (Netns::create(name)?, Netns::create(&format!("{name}-router"))?);
        link(End { netns: &node, interface: "uplink" }, End { netns: &router, interface: "down" })?;
        for (end, interface, number) in [(&node, "uplink", 254), (&router, "down", 1)] {
            end.address(interface, &format!("2001:db8:ffff::{number}/64"))?;
            end.address(interface, &format!("192.0.2.{number}/24"))?;
        }
        let (dir, router_dir) = (dir.join(name), dir.join(format!("{name}-router")));
        for dir in [&dir, &router_dir] {
            fs::create_dir_all(dir).map_err(LabError::file("create", dir))?;
        }
        let config = BirdConfig {
            config_path: dir.join("bird.conf"),
            socket_path: dir.join("bird.ctl"),
            // What is measured is not spaced.
            debounce: Duration::ZERO,
            ..BirdConfig::new(ROUTE_PROTOCOL)
        };
        Ok(Self { node, router, config, router_dir })
    }

    /// Starts the node's BIRD with what the announcer has written.
    fn start_node(&self) -> Result<Daemon> {
        start(&self.node, &self.config.config_path, &self.config.socket_path)
    }

    /// Starts the router's with `protocols`.
    fn start_router(&self, protocols: &str) -> Result<(Daemon, Client)> {
        let (config, socket) = (self.router_dir.join("bird.conf"), self.router_dir.join("bird.ctl"));
        let text = format!(
            "log stderr {{ warning, error, fatal, bug }};\nrouter id 192.0.2.1;\nprotocol device {{}}\n{protocols}"
        );
        fs::write(&config, text).map_err(LabError::file("write", &config))?;
        Ok((start(&self.router, &config, &socket)?, Client::new(socket, LIMIT)))
    }

    /// Asks the node's BIRD.
    fn client(&self) -> Client {
        Client::new(&self.config.socket_path, LIMIT)
    }
}

/// Without a look at the configuration before, which may be large.
fn start(netns: &Netns, config: &Path, socket: &Path) -> Result<Daemon> {
    let mut command = netns.command("bird");
    command.arg("-f").arg("-c").arg(config).arg("-s").arg(socket);
    Daemon::start(&format!("BIRD on {}", netns.name()), &mut command, &config.with_extension("log"))
}

/// What BIRD prints.
async fn text(client: &Client, command: &str) -> Result<String> {
    let reply = client.ask(command).await.map_err(unexpected)?;
    Ok(reply.lines().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n"))
}

/// Looks until `holds`; as often as it can, since the time until then is what counts.
async fn until(what: &str, holds: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !holds().await? {
        if begin.elapsed() > LIMIT {
            return Err(LabError::Timeout { what: what.to_owned(), limit: LIMIT, last: String::new() });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// From `500 of 501 routes for 501 networks in table master6`, of all tables.
async fn count(client: &Client, of: &str) -> Result<usize> {
    let said = text(client, &format!("show route {of} count")).await?;
    let counts = said.lines().filter(|line| line.contains(" in table "));
    Ok(counts.filter_map(|line| line.split_whitespace().next()?.parse::<usize>().ok()).sum())
}

/// Runs the lines as one `ip -batch`, and answers how long it took.
fn batch(netns: &Netns, lines: &str) -> Result<Duration> {
    let mut command = netns.command("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped());
    let begin = Instant::now();
    let mut child = command.spawn().map_err(start_error(&command))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes()).map_err(LabError::file("write to", "ip -batch"))?;
    }
    let status = child.wait().map_err(LabError::file("wait for", "ip -batch"))?;
    if status.success() {
        return Ok(begin.elapsed());
    }
    Err(LabError::Unexpected(format!("ip -batch ended with {}", status_text(status))))
}

fn kernel_routes(netns: &Netns) -> Result<usize> {
    let of = |family| Ok::<_, LabError>(netns.ip(&[family, "route"])?.lines().count());
    Ok(of("-4")? + of("-6")?)
}

fn unexpected(error: impl fmt::Display) -> LabError {
    LabError::Unexpected(error.to_string())
}
