//! The contract of PodSource, over the watch.

use async_trait::async_trait;
use flock_core::name::PodKey;
use flock_core::pods::conformance::PodsHarness;
use flock_core::pods::{PodInfo, PodSource, PodState};
use flock_k8s::pods::KubePods;
use serde_json::{Value, json};

use crate::fake::FakeApi;

const PODS: &str = "/api/v1/pods";

struct Harness {
    api: FakeApi,
    pods: KubePods,
}

impl Harness {
    async fn new() -> Self {
        let api = FakeApi::new();
        let pods = api.cluster().pods_keeping(|_| true);
        pods.synced().await;
        Self { api, pods }
    }

    fn there(&self, key: &PodKey) -> Option<Value> {
        let path = format!("/api/v1/namespaces/{}/pods/{}", key.namespace(), key.name());
        self.api.see(|state| state.store.at(&path).cloned())
    }
}

#[async_trait]
impl PodsHarness for Harness {
    fn source(&self) -> &dyn PodSource {
        &self.pods
    }

    async fn apply(&self, key: &PodKey, info: &PodInfo) {
        if self.there(key).is_some_and(|there| there["metadata"]["uid"].as_str() != info.uid.as_deref()) {
            self.remove(key).await;
        }
        let status = if info.state == PodState::Ready { "True" } else { "False" };
        self.api.put(
            PODS,
            json!({
                "metadata": {
                    "namespace": key.namespace(), "name": key.name(), "uid": info.uid,
                    "annotations": info.annotations,
                },
                "spec": {"nodeName": "host001"},
                "status": {"conditions": [{"type": "Ready", "status": status}]},
            }),
        );
    }

    async fn remove(&self, key: &PodKey) {
        self.api.delete(PODS, key.namespace(), key.name());
    }

    async fn terminate(&self, key: &PodKey) -> bool {
        let mut pod = self.there(key).unwrap();
        pod["metadata"]["deletionTimestamp"] = "2001-02-03T04:05:06Z".into();
        self.api.put(PODS, pod);
        true
    }
}

flock_core::pods_conformance!(Harness::new().await);
