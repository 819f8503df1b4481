//! The main job of Flock, shown on one machine in well under a minute.
//!
//! Three network namespaces, two of them nodes and one a top-of-rack router, each
//! with a real BIRD; on the nodes real agents, and pods that are added by running
//! the real plugin. Everything happens in private namespaces and is gone with the
//! program; `--keep` leaves it standing and says how to look around in it.

use std::env;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::{Fabric, Plan};
use flock_examples::node::Pod;
use flock_examples::process::tail;
use flock_examples::runtime::INTERFACE;
use flock_examples::sandbox::{self, Entry, Sandbox};
use flock_examples::screen::{Failure, Screen, columns, milliseconds};
use flock_examples::{LabError, Result};

mod routes;

/// For sessions and routes that are on their way.
const CONVERGENCE: Duration = Duration::from_secs(20);
/// For one answer to one ping.
const ANSWER: Duration = Duration::from_secs(1);
const ANYCAST: [&str; 2] = ["2001:db8:a::53", "198.51.100.53"];
const NODES: [&str; 2] = ["node1", "node2"];
const GATEWAYS: [&str; 2] = ["fe80::1", "169.254.1.1"];

const PICTURE: &str = "
                     ┌──────────────────────────────┐
                     │ tor   BIRD, AS 64500         │
                     │ 2001:db8:ffff::1 192.0.2.254 │
                     └──────┬────────────────┬──────┘
              eBGP, v6 + v4 │                │ eBGP, v6 + v4
     ┌──────────────────────┴───────┐ ┌──────┴───────────────────────┐
     │ node1 BIRD, AS 64501         │ │ node2 BIRD, AS 64502         │
     │       flock-agent            │ │       flock-agent            │
     │ 2001:db8:1::/64  10.0.1.0/24 │ │ 2001:db8:2::/64  10.0.2.0/24 │
     └───┬──────────┬──────────┬────┘ └───┬──────────┬──────────┬────┘
       web-1      api-1      dns-1      web-2      api-2      dns-2
                               └── anycast 2001:db8:a::53 ──────┘
                                         198.51.100.53";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let keep = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--keep"] => true,
        _ => {
            eprintln!("found {arguments:?}, expected nothing or --keep (leave the lab standing)");
            return ExitCode::from(2);
        }
    };
    match sandbox::enter() {
        Ok(Entry::Left(code)) => code,
        Ok(Entry::Inside(sandbox)) => show(&sandbox, keep),
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show(sandbox: &Sandbox, keep: bool) -> ExitCode {
    let screen = Screen::new(sandbox.is_terminal());
    let start = Instant::now();
    match Demo::new(&screen).and_then(|mut demo| demo.play().map(|()| demo)) {
        Ok(demo) => {
            screen.line("");
            screen.line(format!("Everything works; {:.1} s in all.", start.elapsed().as_secs_f64()));
            if keep { stay(sandbox, &screen, &demo) } else { ExitCode::SUCCESS }
        }
        Err(failure) => {
            screen.failure(&failure);
            for log in Fabric::logs() {
                screen.line(format!("\n  the end of {}:", log.display()));
                screen.line(tail(&log, 8));
            }
            ExitCode::FAILURE
        }
    }
}

type Step<T> = Result<T, Failure<LabError>>;

struct Demo<'a> {
    screen: &'a Screen,
    fabric: Fabric,
    pods: Vec<Pod>,
}

impl<'a> Demo<'a> {
    fn new(screen: &'a Screen) -> Step<Self> {
        screen.line(PICTURE.trim_start_matches('\n'));
        screen.heading("Building it");
        let fabric = screen.step("three namespaces, two links and a router", || {
            let fabric = Fabric::build(2)?;
            let status = fabric.router.bird.query("show status")?;
            let bird = status.lines().next().unwrap_or("BIRD").replace(" version", "");
            let bird = bird.strip_prefix("BIRD ").unwrap_or(&bird).to_owned();
            Ok((fabric, format!("three namespaces, two links, a router with BIRD {bird}")))
        })?;
        Ok(Self { screen, fabric, pods: Vec::new() })
    }

    fn play(&mut self) -> Step<()> {
        self.start_nodes()?;
        self.add_pods()?;
        self.screen.heading("Everyone reaches everyone");
        self.converge()?;
        let trips = self.ping_all()?;
        self.screen.heading("Pods, and round-trip times in ms (others: the median of the other pods)");
        for line in columns(&self.table(&trips), 4) {
            self.screen.line(line);
        }
        self.screen.heading("A pod that is not ready gets nothing");
        self.readiness()?;
        self.screen.heading("A node that is drained leaves in order");
        self.drain()?;
        self.screen.heading("An anycast address outlives one of its pods");
        self.anycast()?;
        self.bgp_table()
    }

    fn start_nodes(&mut self) -> Step<()> {
        let Self { screen, fabric, .. } = self;
        screen.step("flock-agent and BIRD on each node", || {
            fabric.nodes.iter_mut().try_for_each(flock_examples::node::Node::start)?;
            Ok(((), "flock-agent and BIRD run on node1 and node2".to_owned()))
        })?;
        screen.step("BGP sessions", || {
            fabric.router.bird.established(4, CONVERGENCE)?;
            Ok(((), "4 BGP sessions established, one of each family with each node".to_owned()))
        })
    }

    fn add_pods(&mut self) -> Step<()> {
        let Self { screen, fabric, pods } = self;
        *pods = screen.step("pods, by running the plugin", || {
            let anycast = ANYCAST.join(",");
            let (mut pods, mut times) = (Vec::new(), Vec::new());
            for (node, number) in fabric.nodes.iter().zip(1..) {
                for (name, annotations) in
                    [("web", &[][..]), ("api", &[]), ("dns", &[("anycast", anycast.as_str())])]
                {
                    let start = Instant::now();
                    pods.push(node.add_pod(&format!("{name}-{number}"), annotations)?);
                    times.push(start.elapsed());
                }
            }
            let told = format!(
                "{} pods added by the flock plugin, {} ms each with their namespaces",
                pods.len(),
                median(times).as_millis()
            );
            Ok((pods, told))
        })?;
        Ok(())
    }

    /// Routes are on their way when the sessions are up.
    fn converge(&self) -> Step<()> {
        self.screen.step("routes between the nodes and the router", || {
            for pod in &self.pods {
                for address in &pod.addresses {
                    self.fabric.router.netns.reach(address, CONVERGENCE)?;
                }
            }
            let firsts =
                self.fabric.nodes.iter().map(|node| self.pods.iter().find(|pod| pod.node == node.name()));
            let firsts: Vec<&Pod> = firsts.flatten().collect();
            for (one, other) in pairs(&firsts) {
                for address in &other.addresses {
                    one.netns().reach(address, CONVERGENCE)?;
                }
            }
            Ok(((), "the router and the nodes have each other's routes".to_owned()))
        })
    }

    fn ping_all(&self) -> Step<Vec<Trips>> {
        self.screen.step("pings between all", || {
            let mut count = 0;
            let mut all = Vec::new();
            for pod in &self.pods {
                let mut trips = Trips::default();
                for (family, gateway) in GATEWAYS.iter().enumerate() {
                    let mut ping = |target: String| {
                        count += 1;
                        pod.netns().must_ping(target, ANSWER)
                    };
                    let scope = if family == 0 { format!("%{INTERFACE}") } else { String::new() };
                    trips.gateway.push(ping(format!("{gateway}{scope}"))?);
                    trips.router.extend(
                        self.fabric
                            .router
                            .addresses()
                            .get(family)
                            .map(|router| ping(router.to_string()))
                            .transpose()?,
                    );
                    let mut others = Vec::new();
                    for other in self.pods.iter().filter(|other| other.name() != pod.name()) {
                        others.push(ping(address(other, family)?.to_string())?);
                    }
                    trips.others.push(median(others));
                }
                all.push(trips);
            }
            Ok((all, format!("{count} pings, {count} answers: pods, gateways, router, IPv6 and IPv4")))
        })
    }

    /// The pod that serves the anycast addresses on one node, off and on.
    fn readiness(&self) -> Step<()> {
        let Self { screen, fabric, .. } = self;
        let targets = anycast_addresses();
        screen.step("anycast from both nodes", || {
            for target in &targets {
                next_hops(fabric, *target, &NODES)?;
                fabric.router.netns.must_ping(target, ANSWER)?;
            }
            Ok(((), format!("the router reaches {} by both nodes", ANYCAST.join(" and "))))
        })?;
        let node = &fabric.nodes[0];
        screen.step("a pod that becomes unready", || {
            let start = Instant::now();
            node.set_ready("dns-1", false)?;
            for target in &targets {
                next_hops(fabric, *target, &NODES[1..])?;
            }
            let gap = start.elapsed();
            fabric.router.netns.must_ping(targets[0], ANSWER)?;
            Ok(((), format!("dns-1 is not ready: by node2 alone, {} ms later", milliseconds(gap))))
        })?;
        screen.step("a pod that becomes ready", || {
            let start = Instant::now();
            node.set_ready("dns-1", true)?;
            for target in &targets {
                next_hops(fabric, *target, &NODES)?;
            }
            Ok((
                (),
                format!("dns-1 is ready: by both nodes again, {} ms later", milliseconds(start.elapsed())),
            ))
        })
    }

    fn drain(&self) -> Step<()> {
        let Self { screen, fabric, .. } = self;
        let targets = anycast_addresses();
        let node = &fabric.nodes[0];
        screen.step("the mark of a drain", || {
            node.change_bgp(|bgp| {
                bgp["drain"] = true.into();
                bgp["drainTime"] = 1.into();
            })?;
            let plan = Plan::new(1);
            until("GRACEFUL_SHUTDOWN with the routes of node1", CONVERGENCE, || {
                let routes = fabric.router.bird.query("show route all where bgp_community ~ [(65535, 0)]")?;
                let marked =
                    [plan.cidr6(), plan.cidr4()].iter().all(|prefix| routes.contains(prefix.as_str()));
                Ok(if marked { Probe::Done(()) } else { Probe::Waiting(routes) })
            })?;
            for target in &targets {
                next_hops(fabric, *target, &NODES[1..])?;
                fabric.router.netns.must_ping(target, ANSWER)?;
            }
            Ok(((), "node1's routes carry GRACEFUL_SHUTDOWN, the router prefers node2".to_owned()))
        })?;
        screen.step("the withdrawal of a drain", || {
            let of_node1 = ["node1_v6", "node1_v4"];
            until("no route of node1", CONVERGENCE, || {
                let routes = fabric.router.bird.query("show route where source = RTS_BGP")?;
                let left = of_node1.iter().any(|session| routes.contains(session));
                Ok(if left { Probe::Waiting(routes) } else { Probe::Done(()) })
            })?;
            fabric.router.bird.established(4, ANSWER)?;
            Ok(((), "after drainTime (1 s) none is left; the 4 BGP sessions stay up".to_owned()))
        })?;
        screen.step("the end of a drain", || {
            node.change_bgp(|bgp| bgp["drain"] = false.into())?;
            for target in targets.iter().chain(self.pods.iter().flat_map(|pod| &pod.addresses)) {
                fabric.router.netns.reach(target, CONVERGENCE)?;
            }
            for target in &targets {
                next_hops(fabric, *target, &NODES)?;
            }
            Ok(((), "undone: every pod is reached, the anycast ones by both nodes".to_owned()))
        })
    }

    fn anycast(&mut self) -> Step<()> {
        let Self { screen, fabric, pods } = self;
        let targets = anycast_addresses();
        let used = screen.step("the node that the router takes", || {
            let used = match targets.first() {
                Some(target) => fabric.router.next_hop(*target)?,
                None => String::new(),
            };
            let told = format!("its packets for {} go to {used}", ANYCAST[0]);
            Ok((used, told))
        })?;
        screen.step("the deletion of one of the two pods", || {
            let place = pods.iter().position(|pod| pod.node == used && pod.name().starts_with("dns"));
            let node = fabric.nodes.iter().find(|node| node.name() == used);
            let (Some(place), Some(node)) = (place, node) else {
                return Err(LabError::Unexpected(format!("no pod on {used} serves the address")));
            };
            let pod = pods.remove(place);
            let start = Instant::now();
            node.delete_pod(&pod)?;
            for target in &targets {
                fabric.router.netns.reach(target, CONVERGENCE)?;
            }
            let gap = start.elapsed();
            let other = if used == "node1" { "node2" } else { "node1" };
            for target in &targets {
                next_hops(fabric, *target, &[other])?;
                fabric.router.netns.must_ping(target, ANSWER)?;
            }
            let told = format!("{} deleted, answers from {other} {} ms later", pod.name(), milliseconds(gap));
            Ok(((), told))
        })?;
        screen.step("sessions after all this", || {
            fabric.router.bird.established(4, ANSWER)?;
            Ok(((), "the 4 BGP sessions are still up".to_owned()))
        })?;
        Ok(())
    }

    fn bgp_table(&self) -> Step<()> {
        let Self { screen, fabric, .. } = self;
        let routes = screen.step("the router's BGP table", || {
            let answer = fabric.router.bird.query("show route where source = RTS_BGP")?;
            let table = routes::table(&answer);
            let told = format!("the router's BGP table has {} routes", table.len());
            Ok((table, told))
        })?;
        screen.heading("The router's BGP table");
        for line in routes {
            screen.line(line);
        }
        Ok(())
    }

    fn table(&self, trips: &[Trips]) -> Vec<Vec<String>> {
        let heads = ["pod", "node", "IPv6", "IPv4", "gateway", "", "router", "", "others", ""];
        let families = ["", "", "", "", "v6", "v4", "v6", "v4", "v6", "v4"];
        let mut rows: Vec<_> = [heads, families].map(|row| row.map(str::to_owned).to_vec()).into();
        rows.extend(self.pods.iter().zip(trips).map(|(pod, trips)| {
            let mut row = vec![pod.name().to_owned(), pod.node.clone()];
            row.extend(pod.addresses.iter().map(IpAddr::to_string));
            let times = [&trips.gateway, &trips.router, &trips.others].into_iter().flatten();
            row.extend(times.map(|time| milliseconds(*time)));
            row
        }));
        rows
    }
}

fn anycast_addresses() -> Vec<IpAddr> {
    ANYCAST.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Of one pod, IPv6 first.
#[derive(Debug, Default)]
struct Trips {
    gateway: Vec<Duration>,
    router: Vec<Duration>,
    others: Vec<Duration>,
}

fn next_hops(fabric: &Fabric, target: IpAddr, nodes: &[&str]) -> Result<()> {
    until(&format!("routes of the router to {target} by {}", nodes.join(" and ")), CONVERGENCE, || {
        let found = fabric.router.next_hops(target)?;
        Ok(if found == nodes { Probe::Done(()) } else { Probe::Waiting(format!("{found:?}")) })
    })
}

/// The pod's address of a family, 0 for IPv6 and 1 for IPv4.
fn address(pod: &Pod, family: usize) -> Result<IpAddr> {
    let wanted = pod.addresses.iter().find(|address| address.is_ipv6() == (family == 0));
    wanted.copied().ok_or_else(|| {
        LabError::Unexpected(format!(
            "{} has {:?}, expected one address of each family",
            pod.name(),
            pod.addresses
        ))
    })
}

fn pairs<'a, T: ?Sized>(all: &'a [&'a T]) -> impl Iterator<Item = (&'a T, &'a T)> {
    all.iter()
        .flat_map(move |one| all.iter().map(move |other| (*one, *other)))
        .filter(|(a, b)| !std::ptr::eq(*a, *b))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn stay(sandbox: &Sandbox, screen: &Screen, demo: &Demo<'_>) -> ExitCode {
    let shell = sandbox.nsenter();
    let pod = demo.pods.first().map_or("web-1", Pod::name);
    screen.heading("The lab stands. A shell in it:");
    screen.line(format!("  {shell}"));
    screen.line("\nand in that shell, for example:");
    for (command, what) in [
        ("ip netns list".to_owned(), "the router, the nodes, the pods"),
        ("ip -6 -netns node1 route".to_owned(), "the routes of a node"),
        (format!("ip -netns {pod} address"), "the addresses of a pod"),
        (format!("nsenter --net=/run/netns/{pod} ping 2001:db8:2::1"), "from one pod to another"),
        ("birdc -s /run/lab/tor/bird.ctl show protocols".to_owned(), "the router's sessions"),
        ("cat /run/lab/node1/bird/bird.conf".to_owned(), "what the agent wrote for BIRD"),
        ("ls /run/lab/node1/run/attachments".to_owned(), "the agent's records"),
        ("cat /run/lab/node1/agent.log".to_owned(), "what it said"),
    ] {
        screen.line(format!("  {command:<55} # {what}"));
    }
    screen.line(format!("\nEnd it, from outside:\n  {}", sandbox.end_command()));
    match sandbox.keep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.line(format!("demo: {error}"));
            ExitCode::FAILURE
        }
    }
}
