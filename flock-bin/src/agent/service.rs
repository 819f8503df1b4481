//! What the socket answers before the node is ready, and after.
//!
//! A DEL waits for nothing: what keeps the node from being ready may last (a NodeConfig that
//! nobody applies, an API server that is away), and the runtime does not let go of a sandbox
//! before its DEL has succeeded. Until there is a handler, the agent queues a DEL as the plugin
//! does where no agent runs. The handler takes deletions as soon as it is there, beside the
//! replay of the queue, and everything else once that is done.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flock_core::client::Deadline;
use flock_core::cni::{self, Code, Operation, Verb};
use flock_core::deletions::{Deletion, DeletionQueue, QueueError, not_queued};
use flock_core::frame::{Request, Response};
use flock_core::handler::Handler;
use flock_core::server::Service;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::agent::bird_limits::BirdLimits;
use crate::agent::readiness::Readiness;

/// Plugins and the agent have the queue's lock for some milliseconds. Longer than this it is
/// only somebody's who was stopped, and more requests must not wait for that one as well. It
/// is less than what a server that shuts down waits for its requests, so that none of them
/// writes into the queue of the next agent.
const QUEUE_WAIT: Duration = Duration::from_secs(5);

/// Hands requests to the handler once there is one, and adds to its STATUS what only the
/// agent knows.
#[derive(Debug)]
pub(super) struct AgentService {
    stage: watch::Sender<Stage>,
    readiness: watch::Receiver<Readiness>,
    queue: DeletionQueue,
    bird: Option<BirdLimits>,
}

/// How far the start is.
#[derive(Debug, Clone)]
enum Stage {
    /// Nothing is known of the node; deletions are queued.
    Starting,
    /// What the last agent left is taken up; the queue is being carried out.
    Recovered(Arc<Handler>),
    Ready(Arc<Handler>),
}

impl Stage {
    /// Who carries out `verb`.
    fn handler(&self, verb: Verb) -> Option<&Arc<Handler>> {
        match self {
            Self::Ready(handler) => Some(handler),
            Self::Recovered(handler) if verb == Verb::Del => Some(handler),
            Self::Recovered(_) | Self::Starting => None,
        }
    }
}

impl AgentService {
    /// `bird` is what announces, if anything does; `readiness` says what is waited for.
    pub(super) fn new(
        bird: Option<BirdLimits>,
        readiness: watch::Receiver<Readiness>,
        queue: DeletionQueue,
    ) -> Self {
        Self { stage: watch::Sender::new(Stage::Starting), readiness, queue, bird }
    }

    /// From now on `handler` carries out deletions, and nothing more is queued: the queue
    /// can be read.
    pub(super) fn recovered(&self, handler: Arc<Handler>) {
        self.stage.send_replace(Stage::Recovered(handler));
    }

    /// From now on `handler` answers.
    pub(super) fn ready(&self, handler: Arc<Handler>) {
        self.stage.send_replace(Stage::Ready(handler));
    }

    /// The handler, where the node is ready.
    pub(super) fn current(&self) -> Option<Arc<Handler>> {
        match &*self.stage.borrow() {
            Stage::Ready(handler) => Some(Arc::clone(handler)),
            Stage::Starting | Stage::Recovered(_) => None,
        }
    }

    /// Why there is nobody yet to do what was asked for.
    pub(super) fn starting(&self, code: Code) -> cni::Error {
        let msg = match &*self.readiness.borrow() {
            Readiness::Starting { waiting_for } => format!(
                "flock-agent is starting: the node is not ready for pods yet, waiting for {waiting_for}"
            ),
            // It has become so just now, or is not going to.
            Readiness::Ready | Readiness::Stopping => "flock-agent is not ready for pods yet".to_owned(),
        };
        cni::Error::new(code, msg, "its log says more; pods are served as soon as that is there")
    }

    async fn answer(&self, request: Request) -> Result<Response, cni::Error> {
        let handler = self.stage.borrow().handler(request.verb).cloned();
        match (request.verb, handler) {
            (Verb::Status, Some(handler)) => self.status(&handler, &request).await.map(|()| Response::EMPTY),
            (Verb::Status, None) => Err(self.starting(Code::NOT_AVAILABLE)),
            (_, Some(handler)) => Ok(handler.call(request).await),
            (Verb::Del, None) => match self.queue(&request).await? {
                Some(handler) => Ok(handler.call(request).await),
                None => Ok(Response::EMPTY),
            },
            (_, None) => Err(self.starting(Code::TRY_AGAIN_LATER)),
        }
    }

    /// Queues a DEL, and returns the handler instead where there is one by now.
    async fn queue(&self, request: &Request) -> Result<Option<Arc<Handler>>, cni::Error> {
        let Operation::Attachment(call) = request.operation()? else {
            return Err(self.starting(Code::TRY_AGAIN_LATER));
        };
        let deletion = Deletion::of_this_boot(call.key, call.args.pod);
        let (queue, stage) = (self.queue.clone(), self.stage.subscribe());
        let deadline = Deadline::after(call.remaining.min(QUEUE_WAIT));
        let queued = spawn_blocking(move || {
            let queue = queue.lock(deadline)?;
            // Whoever has the lock after the replay has read the queue finds the handler
            // here: that is told before the replay takes the lock.
            let handler = stage.borrow().handler(Verb::Del).cloned();
            if handler.is_none() {
                queue.push(&deletion?)?;
            }
            Ok::<_, QueueError>(handler)
        });
        let handler = match queued.await {
            Ok(Ok(handler)) => handler,
            Ok(Err(error)) => return Err(not_queued(&self.starting(Code::TRY_AGAIN_LATER), &error.into())),
            Err(error) => return Err(cni::Error::new(Code::INTERNAL, error.to_string(), "")),
        };
        if handler.is_none() {
            tracing::info!("queued: it is carried out before the node is ready");
        }
        Ok(handler)
    }

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

#[async_trait]
impl Service for AgentService {
    async fn call(&self, request: Request) -> Response {
        self.answer(request).await.unwrap_or_else(Response::Error)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use flock_core::boot;
    use flock_core::clock::SystemClock;
    use flock_core::cni::RawCall;
    use flock_core::deletions::LockedQueue;
    use flock_core::handler::Settings;
    use flock_core::node_config::NodeConfig;
    use futures_util::FutureExt;
    use tempfile::TempDir;

    use super::*;
    use crate::agent::in_memory;

    const MINUTE: Duration = Duration::from_secs(60);

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
        let backends = in_memory::backends(Arc::new(SystemClock));
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

    struct Lab {
        run: TempDir,
        readiness: watch::Sender<Readiness>,
        service: AgentService,
    }

    impl Lab {
        fn new() -> Self {
            let run = tempfile::tempdir().unwrap();
            let readiness = watch::Sender::new(Readiness::waiting_for("NodeConfig host001: there is none"));
            let queue = DeletionQueue::of_run_dir(run.path());
            let service = AgentService::new(None, readiness.subscribe(), queue);
            Self { run, readiness, service }
        }

        async fn call(&self, verb: Verb) -> Response {
            self.service.call(request(verb, MINUTE)).await
        }

        fn locked(&self) -> LockedQueue {
            DeletionQueue::of_run_dir(self.run.path()).lock(Deadline::after(MINUTE)).unwrap()
        }

        fn queued(&self) -> Vec<Deletion> {
            let waiting = self.locked().waiting().unwrap();
            waiting.entries.into_iter().map(|entry| entry.deletion).collect()
        }
    }

    #[tokio::test]
    async fn before_there_is_a_handler_a_del_is_queued_and_all_else_refused() {
        let lab = Lab::new();
        for (verb, expected) in [
            (Verb::Add, Code::TRY_AGAIN_LATER),
            (Verb::Check, Code::TRY_AGAIN_LATER),
            (Verb::Gc, Code::TRY_AGAIN_LATER),
            (Verb::Status, Code::NOT_AVAILABLE),
        ] {
            let response = lab.service.call(request(verb, MINUTE)).now_or_never().unwrap();
            let Response::Error(error) = response else { panic!("{verb}: {response:?}") };
            assert_eq!(error.code, expected, "{verb}");
            let waits_for = "waiting for NodeConfig host001: there is none";
            assert!(error.msg.contains(waits_for), "{verb}: {error}");
        }
        for _ in 0..2 {
            assert_eq!(code(&lab.call(Verb::Del).await), None);
        }
        let queued = lab.queued();
        assert_eq!(queued.len(), 1);
        assert_eq!(queued[0].key.to_string(), "0123456789ab/eth0");
        assert_eq!(queued[0].boot_id, boot::id().unwrap());
    }

    /// The queue may have been read by then.
    #[tokio::test]
    async fn a_del_that_waited_for_the_queue_is_not_put_in_behind_the_replay() {
        let lab = Lab::new();
        let locked = lab.locked();
        let mut del = pin!(lab.call(Verb::Del));
        assert!(del.as_mut().now_or_never().is_none(), "the queue was not locked for it");
        lab.service.recovered(handler());
        drop(locked);
        assert_eq!(code(&del.await), None);
        assert_eq!(lab.queued(), []);
    }

    #[tokio::test]
    async fn beside_the_replay_deletions_are_carried_out_and_all_else_is_refused() {
        let lab = Lab::new();
        lab.service.recovered(handler());
        assert_eq!(code(&lab.call(Verb::Del).await), None);
        assert_eq!(lab.queued(), []);
        assert_eq!(code(&lab.call(Verb::Add).await), Some(Code::TRY_AGAIN_LATER));
        assert_eq!(code(&lab.call(Verb::Status).await), Some(Code::NOT_AVAILABLE));
        assert!(lab.service.current().is_none());
        lab.service.ready(handler());
        lab.readiness.send_replace(Readiness::Ready);
        assert_eq!(code(&lab.call(Verb::Status).await), None);
    }

    #[tokio::test]
    async fn a_del_that_can_not_be_queued_says_both() {
        let lab = Lab::new();
        std::fs::write(lab.run.path().join("deletions"), "").unwrap();
        let Response::Error(error) = lab.call(Verb::Del).await else { panic!("success") };
        assert_eq!(error.code, Code::TRY_AGAIN_LATER);
        for part in ["flock-agent is starting", "and the deletion can't be queued: ", "/deletions"] {
            assert!(error.msg.contains(part), "{error}");
        }
    }

    /// A plugin that was stopped has it: no request is worked on for all of its own time.
    #[tokio::test]
    async fn a_queue_that_stays_locked_is_not_waited_for_longer_than_the_runtime_waits() {
        let lab = Lab::new();
        let _locked = lab.locked();
        let response = lab.service.call(request(Verb::Del, Duration::from_millis(50))).await;
        let Response::Error(error) = response else { panic!("success") };
        assert!(error.msg.contains("another process has had the queue"), "{error}");
    }
}
