//! Who is measured, and how it is called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::pods::Pod;
use crate::deadline::{Probe, until};
use crate::netns::Netns;
use crate::node::Node;
use crate::runtime::INTERFACE;
use crate::{LabError, Result, programs};

/// Where Debian's containernetworking-plugins are.
const OTHER_PLUGINS: &str = "/usr/lib/cni";
/// The same for all: what is given back may rest for a while.
const POOL_V6: &str = "2001:db8:1::/64";
const POOL_V4: &str = "10.1.0.0/16";
/// Of the links that Flock and the floor make, and that Flock is removing.
const LINK_GROUPS: [&str; 2] = ["1718382435", "1718382436"];
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// ADD or DEL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
}

/// One way to give a pod its network, on a node of its own.
#[derive(Debug)]
pub(super) struct Contender {
    name: &'static str,
    netns: Netns,
    way: Way,
    /// Tells containers of different turns in one namespace from each other.
    turn: usize,
}

#[derive(Debug)]
enum Way {
    Flock { plugin: PathBuf, configuration: String, node: Box<Node> },
    Plugin { plugin: PathBuf, configuration: String, is_slow: bool },
    Floor { program: PathBuf, removes_link: bool },
}

impl Contender {
    /// All of them, in the order of the table.
    pub(super) fn all(dir: &Path) -> Result<Vec<Self>> {
        let other = |name: &str, configuration: &Value, is_slow| Way::Plugin {
            plugin: Path::new(OTHER_PLUGINS).join(name),
            configuration: configuration.to_string(),
            is_slow,
        };
        let floor =
            |removes_link| -> Result<Way> { Ok(Way::Floor { program: programs::floor()?, removes_link }) };
        let bridge = json!({
            "cniVersion": "1.0.0", "name": "bridge", "type": "bridge", "bridge": "cni0",
            "isGateway": true, "ipMasq": false, "ipam": host_local(&dir.join("bridge")),
        });
        let ptp = json!({
            "cniVersion": "1.0.0", "name": "ptp", "type": "ptp", "ipMasq": false,
            "ipam": host_local(&dir.join("ptp")),
        });
        Ok(vec![
            Self::flock(dir, "flock")?,
            Self::new("bridge + host-local", "bridge", other("bridge", &bridge, false))?,
            Self::new("ptp + host-local", "ptp", other("ptp", &ptp, true))?,
            Self::new("floor", "floor", floor(false)?)?,
            Self::new("floor, DEL with the link", "floor-link", floor(true)?)?,
        ])
    }

    /// Flock, with an agent that has just been started.
    pub(super) fn flock(dir: &Path, node: &str) -> Result<Self> {
        let config = json!({
            "apiVersion": "flock.fritzlab.net/v1alpha1",
            "kind": "NodeConfig",
            "metadata": {"name": node},
            "spec": {"cidr6": POOL_V6, "cidr4": POOL_V4},
        });
        let netns = node_namespace(node)?;
        let mut node = Node::create(netns.clone(), &dir.join(node), &config)?;
        node.start_agent()?;
        let configuration =
            json!({"cniVersion": "1.0.0", "name": "flock", "type": "flock", "runDir": node.files().run});
        let way = Way::Flock {
            plugin: programs::plugin()?,
            configuration: configuration.to_string(),
            node: Box::new(node),
        };
        Ok(Self { name: "Flock", netns, way, turn: 0 })
    }

    fn new(name: &'static str, node: &str, way: Way) -> Result<Self> {
        Ok(Self { name, netns: node_namespace(node)?, way, turn: 0 })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The node with its agent, of Flock.
    pub(super) fn node(&mut self) -> Result<&mut Node> {
        match &mut self.way {
            Way::Flock { node, .. } => Ok(node),
            _ => Err(LabError::Unexpected(format!("{} has no agent", self.name))),
        }
    }

    pub(super) fn is_flock(&self) -> bool {
        matches!(self.way, Way::Flock { .. })
    }

    /// Whether a pod takes it seconds.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self.way, Way::Plugin { is_slow: true, .. })
    }

    /// What a removal of the link costs is not asked again with many at a time.
    pub(super) fn runs_together(&self) -> bool {
        !matches!(self.way, Way::Floor { removes_link: true, .. })
    }

    /// From now on the pods' containers are other ones.
    pub(super) fn next_turn(&mut self) {
        self.turn += 1;
    }

    /// What a runtime would run, and write to its standard input.
    pub(super) fn command(&self, verb: Verb, pod: &Pod) -> (Command, &str) {
        let container = format!("{:060x}{:04x}", self.turn, pod.number);
        match &self.way {
            Way::Flock { plugin, configuration, .. } | Way::Plugin { plugin, configuration, .. } => {
                (plugin_command(plugin, verb, &container, pod), configuration)
            }
            Way::Floor { program, removes_link } => {
                let mut command = Command::new(program);
                match verb {
                    Verb::Add => command.arg("add").arg(&pod.netns),
                    Verb::Del if *removes_link => command.arg("remove"),
                    Verb::Del => command.arg("detach"),
                };
                let number = pod.number + 2;
                command.arg(container).arg(format!("2001:db8:1::{number:x}"));
                command.arg(format!("10.1.{}.{}", number / 256, number % 256)).env_clear();
                (command, "")
            }
        }
    }

    /// Waits for what was left for later, or does it.
    pub(super) fn settle(&mut self) -> Result<()> {
        match &self.way {
            Way::Flock { .. } => until("Flock's reaper to be done", SETTLE_LIMIT, || {
                let mut links = String::new();
                for group in LINK_GROUPS {
                    links += &self.netns.ip(&["-oneline", "link", "show", "group", group])?;
                }
                Ok(if links.is_empty() { Probe::Done(()) } else { Probe::Waiting(links) })
            }),
            Way::Floor { removes_link: false, .. } => {
                self.netns.ip(&["link", "delete", "group", LINK_GROUPS[0]]).map(drop)
            }
            Way::Floor { .. } | Way::Plugin { .. } => Ok(()),
        }
    }
}

/// A router with an address of each family, as a node is.
fn node_namespace(name: &str) -> Result<Netns> {
    let netns = Netns::create(name)?;
    netns.forward()?;
    netns.address("lo", "192.0.2.1/32")?;
    netns.address("lo", "2001:db8:ffff::1/128")?;
    Ok(netns)
}

fn host_local(dir: &Path) -> Value {
    // It makes the last part itself.
    fs::create_dir_all(dir).ok();
    json!({
        "type": "host-local", "dataDir": dir,
        "ranges": [[{"subnet": POOL_V6}], [{"subnet": POOL_V4}]],
        "routes": [{"dst": "::/0"}, {"dst": "0.0.0.0/0"}],
    })
}

fn plugin_command(plugin: &Path, verb: Verb, container: &str, pod: &Pod) -> Command {
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{};K8S_POD_INFRA_CONTAINER_ID={container}",
        pod.number
    );
    let mut command = Command::new(plugin);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", if verb == Verb::Add { "ADD" } else { "DEL" })
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", &pod.netns)
        .env("CNI_IFNAME", INTERFACE)
        .env("CNI_PATH", OTHER_PLUGINS)
        .env("CNI_ARGS", arguments);
    command
}
