//! What the agent does beside serving requests, each in a task of its own.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

use crate::agent::AgentError;

/// Tasks that go on until the agent ends. One that ends earlier takes the agent with it: without
/// it, the others would seem to be well, and their work would not be done.
pub(super) struct Tasks {
    stop: watch::Sender<bool>,
    /// Each with what it is, for people.
    running: Vec<(&'static str, JoinHandle<()>)>,
}

impl Tasks {
    pub(super) fn new() -> Self {
        Self { stop: watch::Sender::new(false), running: Vec::new() }
    }

    pub(super) fn spawn(&mut self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.running.push((what, tokio::spawn(task)));
    }

    /// Ready when the tasks are to end.
    pub(super) fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.stop.subscribe();
        async move {
            // An error means that the sender is gone, which is a stop as well.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }

    /// Ready when one of the tasks has ended, which none should. Cancel safe.
    pub(super) async fn ended(&mut self) -> AgentError {
        let (at, outcome) = poll_fn(|context| {
            let mut tasks = self.running.iter_mut().enumerate();
            let ended = tasks.find_map(|(at, (_, task))| match Pin::new(task).poll(context) {
                Poll::Ready(outcome) => Some((at, outcome)),
                Poll::Pending => None,
            });
            ended.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        let (what, _) = self.running.swap_remove(at);
        AgentError::Ended { what, why: reason(outcome) }
    }

    /// Has all of them end, and waits for it.
    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        for (what, task) in self.running {
            if let Err(error) = task.await {
                tracing::error!(%error, what, "ended badly");
            }
        }
    }
}

fn reason(outcome: Result<(), JoinError>) -> String {
    outcome.err().map_or_else(|| "it returned".to_owned(), |error| error.to_string())
}
