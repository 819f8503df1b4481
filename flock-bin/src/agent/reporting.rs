//! A service that tells the cluster of each ADD that failed.

use std::sync::Arc;

use async_trait::async_trait;
use flock_core::cni::{self, Args, Verb};
use flock_core::frame::{Request, Response};
use flock_core::name::PodKey;
use flock_core::server::Service;
use flock_k8s::events::{Event, Events, Severity};
use tokio::sync::watch;

use crate::agent::readiness::Readiness;

/// What went wrong, in the word that programs look for.
const REASON: &str = "FailedAttach";

/// Passes requests on; an ADD that fails for a pod is an Event of that pod. Nothing waits for that.
///
/// That the node is not ready yet is no Event of each of its pods: the node says so, and the
/// kubelet tells the pods.
#[derive(Debug)]
pub(super) struct ReportingService {
    inner: Arc<dyn Service>,
    events: Events,
    readiness: watch::Receiver<Readiness>,
}

impl ReportingService {
    pub(super) fn new(
        inner: Arc<dyn Service>,
        events: Events,
        readiness: watch::Receiver<Readiness>,
    ) -> Self {
        Self { inner, events, readiness }
    }
}

#[async_trait]
impl Service for ReportingService {
    async fn call(&self, request: Request) -> Response {
        let is_ready = *self.readiness.borrow() == Readiness::Ready;
        let pod = pod_to_tell(&request).filter(|_| is_ready);
        let response = self.inner.call(request).await;
        if let (Some((pod, uid)), Response::Error(error)) = (pod, &response) {
            self.events.pod(&pod, uid.as_deref(), event(error));
        }
        response
    }
}

/// Whom to tell if the request fails. A DEL is repeated until it succeeds, and nobody waits for it.
fn pod_to_tell(request: &Request) -> Option<(PodKey, Option<String>)> {
    if request.verb != Verb::Add {
        return None;
    }
    let args = Args::parse(&request.args).ok()?;
    Some((args.pod?, args.pod_uid))
}

fn event(error: &cni::Error) -> Event {
    let message = if error.details.is_empty() {
        error.msg.clone()
    } else {
        format!("{}: {}", error.msg, error.details)
    };
    Event { severity: Severity::Warning, reason: REASON, message }
}

#[cfg(test)]
mod tests {
    use flock_core::cni::{Code, RawCall};

    use super::*;

    fn request(verb: Verb, args: &str) -> Request {
        let raw = RawCall { verb, args, config: b"{}", ..RawCall::default() };
        Request::new(&raw).unwrap()
    }

    #[test]
    fn only_an_add_of_a_pod_has_somebody_to_tell() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u1";
        let told = pod_to_tell(&request(Verb::Add, args));
        assert_eq!(told, Some((PodKey::new("default", "web-0").unwrap(), Some("u1".to_owned()))));
        assert_eq!(pod_to_tell(&request(Verb::Del, args)), None);
        assert_eq!(pod_to_tell(&request(Verb::Check, args)), None);
        assert_eq!(pod_to_tell(&request(Verb::Add, "")), None);
        assert_eq!(pod_to_tell(&request(Verb::Add, "nonsense")), None);
    }

    #[test]
    fn the_event_says_what_the_runtime_is_told() {
        let error = cni::Error::new(Code::INVALID_CONFIG, "ipv4 is x", "expected true or false");
        assert_eq!(event(&error).message, "ipv4 is x: expected true or false");
    }
}
