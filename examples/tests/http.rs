//! The agent's probes under attack: any pod can open connections to the agent's port.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use flock_core::attachment::GATEWAY_V4;
use flock_examples::deadline::{Probe, until};
use flock_examples::netns::Netns;
use flock_examples::node::Node;
use flock_examples::process::run;
use flock_examples::{Result, sandbox};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;

const PORT: u16 = 9430;
/// Of the probes in deploy/base/agent.yaml.
const PROBE: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(30);
/// More than a server could hold for all of them, and than the kernel queues.
const FLOOD: usize = 3000;

/// The calling thread stays in there.
fn enter(netns: &Netns) {
    let file = File::open(netns.path()).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// What a probe gets.
fn healthz(address: IpAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, PORT), PROBE).unwrap();
    stream.set_read_timeout(Some(PROBE)).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn idle_connections_of_a_pod_do_not_keep_the_probes_from_their_answer() -> Result<()> {
    sandbox::within("idle_connections_of_a_pod_do_not_keep_the_probes_from_their_answer", |_| {
        let mut node = Node::alone("node", &json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24"}))?;
        // The probes ask 127.0.0.1 and the agent listens on [::]: not the same with this setting.
        let script = "echo 1 > /proc/sys/net/ipv6/bindv6only";
        run(node.netns.command("sh").args(["-c", script]))?;
        let mut command = node.agent_command()?;
        command.args(["--http-address", &format!("[::]:{PORT}")]);
        node.start_agent_as(command)?;
        node.wait_ready()?;
        let pod = node.add_pod("flooder", &[])?;

        let (opened, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                enter(pod.netns());
                let mut idle = VecDeque::new();
                while !stop.load(Ordering::Relaxed) {
                    let target = SocketAddr::new(GATEWAY_V4.into(), PORT);
                    idle.extend(TcpStream::connect_timeout(&target, Duration::from_millis(100)));
                    opened.fetch_add(1, Ordering::Relaxed);
                    if idle.len() == FLOOD {
                        idle.pop_front();
                    }
                }
            });
            let probes = scope.spawn(|| {
                enter(&node.netns);
                let ask =
                    |address: IpAddr| assert!(healthz(address).starts_with("HTTP/1.0 200 "), "{address}");
                let flooded = until("the flood to be there", LIMIT, || {
                    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
                        ask(address);
                    }
                    let opened = opened.load(Ordering::Relaxed);
                    Ok(if opened > FLOOD {
                        Probe::Done(())
                    } else {
                        Probe::Waiting(format!("{opened} opened"))
                    })
                });
                for _ in 0..20 {
                    ask(Ipv4Addr::LOCALHOST.into());
                }
                flooded
            });
            let flooded = probes.join();
            stop.store(true, Ordering::Relaxed);
            flooded.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}
