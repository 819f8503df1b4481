//! Bad input gets a clear error and changes nothing: what can be wrong with a node, with
//! its agent, its disk and its BIRD.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::ANYCAST_PREFIXES;
use flock_examples::netns::Reply;
use flock_examples::node::Node;
use flock_examples::process::{Daemon, output, run};
use flock_examples::runtime::Answer;
use flock_examples::snapshot::Snapshot;
use flock_examples::{LabError, Result, sandbox};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(10);
const IO: u32 = 5;
const TRY_AGAIN: u32 = 11;
const NOT_AVAILABLE: u32 = 50;

fn dual_stack() -> Value {
    json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24", "anycastPrefixes": ANYCAST_PREFIXES})
}

fn with_bgp() -> Value {
    let peers = json!([{"name": "tor", "address": "2001:db8:ffff::1", "asn": 64500}]);
    let mut spec = dual_stack();
    spec["bgp"] = json!({"asn": 64501, "routerId": "192.0.2.1", "peers": peers});
    spec
}

fn start(spec: &Value) -> Result<Node> {
    let mut node = Node::alone("node", spec)?;
    node.start_agent()?;
    node.wait_ready()?;
    Ok(node)
}

fn fails(answer: &Answer, code: u32, says: &[&str]) -> Result<()> {
    let failure = answer.failure()?;
    contains(&failure.text(), says);
    assert_eq!(failure.code, code, "{}", failure.text());
    Ok(())
}

fn contains(text: &str, says: &[&str]) {
    for part in says {
        assert!(text.contains(part), "expected {part:?} in: {text}");
    }
}

/// An agent that must not start: it ends by itself, by this status and with these words.
fn must_end(command: &mut Command, status: i32, says: &[&str]) -> Result<()> {
    let Output { status: found, stdout, stderr } = output(command)?;
    let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    assert_eq!(found.code(), Some(status), "{text}");
    contains(&text, says);
    Ok(())
}

/// Waits until the agent has said all of these in one line.
fn log_says(node: &Node, says: &[&str]) -> Result<String> {
    let log = &node.files().agent_log;
    until(&format!("{says:?} in the agent's log"), LIMIT, || {
        let text = fs::read_to_string(log).map_err(LabError::file("read", log))?;
        let line = text.lines().find(|line| says.iter().all(|part| line.contains(part)));
        Ok(line.map_or(Probe::Waiting(text.clone()), |line| Probe::Done(line.to_owned())))
    })
}

#[test]
fn options_that_make_no_sense() -> Result<()> {
    sandbox::within("options_that_make_no_sense", |_| {
        let node = Node::alone("node", &dual_stack())?;
        let before = Snapshot::of(&node, &[])?;
        let agent = || node.agent_command();
        must_end(agent()?.arg("--colour"), 2, &["unexpected argument '--colour'", "--help"])?;
        must_end(agent()?.args(["--birdc-timeout", "0"]), 2, &["'0'", "--birdc-timeout", "1..=60"])?;
        must_end(agent()?.env("FLOCK_LOG_FORMAT", "xml"), 2, &["'xml'", "--log-format", "text, json"])?;
        must_end(agent()?.args(["--log-format", "xml"]), 2, &["'xml'", "text, json"])?;
        for (text, says) in [
            (None, vec!["the configuration file /run/agent.yaml", "No such file"]),
            (Some("run-dirr: /x"), vec!["the configuration file /run/agent.yaml", "run-dirr"]),
            (Some("log-format: [text]"), vec!["the configuration file /run/agent.yaml", "line 1"]),
            (Some("a: b: c"), vec!["the configuration file /run/agent.yaml"]),
        ] {
            if let Some(text) = text {
                fs::write("/run/agent.yaml", text).unwrap();
            }
            must_end(agent()?.args(["--config", "/run/agent.yaml"]), 2, &says)?;
        }
        assert_eq!(before.difference(&Snapshot::of(&node, &[])?), "");
        Ok(())
    })
}

#[test]
fn a_node_config_that_can_not_be_used() -> Result<()> {
    sandbox::within("a_node_config_that_can_not_be_used", |_| {
        let node = Node::alone("node", &dual_stack())?;
        let before = Snapshot::of(&node, &[])?;
        let file = &node.files().node_config;
        let path = file.display().to_string();
        let good = fs::read_to_string(file).unwrap();
        let of_spec = |spec: &Value| {
            let mut manifest: Value = serde_json::from_str(&good).unwrap();
            manifest["spec"] = spec.clone();
            manifest.to_string()
        };
        let bgp = json!({"asn": 64501, "maximumPaths": 0, "export": {"med": "low"}});
        for (text, says) in [
            (of_spec(&json!({})), vec!["sets neither cidr6 nor cidr4, expected at least one"]),
            (
                of_spec(&json!({"cidr4": "10.0.1.7/24", "cidr6": "10.0.0.0/8", "mtu": 60})),
                vec!["10.0.1.7/24", "expected 10.0.1.0/24", "spec.cidr6 is \"10.0.0.0/8\"", "spec.mtu is 60"],
            ),
            (
                of_spec(&json!({"cidr6": "fe80::/64"})),
                vec!["spec.cidr6 is fe80::/64", "that is not link-local, loopback or reserved"],
            ),
            (
                of_spec(&json!({"cidr6": "2001:db8:1::/64", "bgp": bgp})),
                vec!["spec.bgp.maximumPaths is 0, expected 1 to 255", "spec.bgp.export.med is \"low\""],
            ),
            (of_spec(&json!({"cidr5": "10.0.1.0/24"})), vec!["is not a NodeConfig manifest", "cidr5"]),
            (good.replace("\"NodeConfig\"", "\"Node\""), vec!["kind is \"Node\", expected \"NodeConfig\""]),
            (
                good.replace("\"node\"", "\"other\""),
                vec!["is the NodeConfig of other, expected that of node", "metadata.name or --node-name"],
            ),
            ("spec: [".to_owned(), vec!["is not a NodeConfig manifest"]),
        ] {
            fs::write(file, text).unwrap();
            let says: Vec<&str> = says.into_iter().chain([path.as_str()]).collect();
            must_end(&mut node.agent_command()?, 1, &says)?;
            let left = fs::read_dir(&node.files().run).unwrap().count();
            assert_eq!(left, 0, "no socket and no records");
        }
        assert_eq!(before.difference(&Snapshot::of(&node, &[])?), "");
        Ok(())
    })
}

#[test]
fn an_agent_that_is_not_there_and_one_too_many() -> Result<()> {
    sandbox::within("an_agent_that_is_not_there_and_one_too_many", |_| {
        let mut node = Node::alone("node", &dual_stack())?;
        let container = node.make_container("web", &[])?;
        let runtime = node.runtime()?;
        let socket = node.files().run.join("flock.sock").display().to_string();
        let before = Snapshot::of(&node, &[&container.netns])?;
        let away = ["flock-agent is not running", socket.as_str(), "DaemonSet flock-agent", "\"runDir\""];
        for verb in ["ADD", "CHECK"] {
            fails(&runtime.prepare(verb, &container).make()?, TRY_AGAIN, &away)?;
        }
        fails(&runtime.status().make()?, NOT_AVAILABLE, &away)?;
        assert_eq!(before.difference(&Snapshot::of(&node, &[&container.netns])?), "");

        node.start_agent()?;
        node.wait_ready()?;
        let pod = node.add_pod("pod", &[])?;
        let serving = Snapshot::of(&node, &[pod.netns()])?;
        let says = ["another flock-agent is already serving", socket.as_str(), "another --run-dir"];
        must_end(&mut node.agent_command()?, 1, &says)?;
        runtime.check(&pod.container)?;
        assert_eq!(serving.difference(&Snapshot::of(&node, &[pod.netns()])?), "");

        // A killed agent leaves its socket behind; nobody listens there.
        node.agent().unwrap().kill()?;
        fails(&runtime.prepare("ADD", &container).make()?, TRY_AGAIN, &away)?;
        assert_eq!(serving.difference(&Snapshot::of(&node, &[pod.netns()])?), "");
        for address in &pod.addresses {
            node.netns.must_ping(*address, Duration::from_millis(50))?;
        }
        Ok(())
    })
}

#[test]
fn a_record_that_can_not_be_read_is_set_aside() -> Result<()> {
    sandbox::within("a_record_that_can_not_be_read_is_set_aside", |_| {
        let mut node = start(&dual_stack())?;
        let kept = node.add_pod("kept", &[])?;
        let broken = node.add_pod("broken", &[])?;
        node.agent().unwrap().kill()?;
        let records = node.files().run.join("attachments");
        let file = records.join(format!("{}@eth0.json", broken.container.id));
        let whole = fs::read(&file).unwrap();
        let half = &whole[..whole.len() / 2];
        fs::write(&file, half).unwrap();

        node.start_agent()?;
        node.wait_ready()?;
        let aside = records.join(format!("{}@eth0.json.corrupt-1", broken.container.id));
        let (file_text, aside_text) = (file.display().to_string(), aside.display().to_string());
        let line = log_says(&node, &[&file_text, "is not a valid record"])?;
        contains(&line, &["WARN", &aside_text, "the other records were loaded", "mend it"]);
        assert_eq!(fs::read(&aside).unwrap(), half, "it is kept as it was");

        let runtime = node.runtime()?;
        runtime.check(&kept.container)?;
        // Both pods run on, and nobody else gets their addresses.
        let other = node.add_pod("other", &[])?;
        for pod in [&kept, &broken, &other] {
            for address in &pod.addresses {
                node.netns.must_ping(*address, Duration::from_millis(50))?;
            }
        }
        assert!(other.addresses.iter().all(|address| !broken.addresses.contains(address)));
        log_says(&node, &["made a new record for a running container", &broken.container.id])?;
        runtime.delete(&broken.container)?;
        assert_eq!(node.netns.ping(broken.addresses[0], Duration::from_millis(50))?, Reply::None);
        runtime.add(&broken.container)?;
        assert_eq!(fs::read(&aside).unwrap(), half);
        Ok(())
    })
}

#[test]
fn a_full_disk() -> Result<()> {
    sandbox::within("a_full_disk", |_| {
        let mut node = Node::alone("node", &dual_stack())?;
        let run_dir = node.files().run.clone();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs"]).arg(&run_dir))?;
        node.start_agent()?;
        node.wait_ready()?;
        let pod = node.add_pod("pod", &[])?;
        let container = node.make_container("late", &[])?;
        let runtime = node.runtime()?;
        let ballast = run_dir.join("ballast");
        fs::write(&ballast, vec![0; 128 * 1024]).unwrap_err();

        let before = Snapshot::of(&node, &[&container.netns])?;
        let record = run_dir.join("attachments").join("node-late@eth0.json").display().to_string();
        let says = ["can't write", record.as_str(), "No space left on device", "free some space there"];
        fails(&runtime.prepare("ADD", &container).make()?, IO, &says)?;
        assert_eq!(before.difference(&Snapshot::of(&node, &[&container.netns])?), "");

        runtime.delete(&pod.container)?;
        until("the deleted pod to be gone", LIMIT, || {
            let links = node.netns.ip(&["link"])?;
            let records = fs::read_dir(run_dir.join("attachments")).unwrap().count();
            let gone = !links.contains("flock") && records == 0;
            Ok(if gone { Probe::Done(()) } else { Probe::Waiting(links) })
        })?;
        fs::remove_file(&ballast).unwrap();
        for address in runtime.add(&container)? {
            node.netns.must_ping(address, Duration::from_millis(50))?;
        }
        Ok(())
    })
}

fn add_works(node: &Node, name: &str) -> Result<()> {
    let pod = node.add_pod(name, &[("anycast", &format!("2001:db8:a::{}", name.len()))])?;
    pod.addresses.iter().try_for_each(|to| node.netns.must_ping(*to, Duration::from_millis(50)).map(drop))
}

#[test]
fn a_bird_that_is_not_there() -> Result<()> {
    sandbox::within("a_bird_that_is_not_there", |_| {
        let mut node = start(&with_bgp())?;
        add_works(&node, "early")?;
        let socket = node.files().bird_socket.display().to_string();
        let line = log_says(&node, &["BIRD can't be reached at", &socket, "trying again"])?;
        contains(&line, &["WARN", "is it running with this control socket?"]);
        // It comes later, and takes what was written for it.
        node.start_bird()?;
        log_says(&node, &["BIRD has taken the configuration"])?;
        Ok(())
    })
}

/// A BIRD that lives in a container of its own and sees another directory under the path that
/// Flock names: first nothing is there, then a file that Flock never wrote.
#[test]
fn a_bird_that_refuses_the_configuration() -> Result<()> {
    sandbox::within("a_bird_that_refuses_the_configuration", |_| {
        let node = start(&with_bgp())?;
        let config = node.files().bird_config.display().to_string();
        let directory = node.files().bird_config.parent().unwrap().display().to_string();
        log_says(&node, &["BIRD can't be reached at"])?;
        let good = fs::read_to_string(&config).unwrap();
        let script = format!(
            "mount -t tmpfs tmpfs {directory} && echo 'protocl device;' > {config}.new &&
             echo 'router id 192.0.2.1; protocol device {{}}' > {directory}/own.conf &&
             exec bird -f -c {directory}/own.conf -s {}",
            node.files().bird_socket.display()
        );
        let mut command = node.netns.command("unshare");
        let _bird = Daemon::start("BIRD", command.args(["-m", "sh", "-c", &script]), &node.files().bird_log)?;
        let line = log_says(&node, &["BIRD refused the configuration"])?;
        contains(
            &line,
            &["ERROR", &format!("{config}: No such file or directory"), "the last good one stays"],
        );

        // The next change is checked before it comes in place.
        add_works(&node, "pod")?;
        let line = log_says(&node, &["BIRD refused the configuration", "syntax error"])?;
        contains(&line, &[&format!("{config}:1:1"), "the last good one stays"]);
        assert_eq!(fs::read_to_string(&config).unwrap(), good);
        let left: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["bird.conf"], "nothing staged is left");
        add_works(&node, "another")
    })
}
