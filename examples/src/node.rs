//! A node: a namespace with a real `flock-agent`, the BIRD that it configures,
//! and the pods that a runtime adds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::bird::Bird;
use crate::deadline::{Probe, until};
use crate::fabric::DIR;
use crate::netns::Netns;
use crate::process::Daemon;
use crate::programs;
use crate::runtime::{Container, Runtime};
use crate::{LabError, Result};

/// How long an agent may take until it listens and has written BIRD's configuration.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A pod on a node.
#[derive(Debug, Clone)]
pub struct Pod {
    /// What the runtime made.
    pub container: Container,
    /// The name of its node.
    pub node: String,
    /// From the answer to ADD.
    pub addresses: Vec<IpAddr>,
}

impl Pod {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.container.pod_name
    }

    /// Its network.
    pub fn netns(&self) -> &Netns {
        &self.container.netns
    }
}

/// A node. Dropping it kills its daemons.
#[derive(Debug)]
pub struct Node {
    /// Where it is.
    pub netns: Netns,
    files: NodeFiles,
    agent: Option<Daemon>,
    bird: Option<Bird>,
}

/// The files of one node, in one directory, so that several nodes share a machine.
#[derive(Debug, Clone)]
pub struct NodeFiles {
    /// The directory.
    pub dir: PathBuf,
    /// `--run-dir`.
    pub run: PathBuf,
    /// `--node-config`.
    pub node_config: PathBuf,
    /// `--pods`.
    pub pods: PathBuf,
    /// `--bird-config`.
    pub bird_config: PathBuf,
    /// `--bird-socket`.
    pub bird_socket: PathBuf,
    /// What the agent says.
    pub agent_log: PathBuf,
    /// What BIRD says.
    pub bird_log: PathBuf,
}

impl NodeFiles {
    fn create(dir: &Path) -> Result<Self> {
        let files = Self {
            dir: dir.to_owned(),
            run: dir.join("run"),
            node_config: dir.join("node-config.yaml"),
            pods: dir.join("pods"),
            bird_config: dir.join("bird").join("bird.conf"),
            bird_socket: dir.join("run").join("bird.ctl"),
            agent_log: dir.join("agent.log"),
            bird_log: dir.join("bird.log"),
        };
        for dir in [&files.run, &files.pods, &dir.join("bird")] {
            fs::create_dir_all(dir).map_err(LabError::file("create", dir))?;
        }
        Ok(files)
    }
}

impl Node {
    /// A node that is not started yet. `node_config` is its NodeConfig manifest,
    /// its files are kept in `dir`.
    pub fn create(netns: Netns, dir: &Path, node_config: &Value) -> Result<Self> {
        let files = NodeFiles::create(dir)?;
        // JSON is YAML too.
        fs::write(&files.node_config, format!("{node_config:#}"))
            .map_err(LabError::file("write", &files.node_config))?;
        Ok(Self { netns, files, agent: None, bird: None })
    }

    /// Changes `spec.bgp` of its NodeConfig, which an agent that runs takes up by itself.
    pub fn change_bgp(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let path = &self.files.node_config;
        let text = fs::read_to_string(path).map_err(LabError::file("read", path))?;
        let mut config: Value = serde_json::from_str(&text)
            .map_err(|error| LabError::Unexpected(format!("{}: {error}", path.display())))?;
        change(&mut config["spec"]["bgp"]);
        let next = path.with_extension("next");
        fs::write(&next, format!("{config:#}")).map_err(LabError::file("write", &next))?;
        fs::rename(&next, path).map_err(LabError::file("rename", &next))
    }

    /// A node on no link, for what one node shows. `spec` is that of its NodeConfig. It is
    /// not started.
    pub fn alone(name: &str, spec: &Value) -> Result<Self> {
        Self::alone_in(&Path::new(DIR).join(name), name, spec)
    }

    /// The same with its files in `dir`, which may be on a disk.
    pub fn alone_in(dir: &Path, name: &str, spec: &Value) -> Result<Self> {
        let config = json!({
            "apiVersion": "flock.fritzlab.net/v1alpha1",
            "kind": "NodeConfig",
            "metadata": {"name": name},
            "spec": spec,
        });
        Self::create(Netns::create(name)?, dir, &config)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.netns.name()
    }

    /// Where its files are.
    pub fn files(&self) -> &NodeFiles {
        &self.files
    }

    /// Starts the agent and BIRD, and waits until pods can be added.
    pub fn start(&mut self) -> Result<()> {
        self.start_agent()?;
        self.start_bird()?;
        self.wait_ready()
    }

    /// Starts BIRD as soon as the agent has written a configuration for it.
    pub fn start_bird(&mut self) -> Result<()> {
        let config = self.files.bird_config.clone();
        self.wait_for_file(&config)?;
        self.bird = Some(Bird::start(&self.netns, &config, &self.files.bird_socket, &self.files.bird_log)?);
        Ok(())
    }

    /// Starts the agent and waits until it listens.
    pub fn start_agent(&mut self) -> Result<()> {
        let command = self.agent_command()?;
        self.start_agent_as(command)
    }

    /// Starts the agent with other options, and waits until it listens.
    pub fn start_agent_as(&mut self, mut command: Command) -> Result<()> {
        let name = format!("flock-agent on {}", self.name());
        self.agent = Some(Daemon::start(&name, &mut command, &self.files.agent_log)?);
        let socket = self.files.run.join("flock.sock");
        self.wait_for_file(&socket)
    }

    /// Waits until the agent serves pods.
    pub fn wait_ready(&mut self) -> Result<()> {
        let what = format!("the agent of {} to serve pods", self.name());
        until(&what, START_LIMIT, || {
            if let Some(agent) = self.agent.as_mut() {
                agent.must_run()?;
            }
            let answer = self.runtime()?.status().make()?;
            Ok(if answer.is_of_a_served_node() { Probe::Done(()) } else { Probe::Waiting(answer.said) })
        })
    }

    /// The agent with its usual options, not started.
    pub fn agent_command(&self) -> Result<Command> {
        Ok(self.command_of(&programs::agent()?, "bird"))
    }

    /// Another agent with the usual options, and what `--announcer` says.
    pub fn command_of(&self, agent: &Path, announcer: &str) -> Command {
        let files = &self.files;
        let mut command = self.netns.command(agent);
        command.args(["--node-name", self.name(), "--source", "files", "--announcer", announcer]);
        for (option, path) in [
            ("--node-config", &files.node_config),
            ("--pods", &files.pods),
            ("--run-dir", &files.run),
            ("--bird-config", &files.bird_config),
            ("--bird-socket", &files.bird_socket),
        ] {
            command.arg(option).arg(path);
        }
        command
    }

    fn wait_for_file(&mut self, path: &Path) -> Result<()> {
        let what = format!("{} of {}", path.display(), self.name());
        let Some(agent) = self.agent.as_mut() else {
            return Err(LabError::Unexpected(format!("no agent was started that would make {what}")));
        };
        until(&what, START_LIMIT, || {
            agent.must_run()?;
            Ok(if path.exists() { Probe::Done(()) } else { Probe::Waiting(String::new()) })
        })
    }

    /// The agent, where it was started.
    pub fn agent(&mut self) -> Option<&mut Daemon> {
        self.agent.as_mut()
    }

    /// How many packets the node has sent to its pods so far.
    pub fn sent_to_pods(&self) -> Result<u64> {
        let agent = self.agent.as_ref().map(Daemon::pid);
        let agent = agent.ok_or_else(|| LabError::Unexpected(format!("{} has no agent", self.name())))?;
        // Of the namespace that the agent is in, without a process that would have to enter it.
        let path = PathBuf::from(format!("/proc/{agent}/net/dev"));
        let text = fs::read_to_string(&path).map_err(LabError::file("read", &path))?;
        Ok(text.lines().filter_map(sent_to_pod).sum())
    }

    /// The routing daemon, where it was started.
    pub fn bird(&mut self) -> Option<&mut Bird> {
        self.bird.as_mut()
    }

    /// What the agent counts as `series`, a metric's name with its labels; `port` is that of its
    /// `--http-address`, on the loopback interface.
    pub fn counted(&self, port: u16, series: &str) -> Result<u64> {
        let path = self.netns.path();
        let scrape = || {
            let file = File::open(path)?;
            // The thread ends in there.
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_read_timeout(Some(START_LIMIT))?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            io::read_to_string(stream)
        };
        let answer = thread::scope(|scope| scope.spawn(scrape).join())
            .unwrap_or_else(|_| Err(io::Error::other("the thread that asked has panicked")))
            .map_err(LabError::file("ask for the metrics in", path))?;
        let value = answer.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.ok_or_else(|| LabError::Unexpected(format!("the agent has no metric {series}: {answer}")))
    }

    /// The runtime on this node.
    pub fn runtime(&self) -> Result<Runtime> {
        Ok(Runtime::new(&self.netns, &programs::plugin()?, &self.files.run))
    }

    /// Makes a pod with these annotations (without the group) as a kubelet and its runtime do.
    pub fn add_pod(&self, name: &str, annotations: &[(&str, &str)]) -> Result<Pod> {
        let container = self.make_container(name, annotations)?;
        let addresses = self.runtime()?.add(&container)?;
        Ok(Pod { container, node: self.name().to_owned(), addresses })
    }

    /// The first half of [`add_pod`](Self::add_pod): the namespace and the manifest, no ADD.
    pub fn make_container(&self, name: &str, annotations: &[(&str, &str)]) -> Result<Container> {
        let container = Container {
            id: format!("{}-{name}", self.name()),
            pod_namespace: "default".to_owned(),
            pod_name: name.to_owned(),
            netns: Netns::create(name)?,
        };
        let file = self.manifest(name);
        let manifest = manifest(name, self.name(), annotations);
        fs::write(&file, format!("{manifest:#}")).map_err(LabError::file("write", &file))?;
        Ok(container)
    }

    /// Deletes a pod of this node.
    pub fn delete_pod(&self, pod: &Pod) -> Result<()> {
        self.runtime()?.delete(&pod.container)?;
        let file = self.manifest(pod.name());
        fs::remove_file(&file).map_err(LabError::file("remove", &file))?;
        pod.netns().delete()
    }

    /// Changes whether a pod of this node is ready, by its manifest.
    pub fn set_ready(&self, pod: &str, ready: bool) -> Result<()> {
        let file = self.manifest(pod);
        let text = fs::read_to_string(&file).map_err(LabError::file("read", &file))?;
        let mut manifest: Value = serde_json::from_str(&text)
            .map_err(|error| LabError::Unexpected(format!("{} is no JSON: {error}", file.display())))?;
        manifest["status"] = status(ready);
        // Whoever looks sees the one or the other.
        let new = self.files.pods.join(format!(".{pod}.new"));
        fs::write(&new, format!("{manifest:#}")).map_err(LabError::file("write", &new))?;
        fs::rename(&new, &file).map_err(LabError::file("rename", &new))
    }

    fn manifest(&self, pod: &str) -> PathBuf {
        self.files.pods.join(format!("{pod}.yaml"))
    }
}

fn manifest(name: &str, node: &str, annotations: &[(&str, &str)]) -> Value {
    let annotations: BTreeMap<String, &str> =
        annotations.iter().map(|(key, value)| (format!("flock.fritzlab.net/{key}"), *value)).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {"nodeName": node},
        "status": status(true),
    })
}

/// The packets that were sent by a pod's link, of a line of /proc/net/dev.
fn sent_to_pod(line: &str) -> Option<u64> {
    let (name, counts) = line.trim().split_once(':')?;
    // Eight numbers of what came in are before it, and the bytes.
    name.starts_with("flock").then(|| counts.split_whitespace().nth(9)?.parse().ok())?
}

fn status(ready: bool) -> Value {
    json!({"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_to_pods_are_those_sent_by_their_links() {
        let head =
            " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop";
        let pods = "flock0a1b: 100 1 0 0 0 0 0 0 200 7 0 0 0 0 0 0";
        let others = "uplink: 300 3 0 0 0 0 0 0 400 9 0 0 0 0 0 0";
        assert_eq!([head, pods, others].map(sent_to_pod), [None, Some(7), None]);
    }
}
