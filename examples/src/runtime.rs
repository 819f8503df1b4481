//! A container runtime as the plugin sees it: environment variables, a network
//! configuration on standard input, an answer on standard output (CNI 1.1.0).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde::Deserialize;

use crate::netns::Netns;
use crate::process::status_text;
use crate::{LabError, Result};

mod call;
mod caller;

pub use call::{Answer, Call, Failure};
pub use caller::{Caller, Outcome};

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

impl AddResult {
    fn addresses(&self) -> Option<Vec<IpAddr>> {
        let address = |ip: &IpConfig| ip.address.split_once('/')?.0.parse().ok();
        self.ips.iter().map(address).collect()
    }
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
        result
            .addresses()
            .ok_or_else(|| unexpected("an address is not of the form ADDRESS/LENGTH".to_owned()))
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
        self.prepare(verb, container).exec()
    }

    /// STATUS, which is about no container.
    pub fn status(&self) -> Call {
        Call::about_nothing(self, "STATUS").version("1.1.0")
    }

    /// GC, which says nothing of valid attachments yet.
    pub fn gc(&self) -> Call {
        Call::about_nothing(self, "GC").version("1.1.0")
    }

    /// A call that can still be made otherwise than a good runtime would.
    pub fn prepare(&self, verb: &str, container: &Container) -> Call {
        Call::new(self, verb, container)
    }
}
