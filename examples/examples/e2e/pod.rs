//! Pods of the cluster, made through the API as users make them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use flock_examples::cluster::Cluster;
use flock_examples::cluster::image::BUSYBOX;
use flock_examples::deadline::{Probe, until};
use flock_examples::netns::Netns;
use flock_examples::{LabError, Result};
use serde_json::{Value, json};

use crate::flock::Holdings;
use crate::http;

/// Where the scenarios' pods are.
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
/// The group of Flock's annotations.
pub(crate) const GROUP: &str = "flock.fritzlab.net";
/// From a pod's creation to its being ready, on a machine that is busy.
pub(crate) const START: Duration = Duration::from_secs(60);
/// From a pod's deletion to its being gone.
pub(crate) const END: Duration = Duration::from_secs(60);

/// What a pod is to be.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    manifest: Value,
}

impl Wanted {
    /// A pod that serves its name by HTTP.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            manifest: json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
                "spec": spec(),
            }),
        }
    }

    /// On this node, by the scheduler.
    pub(crate) fn on(mut self, node: &str) -> Self {
        self.manifest["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        self
    }

    /// With an annotation of Flock's.
    pub(crate) fn annotation(self, key: &str, value: &str) -> Self {
        self.foreign_annotation(&format!("{GROUP}/{key}"), value)
    }

    /// With an annotation under its full key.
    pub(crate) fn foreign_annotation(mut self, key: &str, value: &str) -> Self {
        self.manifest["metadata"]["annotations"][key] = value.into();
        self
    }

    /// With this label.
    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.manifest["metadata"]["labels"][key] = value.into();
        self
    }

    /// Its port 80 is also one of the node's.
    pub(crate) fn host_port(mut self, port: u16) -> Self {
        self.manifest["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": port}]);
        self
    }

    /// As an object.
    pub(crate) fn manifest(&self) -> &Value {
        &self.manifest
    }

    /// Asks for it.
    pub(crate) fn create(&self, cluster: &Cluster) -> Result<()> {
        cluster.api().create(PODS, &self.manifest).map(drop)
    }

    /// Asks for it and waits until it is ready.
    pub(crate) fn start(&self, cluster: &Cluster) -> Result<Pod> {
        self.create(cluster)?;
        Pod::ready(cluster, self.name())
    }

    fn name(&self) -> &str {
        self.manifest["metadata"]["name"].as_str().unwrap_or_default()
    }
}

/// The specification of all these pods.
pub(crate) fn spec() -> Value {
    json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never"}],
    })
}

/// A pod that is ready.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    /// As the API says them.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Pod {
    /// Waits until a pod is ready.
    pub(crate) fn ready(cluster: &Cluster, name: &str) -> Result<Self> {
        let api = cluster.api();
        until(&format!("the pod {name} to be ready"), START, || {
            let answer = api.request("GET", &format!("{PODS}/{name}"), None)?;
            match Self::read(&answer.body) {
                Some(pod) if is_ready(&answer.body) => Ok(Probe::Done(pod)),
                _ => Ok(Probe::Waiting(why(&api.list(&events_of(name))?, &answer.body))),
            }
        })
    }

    /// From the API's object.
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let addresses = object.pointer("/status/podIPs")?.as_array()?;
        Some(Self {
            name: object["metadata"]["name"].as_str()?.to_owned(),
            uid: object["metadata"]["uid"].as_str()?.to_owned(),
            node: object["spec"]["nodeName"].as_str()?.to_owned(),
            addresses: addresses.iter().filter_map(|entry| entry["ip"].as_str()?.parse().ok()).collect(),
        })
    }

    /// Its address of a family.
    pub(crate) fn address(&self, ipv6: bool) -> Result<IpAddr> {
        let found = self.addresses.iter().find(|address| address.is_ipv6() == ipv6);
        found.copied().ok_or_else(|| {
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            LabError::Unexpected(format!(
                "{} has {:?}, expected an {family} address",
                self.name, self.addresses
            ))
        })
    }

    /// Its network, as its node's runtime has it.
    pub(crate) fn netns(&self, cluster: &Cluster) -> Result<Netns> {
        let machine = cluster.machine(&self.node)?;
        let task = machine.task(&format!("labels.\"io.kubernetes.pod.uid\"=={}", self.uid))?;
        let task = task.ok_or_else(|| {
            LabError::Unexpected(format!("{} on {} has no running container", self.name, self.node))
        })?;
        Ok(Netns::of_others(&self.name, &PathBuf::from(format!("/proc/{}/ns/net", task.pid()))))
    }

    /// Deletes it. The kubelet of this Kubernetes tells the API up to ten seconds after the
    /// pod is gone from its node that it is: wait for what is to be seen of that instead.
    pub(crate) fn delete(&self, cluster: &Cluster) -> Result<()> {
        cluster.api().delete(&format!("{PODS}/{}", self.name))
    }
}

/// Deletes all pods of the scenarios, and waits until the nodes hold nothing of them.
pub(crate) fn delete_all(cluster: &Cluster) -> Result<()> {
    cluster.api().delete(&format!("{PODS}?gracePeriodSeconds=0"))?;
    cluster.machines.iter().try_for_each(|machine| Holdings::default().are_those_of(machine, END))
}

/// The events about one pod.
pub(crate) fn events_of(name: &str) -> String {
    format!("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name={name}")
}

/// Of an object of the API.
pub(crate) fn is_ready(object: &Value) -> bool {
    condition(object, "Ready").is_some_and(|condition| condition["status"] == "True")
}

/// One of the conditions of an object of the API.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)
}

fn why(events: &[Value], object: &Value) -> String {
    let messages = events.iter().filter(|event| event["type"] == "Warning");
    let last = messages.filter_map(|event| event["message"].as_str()).next_back();
    last.map_or_else(|| object["status"].to_string(), str::to_owned)
}

/// The name that a pod serves at an address and port.
pub(crate) fn served_name(from: &Netns, address: IpAddr, port: u16) -> Result<String> {
    let answer = http::get(from, (address, port), "/", 2)?;
    Ok(answer.body.trim().to_owned())
}

/// Labels of a kind in one line, for queries.
pub(crate) fn selector(labels: &[(&str, &str)]) -> String {
    let labels: BTreeMap<_, _> = labels.iter().copied().collect();
    let parts: Vec<String> = labels.iter().map(|(key, value)| format!("{key}%3D{value}")).collect();
    format!("labelSelector={}", parts.join("%2C"))
}
