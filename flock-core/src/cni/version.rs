//! Versions of the CNI specification.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::error::{Code, Error};
use super::json;
use crate::excerpt::quoted;

/// A version of the CNI specification that Flock speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecVersion {
    /// 0.3.0, the first with several addresses in one result.
    V0_3_0,
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0, the first with CHECK.
    V0_4_0,
    /// 1.0.0, without `version` in each address.
    V1_0_0,
    /// 1.1.0, the first with STATUS and GC, and the MTU of interfaces.
    V1_1_0,
}

impl SpecVersion {
    /// All of them, the oldest first.
    pub const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest one, in which errors are written when the configuration's own
    /// version is not known.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it stands in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version to write an error in: that of `config` if it can be told, else [`NEWEST`](Self::NEWEST).
    pub fn for_errors(config: &[u8]) -> Self {
        json::object(config).and_then(|map| Self::of_config(&map)).unwrap_or(Self::NEWEST)
    }

    /// `0.3.0, 0.3.1, …`
    pub(super) fn all_as_text() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }

    /// The version that a configuration asks for. One without `cniVersion` is of
    /// version 0.1.0 or 0.2.0, which Flock does not speak.
    pub(super) fn of_config(config: &Map<String, Value>) -> Result<Self, Error> {
        match json::string(config, "cniVersion")? {
            Some(text) => text.parse(),
            None => Err(Error::new(
                Code::INCOMPATIBLE_VERSION,
                "the network configuration has no \"cniVersion\", which means a version before 0.3.0",
                format!("supported versions: {}; name one of them as \"cniVersion\"", Self::all_as_text()),
            )),
        }
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SpecVersion {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            Error::new(
                Code::INCOMPATIBLE_VERSION,
                format!("CNI version {} is not supported", quoted(text)),
                format!("supported versions: {}; name one of them as \"cniVersion\"", Self::all_as_text()),
            )
        })
    }
}

/// The answer to VERSION. `config` is what came with it, possibly nothing.
///
/// `cniVersion` repeats what was asked with, also where Flock does not speak that
/// version: `supportedVersions` is what the runtime wants to know.
pub fn version_info(config: &[u8]) -> Result<Value, Error> {
    let asked = if config.trim_ascii().is_empty() {
        None
    } else {
        json::string(&json::object(config)?, "cniVersion")?.map(str::to_owned)
    };
    Ok(json!({
        "cniVersion": asked.as_deref().unwrap_or(SpecVersion::NEWEST.as_str()),
        "supportedVersions": SpecVersion::ALL.map(SpecVersion::as_str),
    }))
}
