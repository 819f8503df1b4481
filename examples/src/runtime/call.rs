//! One call of the plugin, word for word: what a runtime says that does it right,
//! and any departure from that.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::netns::Netns;
use crate::process::{start_error, status_text};
use crate::runtime::{Container, INTERFACE, Runtime};
use crate::{LabError, Result};

/// A call that is not made yet. It starts as a good runtime would make it.
#[derive(Debug, Clone)]
pub struct Call {
    node: Netns,
    plugin: PathBuf,
    what: String,
    variables: BTreeMap<String, OsString>,
    config: Value,
    input: Option<Vec<u8>>,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was asked.
    what: String,
    /// The exit status.
    pub status: Option<i32>,
    /// Standard output.
    pub said: String,
    /// Standard error.
    pub notice: String,
}

/// An error as the specification has it (CNI specification, section 5, "Error").
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The version that it is written in.
    pub cni_version: String,
    /// Which kind of failure.
    pub code: u32,
    /// What was found and what was expected.
    pub msg: String,
    /// What to do.
    #[serde(default)]
    pub details: String,
}

impl Call {
    pub(super) fn new(runtime: &Runtime, verb: &str, container: &Container) -> Self {
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={}",
            container.pod_namespace, container.pod_name, container.id
        );
        let directory = runtime.plugin.parent().map(PathBuf::from).unwrap_or_default();
        let variables: [(&str, OsString); 6] = [
            ("CNI_COMMAND", verb.into()),
            ("CNI_CONTAINERID", container.id.as_str().into()),
            ("CNI_NETNS", container.netns.path().into()),
            ("CNI_IFNAME", INTERFACE.into()),
            ("CNI_PATH", directory.into()),
            ("CNI_ARGS", arguments.into()),
        ];
        Self {
            what: format!("{verb} of {} on {}", container.pod_name, runtime.node.name()),
            variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
            ..Self::about_nothing(runtime, verb)
        }
    }

    pub(super) fn about_nothing(runtime: &Runtime, verb: &str) -> Self {
        Self {
            node: runtime.node.clone(),
            plugin: runtime.plugin.clone(),
            what: format!("{verb} on {}", runtime.node.name()),
            variables: [("CNI_COMMAND".to_owned(), verb.into())].into(),
            config: json!({
                "cniVersion": "1.0.0", "name": "flock", "type": "flock", "runDir": runtime.run_dir,
            }),
            input: None,
        }
    }

    /// With another value of an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// Without an environment variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// For another interface of the container.
    #[must_use]
    pub fn interface(self, name: &str) -> Self {
        self.variable("CNI_IFNAME", name)
    }

    /// In another version of the specification.
    #[must_use]
    pub fn version(self, version: &str) -> Self {
        self.config("cniVersion", version)
    }

    /// With another value of a key of the network configuration.
    #[must_use]
    pub fn config(mut self, key: &str, value: impl Into<Value>) -> Self {
        if let Some(config) = self.config.as_object_mut() {
            config.insert(key.to_owned(), value.into());
        }
        self
    }

    /// With something else than a network configuration on standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// The network configuration, as the runtime takes it from `/etc/cni/net.d`.
    pub(super) fn configuration(&self) -> String {
        self.config.to_string()
    }

    /// `CNI_ARGS`; empty where there are none.
    pub(super) fn arguments(&self) -> String {
        self.variables.get("CNI_ARGS").map_or_else(String::new, |text| text.to_string_lossy().into_owned())
    }

    /// Runs the plugin.
    pub fn make(&self) -> Result<Answer> {
        let Output { status, stdout, stderr } = self.exec()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer {
            what: self.what.clone(),
            status: status.code(),
            said: text(stdout),
            notice: format!(
                "{}{}",
                text(stderr),
                if status.code().is_none() { status_text(status) } else { String::new() }
            ),
        })
    }

    /// Runs the plugin, whatever comes of it.
    pub(super) fn exec(&self) -> Result<Output> {
        let mut command = self.node.command(&self.plugin);
        command.envs(&self.variables);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(start_error(&command))?;
        if let Some(mut stdin) = child.stdin.take() {
            let input = self.input.clone().unwrap_or_else(|| self.configuration().into_bytes());
            // A plugin that does not read to the end says why by its answer.
            stdin.write_all(&input).ok();
        }
        child.wait_with_output().map_err(LabError::file("wait for", &self.plugin))
    }
}

impl Answer {
    /// The result; [`Value::Null`] of a verb that answers nothing. An error is an error.
    pub fn success(&self) -> Result<Value> {
        match (self.status, self.said.trim()) {
            (Some(0), "") => Ok(Value::Null),
            (Some(0), said) => serde_json::from_str(said).map_err(|_| self.unexpected("a result")),
            _ => Err(self.unexpected("success")),
        }
    }

    /// The error; success, and a failure that says nothing a runtime understands, are errors.
    pub fn failure(&self) -> Result<Failure> {
        match self.status {
            None | Some(0) => Err(self.unexpected("an error")),
            Some(_) => serde_json::from_str(&self.said)
                .map_err(|_| self.unexpected("an error of the CNI specification")),
        }
    }

    /// Whether this is an answer to STATUS from an agent that serves pods. That the node is
    /// full, or that nobody hears of its pods, does not matter here.
    pub fn is_of_a_served_node(&self) -> bool {
        let is_away = |failure: Failure| failure.msg.starts_with("flock-agent is ");
        self.status == Some(0) || self.failure().is_ok_and(|failure| !is_away(failure))
    }

    fn unexpected(&self, expected: &str) -> LabError {
        let Self { what, status, said, notice } = self;
        LabError::Unexpected(format!("{what}: expected {expected}, got status {status:?}: {said}{notice}"))
    }
}

impl Failure {
    /// Everything that it says.
    pub fn text(&self) -> String {
        format!("{} {}", self.msg, self.details)
    }
}
