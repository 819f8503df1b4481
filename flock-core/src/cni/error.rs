//! Errors as runtimes read them.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::version::SpecVersion;

/// What is told to the runtime when a call fails (CNI specification, section 5, "Error").
///
/// `msg` says in one line what was found and what was expected, `details` what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Which kind of failure.
    pub code: Code,
    /// What was found and what was expected.
    pub msg: String,
    /// What to do, and further facts. May be empty.
    #[serde(default)]
    pub details: String,
}

impl Error {
    /// Joins the three parts.
    pub fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// The error as it is printed on standard output.
    pub fn to_json(&self, version: SpecVersion) -> Value {
        json!({
            "cniVersion": version.as_str(),
            "code": self.code,
            "msg": self.msg,
            "details": self.details,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, " ({})", self.details) }
    }
}

impl std::error::Error for Error {}

/// The number that says which kind of failure: 1 to 99 belong to the specification,
/// 100 and up to Flock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub u32);

impl Code {
    /// The CNI version is not supported, or too old for the verb.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// A field of the network configuration is not supported.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container is unknown or does not exist; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// An environment variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// Reading or writing failed.
    pub const IO_FAILURE: Self = Self(5);
    /// What was read could not be decoded.
    pub const DECODING_FAILURE: Self = Self(6);
    /// The network configuration can be read and is wrong.
    pub const INVALID_CONFIG: Self = Self(7);
    /// It may work later: the runtime should try again.
    pub const TRY_AGAIN_LATER: Self = Self(11);
    /// STATUS: new pods can't be served.
    pub const NOT_AVAILABLE: Self = Self(50);
    /// STATUS: new pods can't be served, and existing ones may have limited connectivity.
    pub const LIMITED: Self = Self(51);
    /// A defect of Flock itself.
    pub const INTERNAL: Self = Self(100);
    /// No address could be given.
    pub const ADDRESS: Self = Self(101);
    /// The kernel's side failed.
    pub const DATAPLANE: Self = Self(102);
    /// The record could not be written or read.
    pub const RECORD: Self = Self(103);
    /// The pod is unknown or its annotations are wrong.
    pub const POD: Self = Self(104);
    /// The announcement failed.
    pub const ANNOUNCEMENT: Self = Self(105);
    /// CHECK found a difference.
    pub const CHECK_FAILED: Self = Self(106);
    /// The caller may not ask the agent.
    pub const DENIED: Self = Self(107);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
