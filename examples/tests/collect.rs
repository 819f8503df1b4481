//! A runtime that loses containers without a DEL: the agent finds what they leave, and
//! takes no living pod for one of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use flock_examples::deadline::{Probe, until};
use flock_examples::netns::Netns;
use flock_examples::node::{Node, Pod};
use flock_examples::{Result, sandbox};
use serde_json::json;

const PORT: u16 = 9430;
/// The kernel takes its time with a namespace that nobody holds any more.
const LIMIT: Duration = Duration::from_secs(30);

/// A process that lives in a namespace; dropping it ends it.
struct Process(Child);

impl Process {
    fn living_in(netns: &Netns) -> Result<Self> {
        let child = netns.command("sleep").arg("600").spawn().unwrap();
        let process = Self(child);
        let name = format!("/proc/{}/comm", process.0.id());
        until("a process in the namespace", LIMIT, || {
            let name = fs::read_to_string(&name).unwrap();
            Ok(if name.trim() == "sleep" { Probe::Done(()) } else { Probe::Waiting(name) })
        })?;
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn record(node: &Node, pod: &Pod) -> PathBuf {
    node.files().run.join("attachments").join(format!("{}@eth0.json", pod.container.id))
}

/// Waits until the agent has collected these, and looks at those that it must leave alone.
fn collects(node: &Node, dead: &[&Pod], living: &[&Pod]) -> Result<()> {
    until("the dead pods to be collected", LIMIT, || {
        for pod in living {
            assert!(record(node, pod).exists(), "{} was collected", pod.name());
        }
        let left: Vec<&str> =
            dead.iter().filter(|pod| record(node, pod).exists()).map(|pod| pod.name()).collect();
        Ok(if left.is_empty() { Probe::Done(()) } else { Probe::Waiting(format!("{left:?}")) })
    })?;
    let log = fs::read_to_string(&node.files().agent_log).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("collected: ")).collect();
    for pod in dead {
        let of_pod = lines.iter().filter(|line| line.contains(&pod.container.id)).count();
        assert_eq!(of_pod, 1, "{}: {lines:?}", pod.container.id);
    }
    for pod in living {
        for address in &pod.addresses {
            node.netns.must_ping(*address, Duration::from_secs(1))?;
        }
    }
    Ok(())
}

#[test]
fn the_dead_are_collected_and_the_living_are_not() -> Result<()> {
    sandbox::within("the_dead_are_collected_and_the_living_are_not", |_| {
        let mut node = Node::alone("node", &json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24"}))?;
        let mut command = node.agent_command()?;
        command.args(["--gc-interval", "1", "--gc-grace", "1"]);
        command.args(["--http-address", &format!("127.0.0.1:{PORT}")]);
        node.start_agent_as(command)?;
        node.wait_ready()?;
        assert_eq!(node.counted(PORT, "flock_collected_total")?, 0);
        let names = ["alive", "gone", "replaced", "hidden", "covered"];
        let pods = names.iter().map(|name| node.add_pod(name, &[])).collect::<Result<Vec<Pod>>>()?;
        let [alive, gone, replaced, hidden, covered] = &pods[..] else { panic!("{pods:?}") };
        let processes = [Process::living_in(hidden.netns())?, Process::living_in(covered.netns())?];

        // Those that live lose their paths first: whatever the agent sees of the dead, it
        // has seen of them for longer.
        hidden.netns().delete()?;
        covered.netns().delete()?;
        Netns::create(covered.name())?;
        gone.netns().delete()?;
        replaced.netns().delete()?;
        Netns::create(replaced.name())?;
        collects(&node, &[gone, replaced], &[alive, hidden, covered])?;
        assert_eq!(node.counted(PORT, "flock_collected_total")?, 2);

        // The runtime comes late, and a new sandbox takes the path.
        node.runtime()?.delete(&gone.container)?;
        drop(processes);
        collects(&node, &[hidden, covered], &[alive])?;
        assert_eq!(node.counted(PORT, "flock_collected_total")?, 4);
        Ok(())
    })
}

/// Found at the start too: what died while no agent ran.
#[test]
fn what_died_while_the_agent_was_away_is_collected_after_its_start() -> Result<()> {
    sandbox::within("what_died_while_the_agent_was_away_is_collected_after_its_start", |_| {
        let mut node = Node::alone("node", &json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24"}))?;
        node.start_agent()?;
        node.wait_ready()?;
        let (alive, gone) = (node.add_pod("alive", &[])?, node.add_pod("gone", &[])?);
        node.agent().unwrap().kill()?;
        gone.netns().delete()?;
        let mut command: Command = node.agent_command()?;
        command.args(["--gc-interval", "1", "--gc-grace", "0"]);
        node.start_agent_as(command)?;
        node.wait_ready()?;
        collects(&node, &[&gone], &[&alive])
    })
}
