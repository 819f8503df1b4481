//! The network configuration list that the runtime reads.

use std::path::PathBuf;
use std::time::Duration;

use flock_core::cni::SpecVersion;
use flock_core::name::NetworkName;
use serde_json::{Value, json};

use super::PLUGIN_NAME;
use super::chain::Chained;

/// The newest version that every runtime in use knows. One that is linked with a libcni
/// before 1.2 (containerd before 2.0) can't use a list whose `cniVersion` is newer: ADD fails
/// with `unsupported CNI result version "1.1.0"`. It ignores `cniVersions`, of which later
/// ones take the highest that they know.
const KNOWN_TO_ALL: SpecVersion = SpecVersion::V1_0_0;

/// What the list says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// `name`.
    pub name: NetworkName,
    /// The versions in which all plugins of the list can be called, the oldest first.
    pub versions: Vec<SpecVersion>,
    /// `runDir` of the plugin.
    pub run_dir: PathBuf,
    /// `mtu` of the plugin; `None` is the node's own.
    pub mtu: Option<u32>,
    /// `timeoutSeconds` of the plugin.
    pub timeout: Duration,
    /// What follows Flock.
    pub chain: Vec<Chained>,
}

impl Network {
    /// The list as it stands in the file: the same for the same network.
    pub fn text(&self) -> String {
        let mut list = serde_json::Map::new();
        list.insert("cniVersion".into(), json!(self.version().as_str()));
        if self.versions.iter().any(|&version| version > KNOWN_TO_ALL) {
            let versions: Vec<_> = self.versions.iter().map(|version| version.as_str()).collect();
            list.insert("cniVersions".into(), json!(versions));
        }
        list.insert("name".into(), json!(self.name.as_str()));
        let plugins: Vec<Value> =
            std::iter::once(self.flock()).chain(self.chain.iter().map(|plugin| chained(*plugin))).collect();
        list.insert("plugins".into(), Value::Array(plugins));
        format!("{:#}\n", Value::Object(list))
    }

    fn version(&self) -> SpecVersion {
        let mut versions = self.versions.iter().copied();
        let newest = versions.clone().rfind(|&version| version <= KNOWN_TO_ALL);
        newest.or_else(|| versions.next()).unwrap_or(KNOWN_TO_ALL)
    }

    fn flock(&self) -> Value {
        json!({
            "type": PLUGIN_NAME,
            // With the annotations at hand, an ADD asks no API server.
            "capabilities": {"io.kubernetes.cri.pod-annotations": true},
            "runDir": self.run_dir,
            "mtu": self.mtu.unwrap_or(0),
            "timeoutSeconds": self.timeout.as_secs(),
        })
    }
}

fn chained(plugin: Chained) -> Value {
    match plugin {
        // snat: a pod that calls a host port of its own node gets its answer from there.
        Chained::Portmap => {
            json!({"type": plugin.name(), "capabilities": {"portMappings": true}, "snat": true})
        }
        Chained::Bandwidth => json!({"type": plugin.name(), "capabilities": {"bandwidth": true}}),
    }
}
