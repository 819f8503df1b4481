//! The variable `CNI_ARGS`.

use std::collections::BTreeMap;
use std::fmt;

use super::error::{Code, Error};
use crate::excerpt::{self, quoted};
use crate::name::PodKey;

const IGNORE_UNKNOWN: &str = "IgnoreUnknown";
const NAMESPACE: &str = "K8S_POD_NAMESPACE";
const NAME: &str = "K8S_POD_NAME";
const UID: &str = "K8S_POD_UID";
const INFRA_CONTAINER: &str = "K8S_POD_INFRA_CONTAINER_ID";

/// The arguments in `CNI_ARGS`: `KEY=VALUE`, separated by semicolons.
///
/// [`Display`](fmt::Display) writes them back; what it writes parses to an equal value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    /// `K8S_POD_NAMESPACE` and `K8S_POD_NAME`.
    pub pod: Option<PodKey>,
    /// `K8S_POD_UID`.
    pub pod_uid: Option<String>,
    /// `K8S_POD_INFRA_CONTAINER_ID`.
    pub infra_container: Option<String>,
    /// `IgnoreUnknown`: keys that Flock does not know are no error.
    pub ignore_unknown: bool,
    /// The keys that Flock does not know; only with `IgnoreUnknown=1`.
    pub unknown: BTreeMap<String, String>,
}

impl Args {
    /// Reads `CNI_ARGS`. Empty values count as absent; all errors are of code 4.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut pairs = pairs(text)?;
        let ignore_unknown = match pairs.remove(IGNORE_UNKNOWN) {
            None => false,
            Some(text) => flag(text)?,
        };
        let mut take = |key| pairs.remove(key).filter(|value| !value.is_empty()).map(str::to_owned);
        let (namespace, name) = (take(NAMESPACE), take(NAME));
        let (pod_uid, infra_container) = (take(UID), take(INFRA_CONTAINER));
        let unknown: BTreeMap<_, _> =
            pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        if !ignore_unknown && !unknown.is_empty() {
            let keys: Vec<_> = unknown.keys().map(|key| quoted(key).to_string()).collect();
            return Err(error(
                format!(
                    "CNI_ARGS has {}, expected only {NAMESPACE}, {NAME}, {UID} and {INFRA_CONTAINER}",
                    excerpt::line(&keys.join(", "))
                ),
                "add IgnoreUnknown=1 to pass keys that are for other plugins",
            ));
        }
        Ok(Self { pod: pod(namespace, name)?, pod_uid, infra_container, ignore_unknown, unknown })
    }
}

impl fmt::Display for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = [
            (IGNORE_UNKNOWN, self.ignore_unknown.then_some("1")),
            (NAMESPACE, self.pod.as_ref().map(PodKey::namespace)),
            (NAME, self.pod.as_ref().map(PodKey::name)),
            (INFRA_CONTAINER, self.infra_container.as_deref()),
            (UID, self.pod_uid.as_deref()),
        ];
        let own = own.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let unknown = self.unknown.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        for (index, (key, value)) in own.chain(unknown).enumerate() {
            let separator = if index == 0 { "" } else { ";" };
            write!(f, "{separator}{key}={value}")?;
        }
        Ok(())
    }
}

fn pairs(text: &str) -> Result<BTreeMap<&str, &str>, Error> {
    let mut pairs = BTreeMap::new();
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(error(
                format!("CNI_ARGS has {}, expected KEY=VALUE", quoted(pair)),
                "separate the pairs by semicolons",
            ));
        };
        if let Some(other) = pairs.insert(key, value).filter(|other| *other != value) {
            return Err(error(
                format!("CNI_ARGS has {} twice, as {} and as {}", quoted(key), quoted(other), quoted(value)),
                "pass each key once",
            ));
        }
    }
    Ok(pairs)
}

/// As libcni reads a boolean.
fn flag(text: &str) -> Result<bool, Error> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(error(
            format!("{IGNORE_UNKNOWN} in CNI_ARGS is {}, expected 1, true, 0 or false", quoted(text)),
            "correct CNI_ARGS",
        )),
    }
}

fn pod(namespace: Option<String>, name: Option<String>) -> Result<Option<PodKey>, Error> {
    match (namespace, name) {
        (None, None) => Ok(None),
        (Some(namespace), Some(name)) => PodKey::new(namespace, name)
            .map(Some)
            .map_err(|invalid| error(format!("CNI_ARGS: {invalid}"), "correct CNI_ARGS")),
        (Some(_), None) => Err(half(NAMESPACE, NAME)),
        (None, Some(_)) => Err(half(NAME, NAMESPACE)),
    }
}

fn half(there: &str, missing: &str) -> Error {
    error(
        format!("CNI_ARGS has {there} and no {missing}, expected both or neither"),
        "pass the pod's namespace and name",
    )
}

fn error(msg: String, details: &str) -> Error {
    Error::new(Code::INVALID_ENVIRONMENT, msg, details)
}
