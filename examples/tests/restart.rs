//! The agent is killed and started again under traffic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it should be"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use flock_core::attachment::AttachmentState;
use flock_core::store::{FileStore, Store};
use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::Fabric;
use flock_examples::node::{Node, Pod};
use flock_examples::{LabError, Result, sandbox};

const LIMIT: Duration = Duration::from_secs(30);

/// Everything that a restart must leave as it was.
#[derive(Debug, PartialEq)]
struct State {
    records: BTreeMap<PathBuf, String>,
    node: Vec<String>,
    pods: Vec<String>,
}

impl State {
    fn of(node: &Node, pods: &[&Pod]) -> Result<Self> {
        let directory = node.files().run.join("attachments");
        let records = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
            .collect();
        let look = |netns: &flock_examples::netns::Netns| -> Result<Vec<String>> {
            ["link", "addr", "-4 route", "-6 route", "neigh show nud permanent"]
                .iter()
                .map(|question| netns.ip(&question.split(' ').collect::<Vec<_>>()))
                // The lab's own links go through duplicate address detection; pods' never do.
                .map(|answer| Ok(answer?.replace("scope link tentative", "scope link")))
                .collect()
        };
        let mut of_pods = Vec::new();
        for pod in pods {
            of_pods.extend(look(pod.netns())?);
        }
        Ok(Self { records, node: look(&node.netns)?, pods: of_pods })
    }
}

/// Pings every 10 ms until it is told how many to wait for; none may be lost.
struct Traffic {
    pings: Vec<(String, std::process::Child)>,
}

/// How many echo requests each stream sends: 4 s of them.
const COUNT: u32 = 400;

impl Traffic {
    fn start(from: &Pod, to: &Pod) -> Self {
        let pings = to.addresses.iter().map(|address| {
            let mut command = from.netns().command("ping");
            command.args(["-n", "-q", "-i", "0.01", "-W", "1", "-c", &COUNT.to_string()]);
            command.arg(address.to_string()).stdout(Stdio::piped());
            (format!("{} to {address}", from.name()), command.spawn().unwrap())
        });
        Self { pings: pings.collect() }
    }

    fn is_flowing(&mut self) -> bool {
        self.pings.iter_mut().all(|(_, ping)| ping.try_wait().unwrap().is_none())
    }

    fn assert_nothing_lost(self) {
        for (what, ping) in self.pings {
            let output = ping.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let expected = format!("{COUNT} packets transmitted, {COUNT} received, 0% packet loss");
            assert!(said.contains(&expected), "{what}: {said}");
        }
    }
}

fn restart(node: &mut Node) -> Result<()> {
    let agent = node.agent().ok_or_else(|| LabError::Unexpected("no agent was started".into()))?;
    agent.kill()?;
    node.start_agent()
}

/// ADD as a runtime does it, which comes again when it is told to (code 11).
fn add(node: &Node, pod: &Pod) -> Result<Vec<std::net::IpAddr>> {
    let runtime = node.runtime()?;
    until("the agent to serve ADD", LIMIT, || match runtime.add(&pod.container) {
        Ok(addresses) => Ok(Probe::Done(addresses)),
        Err(LabError::Failed { output, .. }) if output.starts_with("error 11:") => Ok(Probe::Waiting(output)),
        Err(error) => Err(error),
    })
}

#[test]
fn a_killed_agent_loses_no_packet_and_finds_everything_again() -> Result<()> {
    sandbox::within("a_killed_agent_loses_no_packet_and_finds_everything_again", |_| {
        let mut fabric = Fabric::build(2)?;
        for node in &mut fabric.nodes {
            node.start()?;
        }
        fabric.router.bird.established(4, LIMIT)?;
        let anycast = [("anycast", "2001:db8:a::1,198.51.100.1")];
        let here = fabric.nodes[0].add_pod("here", &anycast)?;
        let there = fabric.nodes[1].add_pod("there", &[])?;
        for (from, to) in [(&here, &there), (&there, &here)] {
            for address in &to.addresses {
                from.netns().reach(*address, LIMIT)?;
            }
        }
        let before = State::of(&fabric.nodes[0], &[&here])?;

        let mut traffic = [Traffic::start(&here, &there), Traffic::start(&there, &here)];
        restart(&mut fabric.nodes[0])?;
        // It serves again: a repeated ADD is answered from the record, the same as before.
        let again = add(&fabric.nodes[0], &here)?;
        assert_eq!(again, here.addresses);
        assert!(traffic.iter_mut().all(Traffic::is_flowing), "the pings ended before the agent was back");
        for stream in traffic {
            stream.assert_nothing_lost();
        }
        assert_eq!(State::of(&fabric.nodes[0], &[&here])?, before);

        // The leases are held: nobody else gets the address, by chance or by asking.
        let wanted = here.addresses[0].to_string();
        let refused = fabric.nodes[0].add_pod("greedy", &[("ipv6", &wanted)]).unwrap_err().to_string();
        assert!(refused.contains("already in use by pod default/here"), "{refused}");
        let other = fabric.nodes[0].add_pod("other", &[])?;
        assert!(other.addresses.iter().all(|address| !here.addresses.contains(address)));
        Ok(())
    })
}

/// The agent dies between the kernel's work and the committed record: everything is
/// there, and the record still says pending.
#[test]
fn a_half_made_attachment_is_gone_after_the_restart() -> Result<()> {
    sandbox::within("a_half_made_attachment_is_gone_after_the_restart", |_| {
        let mut fabric = Fabric::build(1)?;
        let node = &mut fabric.nodes[0];
        node.start()?;
        let kept = node.add_pod("kept", &[])?;
        // What BIRD learned later would be a change of the node's routes.
        until("routes from the router", LIMIT, || {
            let learned =
                ["-4", "-6"].map(|family| node.netns.ip(&[family, "route", "show", "proto", "bird"]));
            let [v4, v6] = learned;
            let (v4, v6) = (v4?, v6?);
            let all = !v4.is_empty() && !v6.is_empty();
            Ok(if all { Probe::Done(()) } else { Probe::Waiting(v4 + &v6) })
        })?;
        let before = State::of(node, &[&kept])?;
        let half = node.add_pod("half", &[])?;
        node.agent().unwrap().kill()?;
        mark_as_pending(node, &half);
        node.start_agent()?;
        until("the half made attachment to be gone", LIMIT, || {
            let now = State::of(node, &[&kept])?;
            Ok(if now == before { Probe::Done(()) } else { Probe::Waiting(format!("{now:?}")) })
        })?;
        assert!(!half.netns().ip(&["link"])?.contains("eth0"));
        // The runtime's retry succeeds, and so does its DEL.
        add(node, &half)?;
        node.runtime()?.delete(&half.container)
    })
}

fn mark_as_pending(node: &Node, pod: &Pod) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (store, set_aside) = FileStore::open(node.files().run.join("attachments")).await.unwrap();
        assert!(set_aside.is_empty());
        let records = store.list().await.unwrap();
        let mut record =
            records.into_iter().find(|record| record.key.container.as_str() == pod.container.id).unwrap();
        assert_eq!(record.state, AttachmentState::Committed);
        record.state = AttachmentState::Pending;
        store.put(&record).await.unwrap();
    });
}
