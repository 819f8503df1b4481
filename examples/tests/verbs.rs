//! STATUS and GC (CNI specification 1.1.0) through the plugin and a real agent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::time::Duration;

use flock_examples::deadline::{Probe, until};
use flock_examples::netns::Reply;
use flock_examples::node::{Node, Pod};
use flock_examples::runtime::{Container, Failure, INTERFACE};
use flock_examples::{Result, sandbox};
use serde_json::{Value, json};

const CODE_VERSION: u32 = 1;
const CODE_UNKNOWN: u32 = 3;
const CODE_INVALID: u32 = 7;
const CODE_NOT_AVAILABLE: u32 = 50;
const CODE_LIMITED: u32 = 51;
/// More than the agent's patience with a BIRD that is away.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits until STATUS answers with this code, and what it says then.
fn until_status(node: &Node, code: u32) -> Result<Failure> {
    let status = node.runtime()?.status();
    until(&format!("STATUS with code {code}"), LIMIT, || {
        let answer = status.make()?;
        Ok(match answer.failure() {
            Ok(failure) if failure.code == code => Probe::Done(failure),
            _ => Probe::Waiting(answer.said),
        })
    })
}

fn contains(failure: &Failure, fragments: &[&str]) {
    for fragment in fragments {
        assert!(failure.msg.contains(fragment), "{fragment:?} is not in {:?}", failure.msg);
    }
}

#[test]
fn status_says_why_pods_can_not_be_served() -> Result<()> {
    sandbox::within("status_says_why_pods_can_not_be_served", |_| {
        let spec = json!({
            "cidr6": "2001:db8:1::/64",
            "cidr4": "10.0.1.0/30",
            "bgp": {
                "asn": 64512,
                "routerId": "192.0.2.1",
                "peers": [{"name": "tor1", "address": "2001:db8:ffff::1", "asn": 64500}],
            },
        });
        let mut node = Node::alone("node", &spec)?;
        let away = node.runtime()?.status().make()?.failure()?;
        assert_eq!(away.code, CODE_NOT_AVAILABLE);
        contains(&away, &["flock-agent is not running"]);

        // Without BIRD nobody else reaches the pods. They can be added all the same.
        node.start_agent()?;
        let missing = until_status(&node, CODE_LIMITED)?;
        contains(&missing, &["announcements are not up to date", "BIRD can't be reached at"]);
        let first = node.add_pod("first", &[])?;
        node.start_bird()?;
        let status = node.runtime()?.status();
        until("STATUS to succeed", LIMIT, || {
            let answer = status.make()?;
            Ok(if answer.status == Some(0) { Probe::Done(()) } else { Probe::Waiting(answer.said) })
        })?;

        let second = node.add_pod("second", &[])?;
        let full = until_status(&node, CODE_NOT_AVAILABLE)?;
        contains(&full, &["10.0.1.0/30 is exhausted: 2 addresses in all, 2 in use, 0 resting"]);
        node.delete_pod(&second)?;
        until("the link of the second pod to be gone", LIMIT, || {
            let full = until_status(&node, CODE_NOT_AVAILABLE)?;
            let resting = full.msg.contains("2 addresses in all, 1 in use, 1 resting");
            Ok(if resting { Probe::Done(()) } else { Probe::Waiting(full.msg) })
        })?;

        // The graver code, and both reasons.
        node.bird().unwrap().daemon().kill()?;
        let silent = until_status(&node, CODE_LIMITED)?;
        contains(&silent, &["nothing is announced for", "BIRD can't be reached at", "is exhausted"]);
        node.runtime()?.check(&first.container)?;
        node.start_bird()?;
        until_status(&node, CODE_NOT_AVAILABLE)?;

        let old = node.runtime()?.status().version("1.0.0").make()?.failure()?;
        assert_eq!((old.code, old.cni_version.as_str()), (CODE_VERSION, "1.0.0"));
        contains(&old, &["STATUS needs CNI version 1.1.0"]);
        Ok(())
    })
}

fn valid(pods: &[&Pod]) -> Value {
    pods.iter().map(|pod| json!({"containerID": pod.container.id, "ifname": INTERFACE})).collect()
}

/// Whether the node knows and reaches the pod; neither, once it is deleted.
fn is_there(node: &Node, container: &Container, pod: &Pod) -> Result<bool> {
    let answer = node.runtime()?.prepare("CHECK", container).make()?;
    let reached = node.netns.ping(pod.addresses[0], Duration::from_millis(100))? != Reply::None;
    if answer.status == Some(0) {
        assert!(reached, "{} is known and not reached", container.id);
        return Ok(true);
    }
    assert_eq!(answer.failure()?.code, CODE_UNKNOWN, "{}", answer.said);
    assert!(!reached, "{} is reached and not known", container.id);
    Ok(false)
}

#[test]
fn gc_deletes_what_the_runtime_does_not_know_and_nothing_else() -> Result<()> {
    sandbox::within("gc_deletes_what_the_runtime_does_not_know_and_nothing_else", |_| {
        let mut node = Node::alone("node", &json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24"}))?;
        node.start_agent()?;
        node.wait_ready()?;
        let runtime = node.runtime()?;
        let pods: Vec<Pod> =
            (0..4).map(|pod| node.add_pod(&format!("p{pod}"), &[])).collect::<Result<_>>()?;
        let other = node.make_container("other", &[])?;
        runtime.prepare("ADD", &other).config("name", "other").make()?.success()?;
        let left = || -> Result<Vec<usize>> {
            let there = pods.iter().map(|pod| is_there(&node, &pod.container, pod));
            let there = there.collect::<Result<Vec<bool>>>()?;
            Ok((0..pods.len()).filter(|pod| there[*pod]).collect())
        };

        assert_eq!(runtime.gc().make()?.success()?, Value::Null);
        assert_eq!(left()?, [0, 1, 2, 3], "without a list nothing is deleted");

        // libcni sends both keys; the newer one counts.
        let both = runtime.gc().config("cni.dev/valid-attachments", valid(&[&pods[0], &pods[1], &pods[2]]));
        both.config("cni.dev/attachments", json!([])).make()?.success()?;
        assert_eq!(left()?, [0, 1, 2]);
        runtime.gc().config("cni.dev/attachments", valid(&[&pods[0], &pods[1]])).make()?.success()?;
        assert_eq!(left()?, [0, 1]);

        let old = runtime.gc().version("1.0.0").config("cni.dev/valid-attachments", json!([]));
        let old = old.make()?.failure()?;
        assert_eq!(old.code, CODE_VERSION);
        contains(&old, &["GC needs CNI version 1.1.0"]);
        let mut broken = valid(&[&pods[0]]);
        broken.as_array_mut().unwrap().push(json!({"containerID": "a/b", "ifname": "eth0"}));
        let broken = runtime.gc().config("cni.dev/valid-attachments", broken).make()?.failure()?;
        assert_eq!(broken.code, CODE_INVALID);
        assert_eq!(left()?, [0, 1], "a list that can't be read deletes nothing");

        runtime.gc().config("cni.dev/valid-attachments", json!([])).make()?.success()?;
        assert_eq!(left()?, [0; 0]);
        runtime.check(&other)?;
        let gc = runtime.gc().config("name", "other").config("cni.dev/valid-attachments", json!([]));
        gc.make()?.success()?;
        assert_eq!(runtime.prepare("CHECK", &other).make()?.failure()?.code, CODE_UNKNOWN);
        // Late DELs, as runtimes send them.
        for pod in &pods {
            runtime.delete(&pod.container)?;
        }
        Ok(())
    })
}
