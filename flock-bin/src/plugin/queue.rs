//! DEL where no agent runs: it is queued, and the next agent carries it out.

use std::path::Path;

use flock_core::attachment::AttachmentKey;
use flock_core::client::{self, ClientError, Deadline, SOCKET_NAME};
use flock_core::cni::{Args, Error};
use flock_core::deletions::{Deletion, DeletionQueue, not_queued};
use flock_core::frame::{Request, Response};

/// What came of a request.
pub(super) enum Answer {
    /// The agent's.
    Agents(Response),
    /// It is queued; what people are told.
    Queued(String),
}

/// An agent may come and go while it is asked, but not again and again.
const ATTEMPTS: usize = 5;

/// Where the deletion of one attachment can wait.
pub(super) struct Queue<'a> {
    pub(super) run_dir: &'a Path,
    pub(super) key: AttachmentKey,
    /// `CNI_ARGS`.
    pub(super) args: &'a str,
}

impl Queue<'_> {
    /// Asks the agent; where none runs, or where it ends in the middle, queues the deletion.
    pub(super) fn call_or_queue(&self, request: &Request, deadline: Deadline) -> Result<Answer, Error> {
        let socket = self.run_dir.join(SOCKET_NAME);
        let mut attempts = 1;
        loop {
            let error = match client::call(&socket, request.clone(), deadline) {
                Ok(response) => return Ok(Answer::Agents(response)),
                Err(error @ (ClientError::NotRunning { .. } | ClientError::Closed { .. })) => error.into(),
                Err(error) => return Err(error.into()),
            };
            match self.queue(&socket, deadline) {
                Ok(true) => return Ok(Answer::Queued(self.notice(&error))),
                // An agent listens by now.
                Ok(false) if attempts < ATTEMPTS => attempts += 1,
                Ok(false) => return Err(error),
                Err(queue) => return Err(not_queued(&error, &queue)),
            }
        }
    }

    /// Whether the deletion is queued; `false` if there is an agent to ask instead.
    fn queue(&self, socket: &Path, deadline: Deadline) -> Result<bool, Error> {
        let queue = DeletionQueue::of_run_dir(self.run_dir).lock(deadline)?;
        if client::is_listening(socket)? {
            return Ok(false);
        }
        let pod = Args::parse(self.args).ok().and_then(|args| args.pod);
        queue.push(&Deletion::of_this_boot(self.key.clone(), pod)?)?;
        Ok(true)
    }

    fn notice(&self, error: &Error) -> String {
        let queue = DeletionQueue::of_run_dir(self.run_dir);
        format!(
            "flock: {}; the deletion of {} waits in {} and is carried out when flock-agent starts\n",
            error.msg,
            self.key,
            queue.path().display()
        )
    }
}
