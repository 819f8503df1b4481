//! A runtime's call, before and after validation.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::args::Args;
use super::config::{DEFAULT_TIMEOUT, NetworkConfig};
use super::error::{Code, Error};
use super::json;
use super::version::SpecVersion;
use crate::attachment::AttachmentKey;
use crate::excerpt::quoted;
use crate::name::{ContainerId, InterfaceName};

/// What a runtime can ask for, as `CNI_COMMAND` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// Make the attachment.
    Add,
    /// Compare the attachment with what it should be.
    Check,
    /// Take the attachment away.
    Del,
    /// Take away all attachments that the runtime does not know.
    Gc,
    /// Say whether pods can be served.
    Status,
    /// Say which versions of the specification are spoken.
    Version,
}

impl Verb {
    /// As it stands in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The first version of the specification that has it.
    pub fn since(self) -> SpecVersion {
        match self {
            Self::Add | Self::Del | Self::Version => SpecVersion::V0_3_0,
            Self::Check => SpecVersion::V0_4_0,
            Self::Gc | Self::Status => SpecVersion::V1_1_0,
        }
    }

    /// Fails with code 1 if a configuration of `version` can't ask for this.
    pub fn require(self, version: SpecVersion) -> Result<(), Error> {
        if version >= self.since() {
            return Ok(());
        }
        Err(Error::new(
            Code::INCOMPATIBLE_VERSION,
            format!("{self} needs CNI version {} or later, the configuration has {version}", self.since()),
            format!("supported versions: {}", SpecVersion::all_as_text()),
        ))
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Verb {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Add, Self::Check, Self::Del, Self::Gc, Self::Status, Self::Version]
            .into_iter()
            .find(|verb| verb.as_str() == text)
            .ok_or_else(|| {
                Error::new(
                    Code::INVALID_ENVIRONMENT,
                    format!(
                        "CNI_COMMAND is {}, expected ADD, CHECK, DEL, GC, STATUS or VERSION in capitals",
                        quoted(text)
                    ),
                    "flock is called by a container runtime; flock --help says more",
                )
            })
    }
}

/// What a runtime says: the CNI variables (empty where absent) and standard input.
#[derive(Debug, Clone, Copy)]
pub struct RawCall<'a> {
    /// `CNI_COMMAND`.
    pub verb: Verb,
    /// `CNI_CONTAINERID`.
    pub container_id: &'a str,
    /// `CNI_IFNAME`.
    pub ifname: &'a str,
    /// `CNI_NETNS`.
    pub netns: &'a str,
    /// `CNI_ARGS`.
    pub args: &'a str,
    /// The network configuration.
    pub config: &'a [u8],
    /// How long the runtime's side still waits.
    pub remaining: Duration,
}

impl Default for RawCall<'_> {
    /// STATUS without anything, for struct update.
    fn default() -> Self {
        Self {
            verb: Verb::Status,
            container_id: "",
            ifname: "",
            netns: "",
            args: "",
            config: b"",
            remaining: DEFAULT_TIMEOUT,
        }
    }
}

impl RawCall<'_> {
    /// Validates the variables that say which attachment is meant, all of them at
    /// once: code 4 names each that is missing or invalid. `None` for the verbs
    /// that mean no attachment.
    pub fn key(&self) -> Result<Option<AttachmentKey>, Error> {
        if !matches!(self.verb, Verb::Add | Verb::Check | Verb::Del) {
            return Ok(None);
        }
        let mut problems = Vec::new();
        let container = variable("CNI_CONTAINERID", self.container_id, ContainerId::new, &mut problems);
        let netns = if self.verb == Verb::Del && self.netns.is_empty() {
            Some(())
        } else {
            variable("CNI_NETNS", self.netns, netns, &mut problems)
        };
        let interface = variable("CNI_IFNAME", self.ifname, InterfaceName::new, &mut problems);
        match (container, netns, interface) {
            (Some(container), Some(()), Some(interface)) => {
                Ok(Some(AttachmentKey::new(container, interface)))
            }
            _ => Err(Error::new(
                Code::INVALID_ENVIRONMENT,
                problems.join("; "),
                format!("the container runtime sets these variables for {}", self.verb),
            )),
        }
    }
}

fn variable<'a, T, E: fmt::Display>(
    name: &str,
    value: &'a str,
    parse: impl FnOnce(&'a str) -> Result<T, E>,
    problems: &mut Vec<String>,
) -> Option<T> {
    if value.is_empty() {
        problems.push(format!("{name} is missing"));
        return None;
    }
    parse(value).map_err(|error| problems.push(format!("{name}: {error}"))).ok()
}

fn netns(path: &str) -> Result<(), String> {
    // Messages and log lines name it.
    if path.starts_with('/') && !path.contains(char::is_control) {
        Ok(())
    } else {
        Err(format!("{} is not the absolute path of a network namespace", quoted(path)))
    }
}

/// A valid call.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// ADD, CHECK or DEL of one attachment.
    Attachment(Call),
    /// GC.
    Gc(GcCall),
    /// STATUS.
    Status(StatusCall),
}

impl Operation {
    /// Validates what a runtime says: the environment first, then the configuration.
    /// VERSION is none of these: [`version_info`](super::version_info) answers it.
    pub fn parse(raw: &RawCall<'_>) -> Result<Self, Error> {
        match raw.verb {
            Verb::Add | Verb::Check | Verb::Del => Call::parse(raw).map(Self::Attachment),
            Verb::Gc => {
                let config = config_of(raw)?;
                let valid = valid_attachments(raw.config)?;
                Ok(Self::Gc(GcCall { config, valid, remaining: raw.remaining }))
            }
            Verb::Status => {
                Ok(Self::Status(StatusCall { config: config_of(raw)?, remaining: raw.remaining }))
            }
            Verb::Version => Err(Error::new(
                Code::INVALID_ENVIRONMENT,
                "VERSION was passed to the agent, expected the plugin to answer it",
                "the plugin and the agent are of different releases: install both from one",
            )),
        }
    }

    /// The configuration that came with it.
    pub fn config(&self) -> &NetworkConfig {
        match self {
            Self::Attachment(call) => &call.config,
            Self::Gc(call) => &call.config,
            Self::Status(call) => &call.config,
        }
    }
}

/// A valid ADD, CHECK or DEL.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Which of the three.
    pub verb: Verb,
    /// `CNI_CONTAINERID` and `CNI_IFNAME`.
    pub key: AttachmentKey,
    /// `CNI_NETNS`, an absolute path; always there for ADD and CHECK.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`. For DEL, which needs none of them, those that can't be read count as absent.
    pub args: Args,
    /// Standard input. For DEL only [what it needs](NetworkConfig::parse_for_del).
    pub config: NetworkConfig,
    /// How long the runtime's side still waits for the answer.
    pub remaining: Duration,
}

impl Call {
    fn parse(raw: &RawCall<'_>) -> Result<Self, Error> {
        let Some(key) = raw.key()? else {
            return Err(Error::new(
                Code::INVALID_ENVIRONMENT,
                format!("{} is about no attachment, expected ADD, CHECK or DEL", raw.verb),
                "",
            ));
        };
        let config = config_of(raw)?;
        let args = match Args::parse(raw.args) {
            Err(_) if raw.verb == Verb::Del => Args::default(),
            parsed => parsed?,
        };
        let netns = (!raw.netns.is_empty()).then(|| PathBuf::from(raw.netns));
        Ok(Self { verb: raw.verb, key, netns, args, config, remaining: raw.remaining })
    }
}

/// A valid GC.
#[derive(Debug, Clone, PartialEq)]
pub struct GcCall {
    /// Standard input.
    pub config: NetworkConfig,
    /// The attachments of this network that are to stay. `None` where the runtime
    /// does not say: nothing may be deleted then.
    pub valid: Option<BTreeSet<AttachmentKey>>,
    /// How long the runtime's side still waits for the answer.
    pub remaining: Duration,
}

/// A valid STATUS.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusCall {
    /// Standard input.
    pub config: NetworkConfig,
    /// How long the runtime's side still waits for the answer.
    pub remaining: Duration,
}

fn config_of(raw: &RawCall<'_>) -> Result<NetworkConfig, Error> {
    let config = match raw.verb {
        Verb::Del => NetworkConfig::parse_for_del(raw.config),
        _ => NetworkConfig::parse(raw.config),
    }?;
    raw.verb.require(config.cni_version)?;
    Ok(config)
}

/// libcni sends the older key too, with the same value.
fn valid_attachments(config: &[u8]) -> Result<Option<BTreeSet<AttachmentKey>>, Error> {
    let config = json::object(config)?;
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        if let Some(items) = json::list(&config, key)? {
            let entry = |(index, item)| valid_attachment(&format!("{key}[{index}]"), item);
            return items.iter().enumerate().map(entry).collect::<Result<_, _>>().map(Some);
        }
    }
    Ok(None)
}

fn valid_attachment(what: &str, item: &Value) -> Result<AttachmentKey, Error> {
    let Value::Object(fields) = item else {
        return Err(json::wrong_type(what, item, "an object with \"containerID\" and \"ifname\""));
    };
    let container = json::string(fields, "containerID")?.unwrap_or_default();
    let interface = json::string(fields, "ifname")?.unwrap_or_default();
    let invalid = |error| {
        Error::new(
            Code::INVALID_CONFIG,
            format!("{what}: {error}"),
            "nothing was deleted; correct the list of valid attachments",
        )
    };
    Ok(AttachmentKey::new(
        ContainerId::new(container).map_err(invalid)?,
        InterfaceName::new(interface).map_err(invalid)?,
    ))
}
