//! What the socket answers before the node is ready, and after.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flock_core::cni::{self, Code, Verb};
use flock_core::frame::{Request, Response};
use flock_core::handler::Handler;
use flock_core::server::Service;
use tokio::sync::watch;

use crate::agent::bird_limits::BirdLimits;

/// Hands requests to the handler once there is one, and adds to its STATUS what only the
/// agent knows.
#[derive(Debug)]
pub(super) struct AgentService {
    handler: watch::Sender<Option<Arc<Handler>>>,
    closing: watch::Receiver<bool>,
    bird: Option<BirdLimits>,
}

impl AgentService {
    /// `bird` is what announces, if anything does. Once `closing` is true, nobody finds the
    /// agent any more.
    pub(super) fn new(bird: Option<BirdLimits>, closing: watch::Receiver<bool>) -> Self {
        Self { handler: watch::Sender::new(None), closing, bird }
    }

    /// From now on `handler` answers.
    pub(super) fn ready(&self, handler: Arc<Handler>) {
        self.handler.send_replace(Some(handler));
    }

    /// The handler, where there is one already.
    pub(super) fn current(&self) -> Option<Arc<Handler>> {
        self.handler.borrow().clone()
    }

    /// The handler. A DEL must not be lost, so it waits for the start to end as long
    /// as its runtime and the agent do; everything else is to come again.
    async fn handler(&self, request: &Request) -> Option<Arc<Handler>> {
        let mut handler = self.handler.subscribe();
        if request.verb != Verb::Del {
            return handler.borrow_and_update().clone();
        }
        let deadline = Instant::now() + Duration::from_millis(request.remaining_ms);
        let mut closing = self.closing.clone();
        tokio::select! {
            biased;
            ready = handler.wait_for(Option::is_some) => ready.ok()?.clone(),
            // The plugin finds no agent then, and queues the deletion.
            _ = closing.wait_for(|closing| *closing) => None,
            () = tokio::time::sleep_until(deadline.into()) => None,
        }
    }
}

#[async_trait]
impl Service for AgentService {
    async fn call(&self, request: Request) -> Response {
        match self.handler(&request).await {
            Some(handler) if request.verb == Verb::Status => {
                let answer = self.status(&handler, &request).await;
                answer.map_or_else(Response::Error, |()| Response::EMPTY)
            }
            Some(handler) => handler.call(request).await,
            None if request.verb == Verb::Status => Response::Error(starting(Code::NOT_AVAILABLE)),
            None => Response::Error(starting(Code::TRY_AGAIN_LATER)),
        }
    }
}

impl AgentService {
    async fn status(&self, handler: &Handler, request: &Request) -> Result<(), cni::Error> {
        // What is wrong with the configuration comes first, as for every verb.
        request.operation()?;
        let status = handler.status().await;
        let mut status = status.map_err(|error| cni::Error { code: Code::NOT_AVAILABLE, ..error.into() })?;
        if let Some(bird) = &self.bird {
            status.limits.extend(bird.reason().await);
        }
        status.answer()
    }
}

pub(super) fn starting(code: Code) -> cni::Error {
    cni::Error::new(
        code,
        "flock-agent is starting: the node is not ready for pods yet",
        "its log says what it waits for, for example the node's NodeConfig",
    )
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use flock_core::announcer::MemoryAnnouncer;
    use flock_core::clock::SystemClock;
    use flock_core::cni::RawCall;
    use flock_core::dataplane::MemoryDataplane;
    use flock_core::handler::{Backends, Settings};
    use flock_core::ipam::MemoryIpam;
    use flock_core::node_config::NodeConfig;
    use flock_core::store::MemoryStore;
    use futures_util::FutureExt;

    use super::*;
    use crate::agent::pods::PlainPods;

    fn request(verb: Verb, remaining: Duration) -> Request {
        let raw = RawCall {
            verb,
            container_id: "0123456789ab",
            ifname: "eth0",
            netns: "/run/netns/pod1",
            config: br#"{"cniVersion": "1.1.0", "name": "flock", "type": "flock"}"#,
            remaining,
            ..RawCall::default()
        };
        Request::new(&raw).unwrap()
    }

    fn handler() -> Arc<Handler> {
        let clock = Arc::new(SystemClock);
        let backends = Backends {
            ipam: Arc::new(MemoryIpam::new(clock.clone(), Duration::ZERO, 0)),
            store: Arc::new(MemoryStore::new()),
            dataplane: Arc::new(MemoryDataplane::new()),
            announcer: Arc::new(MemoryAnnouncer::new()),
            pods: Arc::new(PlainPods),
            clock,
        };
        let config = NodeConfig::from_yaml(
            "{apiVersion: flock.fritzlab.net/v1alpha1, kind: NodeConfig, metadata: {name: host001}, \
             spec: {cidr4: 10.0.1.0/24}}",
            "test",
        );
        Arc::new(Handler::new(backends, config.unwrap(), Settings::new("boot-1")))
    }

    fn code(response: &Response) -> Option<Code> {
        match response {
            Response::Error(error) => Some(error.code),
            Response::Result(_) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn before_the_node_is_ready_only_del_waits() {
        let (_close, closing) = watch::channel(false);
        let service = AgentService::new(None, closing);
        let minute = Duration::from_secs(60);
        for (verb, expected) in [
            (Verb::Add, Code::TRY_AGAIN_LATER),
            (Verb::Check, Code::TRY_AGAIN_LATER),
            (Verb::Status, Code::NOT_AVAILABLE),
        ] {
            let response = service.call(request(verb, minute)).now_or_never().unwrap();
            assert_eq!(code(&response), Some(expected), "{verb}");
        }
        let mut del = pin!(service.call(request(Verb::Del, minute)));
        assert!(del.as_mut().now_or_never().is_none(), "DEL did not wait");
        service.ready(handler());
        assert_eq!(code(&del.await), None);
        assert_eq!(code(&service.call(request(Verb::Status, minute)).await), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_del_does_not_hold_up_an_agent_that_ends() {
        let (close, closing) = watch::channel(false);
        let service = AgentService::new(None, closing);
        let mut del = pin!(service.call(request(Verb::Del, Duration::from_secs(60))));
        assert!(del.as_mut().now_or_never().is_none(), "DEL did not wait");
        close.send_replace(true);
        assert_eq!(code(&del.now_or_never().unwrap()), Some(Code::TRY_AGAIN_LATER));
    }

    #[tokio::test(start_paused = true)]
    async fn a_del_waits_no_longer_than_its_runtime() {
        let (_close, closing) = watch::channel(false);
        let service = AgentService::new(None, closing);
        let response = service.call(request(Verb::Del, Duration::from_secs(1))).await;
        assert_eq!(code(&response), Some(Code::TRY_AGAIN_LATER));
    }
}
