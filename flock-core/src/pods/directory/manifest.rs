//! What is read of a manifest.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::pods::PodState;

/// What a file holds.
#[derive(Debug)]
pub(super) struct Manifests {
    pub(super) pods: Vec<PodManifest>,
    /// Not a word: whoever writes it has not come to that yet.
    pub(super) blank: bool,
}

/// A pod as a file describes it.
#[derive(Debug)]
pub(super) struct PodManifest {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Option<String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) state: PodState,
}

/// Read first: what other kinds hold is not Flock's to judge.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    kind: String,
    #[serde(default)]
    items: Option<Vec<Value>>,
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    status: Value,
}

/// A pod within a `PodList`, where the kind goes without saying.
#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    status: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    deletion_timestamp: Option<Value>,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

/// What is in these bytes, or what is wrong with them in words.
pub(super) fn read(bytes: &[u8]) -> Result<Manifests, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("is not UTF-8: {error}"))?;
    Ok(Manifests { pods: parse(text)?, blank: text.trim().is_empty() })
}

fn parse(text: &str) -> Result<Vec<PodManifest>, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    let documents: Vec<Option<Value>> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| format!("is not YAML or JSON: {error}"))?;
    let mut pods = Vec::new();
    for document in documents.into_iter().flatten() {
        collect(document, &mut pods)?;
    }
    Ok(pods)
}

fn collect(document: Value, pods: &mut Vec<PodManifest>) -> Result<(), String> {
    if document.is_null() {
        return Ok(());
    }
    let object: Object =
        serde_json::from_value(document).map_err(|error| format!("is not a Kubernetes object: {error}"))?;
    let items = object.items.unwrap_or_default();
    match object.kind.as_str() {
        "Pod" => pods.push(pod(object.metadata, object.status)?),
        "List" => {
            for item in items {
                collect(item, pods)?;
            }
        }
        "PodList" => {
            for item in items {
                let item: Item = serde_json::from_value(item)
                    .map_err(|error| format!("has a PodList with a wrong item: {error}"))?;
                pods.push(pod(item.metadata, item.status)?);
            }
        }
        _ => {}
    }
    Ok(())
}

fn pod(metadata: Value, status: Value) -> Result<PodManifest, String> {
    let metadata: Metadata = serde_json::from_value(metadata)
        .map_err(|error| format!("has a Pod with wrong metadata: {error}"))?;
    let mut annotations = BTreeMap::new();
    for (key, value) in metadata.annotations.unwrap_or_default() {
        let Value::String(value) = value else {
            return Err(format!(
                "has a Pod {:?} whose annotation {key} is {value}, expected a string; put it in quotes",
                metadata.name
            ));
        };
        annotations.insert(key, value);
    }
    let state = match metadata.deletion_timestamp {
        Some(_) => PodState::Terminating,
        None => readiness(&metadata.name, status)?,
    };
    Ok(PodManifest {
        namespace: metadata.namespace.unwrap_or_else(|| "default".to_owned()),
        name: metadata.name,
        uid: metadata.uid,
        annotations,
        state,
    })
}

/// A manifest that people write has no status, or the empty one that
/// `kubectl create --dry-run` puts there: its pod serves.
fn readiness(name: &str, status: Value) -> Result<PodState, String> {
    if status.is_null() || status.as_object().is_some_and(serde_json::Map::is_empty) {
        return Ok(PodState::Ready);
    }
    let status: Status = serde_json::from_value(status)
        .map_err(|error| format!("has a Pod {name:?} with a wrong status: {error}"))?;
    let is_true = |condition: &Condition| condition.r#type == "Ready" && condition.status == "True";
    let ready = status.conditions.unwrap_or_default().iter().any(is_true);
    Ok(if ready { PodState::Ready } else { PodState::NotReady })
}
