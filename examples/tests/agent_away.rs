//! No agent runs: deletions succeed and are not forgotten, everything else says at once
//! where to look.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flock_examples::deadline::{Probe, until};
use flock_examples::node::{Node, Pod};
use flock_examples::runtime::Container;
use flock_examples::snapshot::Snapshot;
use flock_examples::{LabError, Result, sandbox};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);
const PODS: usize = 20;
const REPLACED: usize = 10;

fn start() -> Result<Node> {
    let mut node = Node::alone("node", &json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24"}))?;
    node.start_agent()?;
    node.wait_ready()?;
    Ok(node)
}

fn add_pods(node: &Node, count: usize) -> Result<Vec<Pod>> {
    (0..count).map(|number| node.add_pod(&format!("pod{number}"), &[])).collect()
}

/// ADD as a runtime does it, which comes again when it is told to (code 11).
fn add(node: &Node, container: &Container) -> Result<Vec<IpAddr>> {
    let runtime = node.runtime()?;
    until("the agent to serve ADD", LIMIT, || match runtime.add(container) {
        Ok(addresses) => Ok(Probe::Done(addresses)),
        Err(LabError::Failed { output, .. }) if output.starts_with("error 11:") => Ok(Probe::Waiting(output)),
        Err(error) => Err(error),
    })
}

fn names(node: &Node, directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(node.files().run.join(directory)).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// What the node has of pods: links and routes of addresses.
fn in_kernel(node: &Node) -> Result<(usize, Vec<String>)> {
    let links = node.netns.ip(&["-o", "link", "show", "type", "veth"])?.lines().count();
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let table = node.netns.ip(&[family, "route", "show", "type", "unicast"])?;
        routes.extend(table.lines().filter(|line| line.contains(" flock")).map(str::to_owned));
    }
    // Of each link's own fe80::/64, too, which the kernel makes.
    routes.retain(|route| !route.starts_with("fe80::"));
    Ok((links, routes))
}

#[test]
fn deletions_without_an_agent_succeed_and_are_done_before_the_first_add() -> Result<()> {
    sandbox::within("deletions_without_an_agent_succeed_and_are_done_before_the_first_add", |_| {
        let mut node = start()?;
        let kept = node.add_pod("kept", &[])?;
        let before = Snapshot::of(&node, &[kept.netns()])?;
        let pods = add_pods(&node, PODS)?;
        assert_eq!(in_kernel(&node)?.0, PODS + 1);
        node.agent().unwrap().kill()?;

        let runtime = node.runtime()?;
        let mut took = Vec::new();
        for pod in &pods {
            let start = Instant::now();
            let answer = runtime.prepare("DEL", &pod.container).make()?;
            took.push(start.elapsed());
            answer.success()?;
        }
        took.sort();
        println!("DEL without an agent: median {:?}, slowest {:?}", took[PODS / 2], took[PODS - 1]);
        // The median says what it costs; the slowest, how busy the machine was.
        assert!(took[PODS / 2] < Duration::from_millis(100), "{took:?}");
        assert!(took[PODS - 1] < Duration::from_secs(1), "{took:?}");
        // Once more, without a namespace, and one that nobody knows.
        runtime.prepare("DEL", &pods[0].container).without("CNI_NETNS").make()?.success()?;
        assert_eq!(names(&node, "deletions").len(), PODS);
        runtime.prepare("DEL", &node.make_container("unknown", &[])?).make()?.success()?;
        assert_eq!(names(&node, "deletions").len(), PODS + 1);

        let start = Instant::now();
        let failure = runtime.prepare("ADD", &pods[0].container).make()?.failure()?;
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(failure.code, 11, "{}", failure.text());
        for part in
            ["nothing listens on /run/lab/node/run/flock.sock", "kubectl -n flock-system logs", "--run-dir"]
        {
            assert!(failure.text().contains(part), "{}", failure.text());
        }

        node.start_agent()?;
        // The same container again, as the first thing that is served.
        let again = add(&node, &pods[0].container)?;
        assert_eq!(names(&node, "deletions"), BTreeSet::new());
        let expected: BTreeSet<String> =
            [&kept, &pods[0]].map(|pod| format!("{}@eth0.json", pod.container.id)).into();
        assert_eq!(names(&node, "attachments"), expected);
        let (links, routes) = in_kernel(&node)?;
        assert_eq!((links, routes.len()), (2, 4), "{routes:?}");
        for address in &again {
            assert!(!pods.iter().any(|pod| pod.addresses.contains(address)), "{address} did not rest");
            node.netns.reach(address, LIMIT)?;
        }
        runtime.check(&pods[0].container)?;

        runtime.delete(&pods[0].container)?;
        before.returns(&node, &[kept.netns()])?;
        Ok(())
    })
}

#[test]
fn an_agent_that_dies_of_every_start_carries_all_deletions_out_in_the_end() -> Result<()> {
    sandbox::within("an_agent_that_dies_of_every_start_carries_all_deletions_out_in_the_end", |_| {
        let mut node = start()?;
        let kept = node.add_pod("kept", &[])?;
        let before = Snapshot::of(&node, &[kept.netns()])?;
        let pods = add_pods(&node, PODS)?;
        node.agent().unwrap().kill()?;
        for pod in &pods {
            node.runtime()?.delete(&pod.container)?;
        }
        let all = names(&node, "deletions");
        let mut kills = Vec::new();
        loop {
            let waiting = names(&node, "deletions").len();
            if waiting == 0 {
                break;
            }
            node.start_agent()?;
            // In the middle of what it does next, or of the one after that.
            let start = Instant::now();
            while names(&node, "deletions").len() == waiting {
                assert!(start.elapsed() < LIMIT, "nothing is carried out");
                thread::yield_now();
            }
            node.agent().unwrap().kill()?;
            let left = names(&node, "deletions");
            assert!(
                all.iter().rev().take(left.len()).all(|name| left.contains(name)),
                "not in order: {left:?}"
            );
            kills.push(left.len());
        }
        println!("killed with this many deletions left: {kills:?}");
        assert!(kills[0] > 0, "it was never killed in the middle");
        node.start_agent()?;
        node.wait_ready()?;
        before.returns(&node, &[kept.netns()])?;
        node.runtime()?.check(&kept.container)
    })
}

/// Agents come and go as they are replaced, and pods are deleted all the time.
#[test]
fn no_deletion_fails_while_agents_are_replaced() -> Result<()> {
    sandbox::within("no_deletion_fails_while_agents_are_replaced", |_| {
        let mut node = start()?;
        let kept = node.add_pod("kept", &[])?;
        let before = Snapshot::of(&node, &[kept.netns()])?;
        let pods = add_pods(&node, PODS)?;
        let runtime = node.runtime()?;
        let done = Arc::new(AtomicBool::new(false));
        let enough = Arc::clone(&done);
        let deleting = thread::spawn(move || -> Result<(usize, usize)> {
            let (mut deleted, mut queued) = (0, 0);
            // Runtimes repeat themselves.
            for pod in pods.iter().cycle() {
                if enough.load(Ordering::Relaxed) && deleted >= PODS {
                    break;
                }
                let answer = runtime.prepare("DEL", &pod.container).make()?;
                answer.success()?;
                deleted += 1;
                queued += usize::from(answer.notice.contains("waits in"));
            }
            Ok((deleted, queued))
        });
        for round in 0..REPLACED {
            // Some are replaced before they were ready.
            if round % 2 == 0 {
                node.wait_ready()?;
            }
            node.agent().unwrap().stop()?;
            node.start_agent()?;
        }
        done.store(true, Ordering::Relaxed);
        let (deleted, queued) = deleting.join().unwrap()?;
        println!("{deleted} deletions under {REPLACED} agents, {queued} of them without one");
        node.wait_ready()?;
        before.returns(&node, &[kept.netns()])
    })
}
