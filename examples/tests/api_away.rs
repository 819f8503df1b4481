//! An agent of a cluster whose API server is away from the start.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use flock_examples::deadline::{Probe, until};
use flock_examples::netns::Netns;
use flock_examples::node::Node;
use flock_examples::runtime::{Call, Failure};
use flock_examples::{LabError, Result, programs, sandbox};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

const AT_ONCE: Duration = Duration::from_millis(50);
/// What waits for nothing takes no longer, on a busy machine either.
const PROMPTLY: Duration = Duration::from_secs(2);
/// More than the agent's pause between two attempts to reach the API server.
const LIMIT: Duration = Duration::from_secs(90);
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// Nobody listens there, unless an [`ApiServer`] does.
const API_SERVER: &str = "127.0.0.1:16443";
const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
clusters: [{name: away, cluster: {server: 'http://127.0.0.1:16443'}}]
contexts: [{name: away, context: {cluster: away, user: nobody}}]
users: [{name: nobody, user: {}}]
current-context: away
";

fn kubernetes_agent(node: &Node) -> Result<Command> {
    let kubeconfig = node.files().dir.join("kubeconfig");
    fs::write(&kubeconfig, KUBECONFIG).map_err(LabError::file("write", &kubeconfig))?;
    let mut command = node.netns.command(programs::agent()?);
    command.args(["--node-name", node.name(), "--source", "kubernetes", "--announcer", "none"]);
    command.arg("--run-dir").arg(&node.files().run).env("KUBECONFIG", kubeconfig);
    command.env_remove("KUBERNETES_SERVICE_HOST");
    Ok(command)
}

#[test]
fn pods_come_and_go_without_the_api_server() -> Result<()> {
    sandbox::within("pods_come_and_go_without_the_api_server", |_| {
        let mut node = Node::alone("node", &json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24"}))?;
        // As an agent leaves it that had the answer of the API server.
        fs::copy(&node.files().node_config, node.files().run.join("node-config.json")).unwrap();
        let command = kubernetes_agent(&node)?;
        node.start_agent_as(command)?;
        node.wait_ready()?;
        let runtime = node.runtime()?;

        // A runtime that hands over the annotations.
        let container = node.make_container("told", &[])?;
        let annotations = json!({ANNOTATIONS: {"flock.fritzlab.net/ipv6": "2001:db8:1::53"}});
        let add = runtime.prepare("ADD", &container).config("runtimeConfig", annotations);
        let result = add.make()?.success()?;
        assert_eq!(result["ips"][0]["address"], "2001:db8:1::53/128");
        container.netns.must_ping("169.254.1.1", AT_ONCE)?;

        // One that does not: the pod can't be known, and the answer says why.
        let unknown = node.make_container("unknown", &[])?;
        let failure = runtime.prepare("ADD", &unknown).config("timeoutSeconds", 4).make()?.failure()?;
        assert_eq!(failure.code, 11, "{failure:?}");
        for part in ["default/unknown", "API server", "Connection refused"] {
            assert!(failure.text().contains(part), "{failure:?}, expected {part:?} in it");
        }

        runtime.delete(&container)?;
        runtime.delete(&unknown)?;
        // The pod's addresses are not reachable any more.
        assert_eq!(node.netns.ip(&["-6", "route", "show", "2001:db8:1::53"])?.trim(), "");
        Ok(())
    })
}

/// An API server with one NodeConfig and no pods, on which nothing changes.
fn serve_api(netns: &Netns, node_config: &Value) {
    let lists = |items: Vec<Value>| json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
    let (node_configs, nothing) =
        (lists(vec![node_config.clone()]).to_string(), lists(Vec::new()).to_string());
    let namespace = File::open(netns.path()).unwrap();
    thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let listener = TcpListener::bind(API_SERVER).unwrap();
        for stream in listener.incoming() {
            let (stream, node_configs, nothing) = (stream.unwrap(), node_configs.clone(), nothing.clone());
            thread::spawn(move || {
                let Some(request) = read_request(&stream) else { return };
                match request.split(' ').collect::<Vec<_>>()[..] {
                    ["GET", target, _] if target.contains("watch=") => {
                        write(&stream, "");
                        // Until the agent or the test ends.
                        (&stream).read_to_end(&mut Vec::new()).ok();
                    }
                    ["GET", target, _] if target.contains("/nodeconfigs?") => write(&stream, &node_configs),
                    ["GET", target, _] if target.contains("/pods?") => write(&stream, &nothing),
                    // What the agent says is not looked at here.
                    _ => write(&stream, r#"{"metadata": {"name": "written"}}"#),
                }
            });
        }
    });
}

/// The first line of a request that was read to its end.
fn read_request(stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim().split_once(':') {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().ok()?;
            }
            Some(_) => {}
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    Some(first)
}

/// An answer whose body ends with the connection.
fn write(mut stream: &TcpStream, body: &str) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
    // Who has gone needs no answer.
    stream.write_all(format!("{head}{body}").as_bytes()).ok();
}

fn promptly<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let done = act()?;
    assert!(start.elapsed() < PROMPTLY, "it took {:?}", start.elapsed());
    Ok(done)
}

fn refused(call: &Call) -> Result<Failure> {
    promptly(|| call.make()?.failure())
}

fn names(node: &Node, directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(node.files().run.join(directory)).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// As after a reboot: nothing is remembered. The pods are here all the same, so that it can be
/// seen what becomes of their deletions.
#[test]
fn deletions_do_not_wait_for_a_node_config() -> Result<()> {
    sandbox::within("deletions_do_not_wait_for_a_node_config", |_| {
        let mut node = Node::alone("node", &json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24"}))?;
        node.start_agent()?;
        node.wait_ready()?;
        let (first, second) = (node.add_pod("first", &[])?, node.add_pod("second", &[])?);
        node.agent().unwrap().stop()?;

        let command = kubernetes_agent(&node)?;
        node.start_agent_as(command)?;
        let runtime = node.runtime()?;
        let add = runtime.prepare("ADD", &first.container).config("runtimeConfig", json!({ANNOTATIONS: {}}));
        for pod in [&first, &second] {
            let answer = promptly(|| runtime.prepare("DEL", &pod.container).make())?;
            answer.success()?;
            // It was the agent that took it.
            assert_eq!(answer.notice, "");
        }
        let failure = refused(&add)?;
        assert_eq!(failure.code, 11, "{failure:?}");
        for part in ["flock-agent is starting", "waiting for NodeConfig node"] {
            assert!(failure.msg.contains(part), "{failure:?}, expected {part:?} in it");
        }
        until("STATUS to say why the agent waits", LIMIT, || {
            let failure = refused(&runtime.status())?;
            assert_eq!(failure.code, 50, "{failure:?}");
            assert!(failure.msg.contains("waiting for NodeConfig node"), "{failure:?}");
            let why = failure.msg.contains("the API server has not answered");
            Ok(if why && failure.msg.contains("Connection refused") {
                Probe::Done(())
            } else {
                Probe::Waiting(failure.msg)
            })
        })?;
        assert_eq!(names(&node, "deletions").len(), 2);

        let mut node_config: Value =
            serde_json::from_slice(&fs::read(&node.files().node_config).unwrap()).unwrap();
        node_config["metadata"] =
            json!({"name": "node", "uid": "u1", "generation": 1, "resourceVersion": "1"});
        serve_api(&node.netns, &node_config);
        // The same container again, as the first thing that is served.
        let result = until("the agent to serve ADD", LIMIT, || {
            let answer = add.make()?;
            match answer.failure() {
                Ok(failure) if failure.code == 11 => Ok(Probe::Waiting(failure.msg)),
                _ => answer.success().map(Probe::Done),
            }
        })?;
        assert_eq!(names(&node, "deletions"), BTreeSet::new());
        assert_eq!(names(&node, "attachments"), [format!("{}@eth0.json", first.container.id)].into());
        let links = node.netns.ip(&["-o", "link", "show", "type", "veth"])?;
        assert_eq!(links.lines().count(), 1, "{links}");
        for old in &first.addresses {
            assert!(
                !result["ips"].to_string().contains(&format!("\"{old}/")),
                "{old} did not rest: {result}"
            );
        }
        runtime.check(&first.container)
    })
}
