//! A container runtime as the plugin sees it: environment variables, a network
//! configuration on standard input, an answer on standard output (CNI 1.1.0).

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;
use serde_json::json;

use crate::netns::Netns;
use crate::process::{start_error, status_text};
use crate::{LabError, Result};

/// Runs the plugin in the namespace of one node.
#[derive(Debug, Clone)]
pub struct Runtime {
    node: Netns,
    plugin: PathBuf,
    run_dir: PathBuf,
}

/// A sandbox that a runtime has made for a pod: a namespace with nothing but loopback.
#[derive(Debug, Clone)]
pub struct Container {
    /// As `CNI_CONTAINERID`.
    pub id: String,
    /// The pod's namespace in Kubernetes.
    pub pod_namespace: String,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's network.
    pub netns: Netns,
}

/// The interface in each container.
pub const INTERFACE: &str = "eth0";

#[derive(Deserialize)]
struct AddResult {
    ips: Vec<IpConfig>,
}

#[derive(Deserialize)]
struct IpConfig {
    address: String,
}

#[derive(Deserialize)]
struct CniError {
    code: u32,
    msg: String,
    #[serde(default)]
    details: String,
}

impl Runtime {
    /// `run_dir` is that of the agent on this node.
    pub fn new(node: &Netns, plugin: &Path, run_dir: &Path) -> Self {
        Self { node: node.clone(), plugin: plugin.to_owned(), run_dir: run_dir.to_owned() }
    }

    /// ADD: the container's addresses, in the order of the answer.
    pub fn add(&self, container: &Container) -> Result<Vec<IpAddr>> {
        let said = self.call("ADD", container)?;
        let unexpected = |error: String| {
            LabError::Unexpected(format!("ADD of {} answered {said:?}: {error}", container.pod_name))
        };
        let result: AddResult = serde_json::from_str(&said).map_err(|error| unexpected(error.to_string()))?;
        let address = |ip: &IpConfig| {
            let (address, _length) = ip.address.split_once('/')?;
            address.parse().ok()
        };
        let addresses: Option<Vec<IpAddr>> = result.ips.iter().map(address).collect();
        addresses.ok_or_else(|| unexpected("an address is not of the form ADDRESS/LENGTH".to_owned()))
    }

    /// DEL.
    pub fn delete(&self, container: &Container) -> Result<()> {
        self.call("DEL", container).map(drop)
    }

    /// CHECK, without a previous result.
    pub fn check(&self, container: &Container) -> Result<()> {
        self.call("CHECK", container).map(drop)
    }

    fn call(&self, verb: &str, container: &Container) -> Result<String> {
        let output = self.exec(verb, container)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        let reason = serde_json::from_str::<CniError>(&said).map_or_else(
            |_| format!("{} {}", said.trim(), String::from_utf8_lossy(&output.stderr).trim()),
            |error| format!("error {}: {} {}", error.code, error.msg, error.details),
        );
        Err(LabError::Failed {
            command: format!("{verb} of {} on {}", container.pod_name, self.node.name()),
            status: status_text(output.status),
            output: reason.trim().to_owned(),
        })
    }

    /// One run of the plugin, whatever comes of it.
    pub fn exec(&self, verb: &str, container: &Container) -> Result<Output> {
        let mut command = self.command(verb, container);
        let mut child = command.spawn().map_err(start_error(&command))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that does not read to the end says why by its answer.
            stdin.write_all(self.configuration().as_bytes()).ok();
        }
        child.wait_with_output().map_err(LabError::file("wait for", &self.plugin))
    }

    fn command(&self, verb: &str, container: &Container) -> Command {
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={}",
            container.pod_namespace, container.pod_name, container.id
        );
        let mut command = self.node.command(&self.plugin);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &container.id)
            .env("CNI_NETNS", container.netns.path())
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_PATH", self.plugin.parent().unwrap_or(Path::new("/opt/cni/bin")))
            .env("CNI_ARGS", arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The network configuration, as the runtime takes it from `/etc/cni/net.d`.
    pub fn configuration(&self) -> String {
        json!({"cniVersion": "1.0.0", "name": "flock", "type": "flock", "runDir": self.run_dir}).to_string()
    }
}
