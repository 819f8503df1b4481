//! The objects, and how they came to be.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// All objects by the path of their kind, namespace and name; and every change.
#[derive(Default)]
pub struct Store {
    objects: BTreeMap<(String, String, String), Value>,
    log: Vec<Event>,
    version: u64,
    compacted: u64,
}

/// A change of an object.
#[derive(Debug, Clone)]
pub struct Event {
    pub collection: String,
    pub kind: &'static str,
    pub object: Value,
    version: u64,
}

impl Event {
    pub fn json(&self) -> Value {
        json!({"type": self.kind, "object": self.object})
    }
}

impl Store {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn compact(&mut self) {
        self.version += 1;
        self.compacted = self.version;
        self.log.clear();
    }

    pub fn put(&mut self, collection: &str, mut object: Value) -> Event {
        let name = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let key = (collection.to_owned(), name("namespace"), name("name"));
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", self.version).into();
        }
        let kind = match self.objects.insert(key, object.clone()) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        self.happened(collection, kind, object)
    }

    pub fn delete(&mut self, collection: &str, namespace: &str, name: &str) -> Event {
        let key = (collection.to_owned(), namespace.to_owned(), name.to_owned());
        let mut object = self.objects.remove(&key).unwrap_or_else(|| panic!("there is no {key:?}"));
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.happened(collection, "DELETED", object)
    }

    fn happened(&mut self, collection: &str, kind: &'static str, object: Value) -> Event {
        let event = Event { collection: collection.to_owned(), kind, object, version: self.version };
        self.log.push(event.clone());
        event
    }

    /// Those of a kind that a field selector lets through.
    pub fn list(&self, collection: &str, fields: &str) -> Vec<Value> {
        self.all(collection).into_iter().filter(|object| selects(fields, object)).collect()
    }

    /// All of a kind.
    pub fn all(&self, collection: &str) -> Vec<Value> {
        let of_kind = self.objects.iter().filter(|((of, ..), _)| of == collection);
        of_kind.map(|(_, object)| object.clone()).collect()
    }

    /// The changes after `version`, if they are still known.
    pub fn since(&self, collection: &str, fields: &str, version: u64) -> Option<Vec<Event>> {
        (version >= self.compacted).then(|| {
            let wanted = |event: &&Event| {
                event.version > version && event.collection == collection && selects(fields, &event.object)
            };
            self.log.iter().filter(wanted).cloned().collect()
        })
    }

    /// The object whose own path this is.
    pub fn at(&self, path: &str) -> Option<&Value> {
        self.objects.get(&key_of(path))
    }

    pub fn create(&mut self, path: &str, mut object: Value) -> Event {
        let (collection, _) = without_namespace(path);
        if let Some(base) = object["metadata"]["generateName"].as_str() {
            object["metadata"]["name"] = format!("{base}{}", self.version).into();
        }
        self.put(&collection, object)
    }

    /// As RFC 6902, RFC 7386, or Kubernetes' strategic merge, for what Flock sends.
    pub fn patch(&mut self, path: &str, content_type: &str, sent: &Value) -> Result<Event, (u16, String)> {
        let subresource = path.strip_suffix("/status");
        let key = key_of(subresource.unwrap_or(path));
        let Some(old) = self.objects.get(&key) else { return Err((404, format!("{path} not found"))) };
        let mut new = old.clone();
        match content_type {
            "application/json-patch+json" => {
                let steps: json_patch::Patch = serde_json::from_value(sent.clone()).unwrap();
                json_patch::patch(&mut new, &steps).map_err(|error| (422, error.to_string()))?;
            }
            "application/merge-patch+json" => json_patch::merge(&mut new, sent),
            "application/strategic-merge-patch+json" => merge_conditions(&mut new, sent),
            other => panic!("the fake has no {other}"),
        }
        // The subresource changes the status only, the object itself all but the status.
        let status = if subresource.is_some() { &new["status"] } else { &old["status"] };
        let mut result = if subresource.is_some() { old.clone() } else { new.clone() };
        if status.is_null() {
            result.as_object_mut().unwrap().remove("status");
        } else {
            result["status"] = status.clone();
        }
        Ok(self.put(&key.0, result))
    }
}

/// Conditions are merged by their type; nothing else is in the patches.
fn merge_conditions(object: &mut Value, patch: &Value) {
    if object["status"]["conditions"].is_null() {
        object["status"]["conditions"] = json!([]);
    }
    let conditions = object["status"]["conditions"].as_array_mut().unwrap();
    for new in patch["status"]["conditions"].as_array().unwrap() {
        match conditions.iter_mut().find(|old| old["type"] == new["type"]) {
            Some(old) => json_patch::merge(old, new),
            None => conditions.push(new.clone()),
        }
    }
}

/// The path of the kind, and the namespace.
fn without_namespace(path: &str) -> (String, String) {
    match path.split_once("/namespaces/") {
        None => (path.to_owned(), String::new()),
        Some((before, after)) => {
            let (namespace, kind) = after.split_once('/').unwrap();
            (format!("{before}/{kind}"), namespace.to_owned())
        }
    }
}

fn key_of(path: &str) -> (String, String, String) {
    let (parent, name) = path.rsplit_once('/').unwrap();
    let (collection, namespace) = without_namespace(parent);
    (collection, namespace, name.to_owned())
}

/// `spec.nodeName=host001,metadata.name=x`
pub fn selects(fields: &str, object: &Value) -> bool {
    fields.split(',').all(|field| {
        let (path, value) = field.split_once('=').unwrap();
        path.split('.').fold(object, |object, key| &object[key]) == value
    })
}
