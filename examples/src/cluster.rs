//! A real Kubernetes cluster on one machine: a control plane and nodes, each one hop
//! from a top-of-rack router, with nothing in it that stands in for something else.
//!
//! ```text
//!                    tor   BIRD, AS 64500
//!          ┌──────────────┼──────────────┐
//!     node1            node2          control
//!     containerd       containerd     etcd, kube-apiserver,
//!     kubelet          kubelet        kube-controller-manager,
//!     kube-proxy       kube-proxy     kube-scheduler
//! ```
//!
//! The addresses are those of the [`fabric`](crate::fabric); the control plane has the
//! link with number 9. The router takes BGP sessions from the nodes and what they may
//! announce; who speaks on the nodes is left to what is installed on the cluster.
//!
//! A cluster lives in a [`sandbox`](crate::sandbox) of root's and ends with it. Its logs
//! are on disk and stay.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::api::Api;
use crate::cluster::control::ControlPlane;
use crate::cluster::machine::Machine;
use crate::deadline::{Probe, until};
use crate::fabric::{DIR, Plan, ROUTER, ROUTER_ASN, join};
use crate::netns::Netns;
use crate::router::{Neighbour, Router};
use crate::{LabError, Result};

pub mod api;
pub mod control;
pub mod credentials;
pub mod image;
pub mod machine;

/// For all nodes to be registered.
const REGISTRATION: Duration = Duration::from_secs(60);
/// The number of the control plane's link.
const CONTROL: u8 = 9;

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Materials {
    /// The directory with the programs of Kubernetes.
    pub programs: PathBuf,
    /// Archives of images that the nodes have from the start, beside those of [`image`].
    pub images: Vec<PathBuf>,
    /// Where everything that is logged goes.
    pub logs: PathBuf,
}

/// A cluster of two nodes. Dropping it kills its daemons; its containers end with the sandbox.
#[derive(Debug)]
pub struct Cluster {
    /// The router that all others are linked to.
    pub router: Router,
    /// The control plane.
    pub control: ControlPlane,
    /// `node1` and `node2`.
    pub machines: Vec<Machine>,
    images: Vec<PathBuf>,
}

impl Cluster {
    /// Makes the network, starts the router and the control plane. The nodes are not started.
    pub fn build(materials: &Materials) -> Result<Self> {
        let dir = Path::new(DIR);
        let tor = Netns::create("tor")?;
        let plans = [Plan::new(1), Plan::new(2)];
        let programs = &materials.programs;
        let mut machines = Vec::new();
        for plan in plans {
            let (name, logs) = (plan.name(), materials.logs.join(plan.name()));
            let netns = uplinked(plan, &name, &tor)?;
            machines.push(Machine::create(netns, addresses(plan), programs, &dir.join(&name), &logs)?);
        }
        let neighbours: Vec<Neighbour> = plans.into_iter().map(neighbour).collect();
        let control_netns = uplinked(Plan::new(CONTROL), "control", &tor)?;
        let router = Router::start(tor, &dir.join("tor"), ROUTER_ASN, ROUTER, &neighbours)?;
        let mut images = image::busybox(&images_dir(dir)?)?.to_vec();
        images.extend(materials.images.iter().cloned());
        let control = ControlPlane::start(
            control_netns,
            addresses(Plan::new(CONTROL)),
            &plans.map(Plan::name),
            programs,
            &dir.join("control"),
            &materials.logs,
        )?;
        Ok(Self { router, control, machines, images })
    }

    /// Starts containerd, kubelet and kube-proxy on all nodes, and waits until the nodes
    /// are registered. They are not ready before a CNI is installed.
    pub fn start_nodes(&mut self) -> Result<()> {
        let (images, credentials) = (&self.images, &self.control.credentials);
        let start = |machine: &mut Machine| {
            machine.start_containerd(images)?;
            machine.start_kubernetes(credentials)
        };
        thread::scope(|scope| {
            let starts: Vec<_> =
                self.machines.iter_mut().map(|machine| scope.spawn(move || start(machine))).collect();
            starts.into_iter().try_for_each(|start| {
                start.join().map_err(|_| LabError::Unexpected("the start of a node panicked".to_owned()))?
            })
        })?;
        let api = self.api();
        until("all nodes to be registered", REGISTRATION, || {
            self.machines.iter_mut().try_for_each(Machine::must_run)?;
            let nodes = api.list("/api/v1/nodes")?;
            let seen = format!("{} of {}", nodes.len(), self.machines.len());
            Ok(if nodes.len() == self.machines.len() { Probe::Done(()) } else { Probe::Waiting(seen) })
        })
    }

    /// Requests to the API server as an administrator.
    pub fn api(&self) -> Api {
        self.control.api()
    }

    /// `kubectl` with these arguments, to its end.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        crate::process::run(self.control.kubectl().args(arguments))
    }

    /// A node by its name.
    pub fn machine(&self, name: &str) -> Result<&Machine> {
        let found = self.machines.iter().find(|machine| machine.name() == name);
        found.ok_or_else(|| LabError::Unexpected(format!("there is no node {name}")))
    }

    /// Waits until all nodes are ready.
    pub fn ready(&self, limit: Duration) -> Result<()> {
        let api = self.api();
        until("all nodes to be ready", limit, || {
            let waiting =
                api.list("/api/v1/nodes")?.iter().filter_map(unready).collect::<Vec<_>>().join("; ");
            Ok(if waiting.is_empty() { Probe::Done(()) } else { Probe::Waiting(waiting) })
        })
    }
}

/// Why a node is not ready; none if it is.
fn unready(node: &Value) -> Option<String> {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    match ready {
        Some(condition) if condition["status"] == "True" => None,
        Some(condition) => Some(format!("{}: {}", node["metadata"]["name"], condition["message"])),
        None => Some(format!("{}: says nothing yet", node["metadata"]["name"])),
    }
}

fn addresses(plan: Plan) -> [IpAddr; 2] {
    [plan.link6().1.into(), plan.link4().1.into()]
}

/// Linked to the router, which its default routes point to.
fn uplinked(plan: Plan, name: &str, tor: &Netns) -> Result<Netns> {
    let netns = join(plan, name, tor)?;
    netns.ip(&["route", "add", "default", "via", &plan.link6().0.to_string()])?;
    netns.ip(&["route", "add", "default", "via", &plan.link4().0.to_string()])?;
    Ok(netns)
}

/// As in the fabric, with room for a second prefix of each family, and for single addresses
/// of pods that are left from a prefix that was changed.
fn neighbour(plan: Plan) -> Neighbour {
    let mut neighbour = plan.neighbour();
    neighbour.accepted6.extend([plan.cidr6(), plan.second_cidr6()].map(|cidr| cidr + "{64,128}"));
    neighbour.accepted4.extend([plan.cidr4(), plan.second_cidr4()].map(|cidr| cidr + "{24,32}"));
    neighbour
}

fn images_dir(dir: &Path) -> Result<PathBuf> {
    let dir = dir.join("images");
    fs::create_dir_all(&dir).map_err(LabError::file("create", &dir))?;
    Ok(dir)
}
