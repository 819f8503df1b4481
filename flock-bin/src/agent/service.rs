//! What the socket answers before the node is ready, and after.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flock_core::cni::{self, Code, Verb};
use flock_core::frame::{Request, Response};
use flock_core::handler::Handler;
use flock_core::server::Service;
use tokio::sync::watch;

/// Hands requests to the handler once there is one.
#[derive(Debug)]
pub(super) struct AgentService {
    handler: watch::Sender<Option<Arc<Handler>>>,
}

impl AgentService {
    pub(super) fn new() -> Self {
        Self { handler: watch::Sender::new(None) }
    }

    /// From now on `handler` answers.
    pub(super) fn ready(&self, handler: Arc<Handler>) {
        self.handler.send_replace(Some(handler));
    }

    /// The handler. A DEL must not be lost, so it waits for the start to end as long
    /// as its runtime does; everything else is to come again.
    async fn handler(&self, request: &Request) -> Option<Arc<Handler>> {
        let mut handler = self.handler.subscribe();
        if request.verb != Verb::Del {
            return handler.borrow_and_update().clone();
        }
        let deadline = Instant::now() + Duration::from_millis(request.remaining_ms);
        let ready = tokio::time::timeout_at(deadline.into(), handler.wait_for(Option::is_some));
        ready.await.ok()?.ok()?.clone()
    }
}

#[async_trait]
impl Service for AgentService {
    async fn call(&self, request: Request) -> Response {
        match self.handler(&request).await {
            Some(handler) => handler.call(request).await,
            None => Response::Error(starting(request.verb)),
        }
    }
}

fn starting(verb: Verb) -> cni::Error {
    let code = if verb == Verb::Status { Code::NOT_AVAILABLE } else { Code::TRY_AGAIN_LATER };
    cni::Error::new(
        code,
        "flock-agent is starting: the node is not ready for pods yet",
        "its log says what it waits for, for example the node's NodeConfig",
    )
}
