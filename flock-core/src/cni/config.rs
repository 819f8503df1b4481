//! The network configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::error::{Code, Error};
use super::json;
use super::result::CniResult;
use super::version::SpecVersion;
use crate::excerpt::quoted;
use crate::name::NetworkName;

/// Where the agent's socket and records are, unless `runDir` says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/flock";

/// How long a verb may take, unless `timeoutSeconds` says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// `timeoutSeconds`: the upper end is below the two minutes that kubelet waits.
const TIMEOUT_SECONDS: std::ops::RangeInclusive<u64> = 1..=110;

/// From the smallest of IPv4 (RFC 791) to the largest of a veth.
const MTU: std::ops::RangeInclusive<u64> = 68..=65_535;

/// The capability under which containerd and CRI-O pass the pod's annotations.
const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// A network configuration of type `flock`. Keys that are not listed are ignored.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkConfig {
    /// `cniVersion`.
    pub cni_version: SpecVersion,
    /// `name`.
    pub name: NetworkName,
    /// `runDir`, absolute.
    pub run_dir: PathBuf,
    /// `mtu` in bytes; `None` if it is 0 or absent.
    pub mtu: Option<u32>,
    /// `timeoutSeconds`.
    pub timeout: Duration,
    /// The pod's annotations, where the runtime passes them in `runtimeConfig`.
    /// `None` means "not told", an empty map means "told that there are none".
    pub pod_annotations: Option<BTreeMap<String, String>>,
    /// The result of the plugins before this one in the chain, and for CHECK of the whole chain.
    pub prev_result: Option<CniResult>,
}

impl NetworkConfig {
    /// Reads and validates a configuration: code 6 for what can't be decoded,
    /// 1 for a version that is not spoken, 7 for a value that can't be used.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let map = json::object(bytes)?;
        let essentials = Self::essentials(&map)?;
        Ok(Self {
            mtu: mtu(&map)?,
            pod_annotations: pod_annotations(&map)?,
            prev_result: json::map(&map, "prevResult")?.map(CniResult::from_map).transpose()?,
            ..essentials
        })
    }

    /// Reads only what DEL needs: what it does not need can't make it fail.
    /// `mtu`, `pod_annotations` and `prev_result` are `None`.
    pub fn parse_for_del(bytes: &[u8]) -> Result<Self, Error> {
        Self::essentials(&json::object(bytes)?)
    }

    fn essentials(map: &Map<String, Value>) -> Result<Self, Error> {
        let Delivery { cni_version, run_dir, timeout } = Delivery::of(map)?;
        let name = name(map)?;
        Ok(Self { cni_version, name, run_dir, mtu: None, timeout, pod_annotations: None, prev_result: None })
    }
}

/// The part of the configuration that the plugin itself needs to pass the call on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// `cniVersion`, in which errors are written.
    pub cni_version: SpecVersion,
    /// `runDir`, where the agent's socket is.
    pub run_dir: PathBuf,
    /// `timeoutSeconds`.
    pub timeout: Duration,
}

impl Delivery {
    /// Reads the three and nothing else.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        Self::of(&json::object(bytes)?)
    }

    fn of(map: &Map<String, Value>) -> Result<Self, Error> {
        Ok(Self { cni_version: SpecVersion::of_config(map)?, run_dir: run_dir(map)?, timeout: timeout(map)? })
    }
}

fn name(map: &Map<String, Value>) -> Result<NetworkName, Error> {
    let text = json::string(map, "name")?.unwrap_or_default();
    NetworkName::new(text).map_err(|error| {
        Error::new(Code::INVALID_CONFIG, format!("\"name\": {error}"), "give the network a valid \"name\"")
    })
}

fn run_dir(map: &Map<String, Value>) -> Result<PathBuf, Error> {
    match json::string(map, "runDir")? {
        None => Ok(PathBuf::from(DEFAULT_RUN_DIR)),
        Some(path) if path.starts_with('/') && !path.contains('\0') => Ok(PathBuf::from(path)),
        Some(other) => Err(json::wrong_value(
            "\"runDir\"",
            &quoted(other).to_string(),
            "the absolute path of the agent's run directory, like \"/run/flock\"",
        )),
    }
}

fn timeout(map: &Map<String, Value>) -> Result<Duration, Error> {
    let expected = format!("a whole number from {} to {}", TIMEOUT_SECONDS.start(), TIMEOUT_SECONDS.end());
    match json::number(map, "timeoutSeconds", &expected)? {
        None => Ok(DEFAULT_TIMEOUT),
        Some(seconds) if TIMEOUT_SECONDS.contains(&seconds) => Ok(Duration::from_secs(seconds)),
        Some(other) => Err(json::wrong_value("\"timeoutSeconds\"", &other.to_string(), &expected)),
    }
}

fn mtu(map: &Map<String, Value>) -> Result<Option<u32>, Error> {
    let expected = format!("0 (the node's own) or {} to {} bytes", MTU.start(), MTU.end());
    match json::number(map, "mtu", &expected)? {
        None | Some(0) => Ok(None),
        Some(mtu) if MTU.contains(&mtu) => Ok(u32::try_from(mtu).ok()),
        Some(other) => Err(json::wrong_value("\"mtu\"", &other.to_string(), &expected)),
    }
}

fn pod_annotations(map: &Map<String, Value>) -> Result<Option<BTreeMap<String, String>>, Error> {
    let Some(runtime) = json::map(map, "runtimeConfig")? else { return Ok(None) };
    let Some(annotations) = json::map(runtime, POD_ANNOTATIONS)? else { return Ok(None) };
    let annotations = annotations.iter().map(|(key, value)| match value {
        Value::String(text) => Ok((key.clone(), text.clone())),
        other => Err(json::wrong_type(
            &format!("the annotation {} in {POD_ANNOTATIONS:?}", quoted(key)),
            other,
            "a string",
        )),
    });
    annotations.collect::<Result<_, _>>().map(Some)
}
