//! The machine starts anew with a run directory that is still there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use flock_examples::netns::Netns;
use flock_examples::node::{Node, Pod};
use flock_examples::{Result, sandbox};
use serde_json::{Value, json};

const OTHER_BOOT: &str = "11111111-2222-3333-4444-555555555555";

fn config() -> Value {
    json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1",
        "kind": "NodeConfig",
        "metadata": {"name": "node"},
        "spec": {"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/28"},
    })
}

fn started(dir: &Path) -> Result<Node> {
    let mut node = Node::create(Netns::create("node")?, dir, &config())?;
    node.start_agent()?;
    node.wait_ready()?;
    Ok(node)
}

fn names(node: &Node, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(node.files().run.join(directory)).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What a reboot does: the kernel's state is gone, and what is in the files is of another boot.
fn reboot(mut node: Node, pods: &[&Pod]) -> Result<()> {
    node.agent().unwrap().kill()?;
    let boot_id = flock_core::boot::id().unwrap();
    for directory in ["attachments", "deletions"] {
        for name in names(&node, directory) {
            let path = node.files().run.join(directory).join(name);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(&boot_id), "{} does not say its boot: {text}", path.display());
            fs::write(&path, text.replace(&boot_id, OTHER_BOOT)).unwrap();
        }
    }
    for pod in pods {
        pod.netns().delete()?;
    }
    node.netns.delete()
}

#[test]
fn what_is_of_another_boot_is_dropped_and_nothing_is_given_twice() -> Result<()> {
    sandbox::within("what_is_of_another_boot_is_dropped_and_nothing_is_given_twice", |_| {
        // Survives a reboot, says the Filesystem Hierarchy Standard, so it is no tmpfs.
        let disk = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut node = started(disk.path())?;
        let pods = [node.add_pod("a", &[])?, node.add_pod("b", &[])?, node.add_pod("c", &[])?];
        let [a, b, c] = &pods;

        // A restart of the agent alone keeps everything, on a disk too.
        node.agent().unwrap().kill()?;
        node.runtime()?.delete(&c.container)?;
        node.start_agent()?;
        node.wait_ready()?;
        assert_eq!(names(&node, "attachments").len(), 2);
        assert_eq!(node.runtime()?.add(&a.container)?, a.addresses);

        // One deletion is still queued when the machine goes down.
        node.agent().unwrap().kill()?;
        node.runtime()?.delete(&b.container)?;
        assert_eq!((names(&node, "attachments").len(), names(&node, "deletions").len()), (2, 1));
        reboot(node, &[a, b, c])?;

        // The runtime's clean-up comes before the agent is there.
        let mut node = Node::create(Netns::create("node")?, disk.path(), &config())?;
        node.runtime()?.prepare("DEL", &a.container).make()?.success()?;
        assert_eq!(names(&node, "deletions").len(), 2);
        node.start_agent()?;
        node.wait_ready()?;
        assert_eq!((names(&node, "attachments"), names(&node, "deletions")), (vec![], vec![]));
        assert_eq!(node.netns.ip(&["-o", "link", "show", "type", "veth"])?, "");
        let log = fs::read_to_string(&node.files().agent_log).unwrap();
        let line = log.lines().rev().find(|line| line.contains("records read")).unwrap();
        assert!(line.contains("other_boot=2"), "{line}");

        // Or after it, as often as the runtime wants.
        let runtime = node.runtime()?;
        for pod in &pods {
            runtime.prepare("DEL", &pod.container).make()?.success()?;
            runtime.prepare("DEL", &pod.container).without("CNI_NETNS").make()?.success()?;
        }

        // Their addresses are free, also for who asks for one, and nobody gets one twice.
        let static_address = b.addresses.iter().find(|address| address.is_ipv4()).unwrap().to_string();
        let mut given: Vec<IpAddr> = node.add_pod("static", &[("ipv4", &static_address)])?.addresses;
        assert!(given.iter().any(|address| address.to_string() == static_address), "{given:?}");
        // The rest of the /28: without network, broadcast and the one above.
        for number in 0..12 {
            given.extend(node.add_pod(&format!("new{number}"), &[])?.addresses);
        }
        let different: BTreeSet<_> = given.iter().collect();
        assert_eq!(different.len(), 2 * 13, "{given:?}");
        // The same container once more, as after a reboot that its runtime did not notice.
        let full = node.runtime()?.prepare("DEL", &a.container).make()?;
        full.success()?;
        assert_eq!(names(&node, "attachments").len(), 13);
        Ok(())
    })
}
