//! The agent's request server: a Unix socket on which one [`frame`](crate::frame) comes in and one
//! goes out per connection.
//!
//! Guarantees: a request that was read is answered by its [`Service`] even if the
//! runtime hangs up meanwhile; nobody but root and the agent's own user is served, which
//! is looked at before anything is read; at most one server uses a run directory.
//!
//! Nobody keeps a good client waiting, however many there are that say nothing or say it
//! byte by byte. Connections pass three stages, and each has bounds of its own:
//!
//! | stage | how many | how long | who comes when it is full |
//! |---|---|---|---|
//! | no whole request yet | [`Limits::waiting`] | [`Limits::read`] in all, not per byte | takes the place of who has waited longest |
//! | the same, but 64 KiB of it | [`Limits::large_waiting`] | the same | takes the place of who has waited longest |
//! | read, not closed yet | [`Limits::requests`], and [`Limits::large_bytes`] | its own time to answer, [`Limits::write`] to be written | is told to come back later (code 11) |
//! | of these, at work | [`Limits::work`] | the service's | waits in turn, until its own time is over (code 11) |
//! | inquiries at work | [`Limits::views`], and one REPAIR | the inspection's | waits in turn, for [`Limits::inquiry`] (code 11) |
//!
//! So memory and file descriptors have bounds too.
//!
//! Dropping the future of [`Server::run`] closes all connections, but does not cancel
//! requests that are at work.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::frame::{Inquiry, Request, Response};

mod host;
mod lobby;
mod socket;

use host::{Host, send_off};
use lobby::Lobby;
use socket::Socket;
pub use socket::{BindError, Claim};

/// Answers the plugin's requests.
#[async_trait]
pub trait Service: fmt::Debug + Send + Sync + 'static {
    /// Answers one request. It runs on a task of its own: a runtime that hangs up
    /// does not cancel it.
    async fn call(&self, request: Request) -> Response;
}

/// Answers `flock-agent check`.
#[async_trait]
pub trait Inspect: fmt::Debug + Send + Sync + 'static {
    /// Answers one inquiry. It runs on a task of its own, as a request does.
    async fn inspect(&self, inquiry: Inquiry) -> Response;
}

/// What bounds a server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many connections may be open that have not sent a whole request yet. A further
    /// one takes the place of the one that has waited longest.
    pub waiting: usize,
    /// How many requests that were read may be there at once, from being read to the end
    /// of their connection. Further ones are told to come back later.
    pub requests: usize,
    /// How many of these are worked on at once; others wait in turn, as long as their own
    /// time lasts.
    pub work: usize,
    /// How many VIEWs are answered at once, beside the requests. Others wait in turn, as
    /// do all REPAIRs but one.
    pub views: usize,
    /// How long an inquiry waits for its turn.
    pub inquiry: Duration,
    /// How many clients may have sent 64 KiB of a request and not all of it. A further one takes
    /// the place of the one that has waited longest.
    pub large_waiting: usize,
    /// How many bytes the requests of more than 64 KiB may have together, from being read to
    /// the end of their connection. Further ones are told to come back later. There is room
    /// for at least one.
    pub large_bytes: usize,
    /// How long a client may take to send its request, from being accepted to the last byte.
    pub read: Duration,
    /// How long a client may take to receive its answer.
    pub write: Duration,
    /// How long requests at work are waited for after the shutdown began.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // Together below 1024 file descriptors, which is what many systems allow.
        Self {
            waiting: 128,
            requests: 512,
            work: 256,
            views: 4,
            // Below the time that `flock-agent check` has.
            inquiry: Duration::from_secs(5),
            large_waiting: 16,
            large_bytes: 16 << 20,
            read: Duration::from_secs(5),
            write: Duration::from_secs(5),
            drain: Duration::from_secs(10),
        }
    }
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    socket: Socket,
    limits: Limits,
    /// The users that are served.
    admitted: Vec<u32>,
    inspected: Option<Arc<dyn Inspect>>,
}

impl Server {
    /// Listens on `path`, in a directory that no other server may use. It is made (mode
    /// 0700) if it is missing; one that others may look into is closed to them if it holds
    /// nothing but what is Flock's; one of another user, a symbolic link to one, /tmp, /var/lib
    /// and the like are refused. The socket of an agent that died is replaced.
    ///
    /// Must be called inside a tokio runtime. From here on clients are queued.
    pub fn bind(path: impl Into<std::path::PathBuf>) -> Result<Self, BindError> {
        let (socket, listener) = Socket::bind(path.into())?;
        let own = rustix::process::geteuid().as_raw();
        Ok(Self { listener, socket, limits: Limits::default(), admitted: vec![0, own], inspected: None })
    }

    /// Replaces the limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Has inquiries answered by `inspected`; without it they are refused.
    #[must_use]
    pub fn with_inspection(self, inspected: Arc<dyn Inspect>) -> Self {
        Self { inspected: Some(inspected), ..self }
    }

    /// Answers requests until `shutdown` is ready; then accepts no more, closes the connections of
    /// waiting clients without an answer and waits for the requests at work, no longer than
    /// [`Limits::drain`]. Returns how many were not done by then.
    ///
    /// An answer comes from an agent that lives: a DEL that gets none is queued or told to the
    /// next agent, one that is refused is for the runtime to repeat.
    pub async fn run(self, service: Arc<dyn Service>, shutdown: impl Future<Output = ()>) -> usize {
        let Self { listener, socket, limits, admitted, inspected } = self;
        let close = watch::Sender::new(false);
        let host = Arc::new(Host::new(service, inspected, limits, admitted, close.subscribe()));
        let lobby = Lobby::new(limits.waiting);
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                Some(stream) = accept(&listener, &lobby) => {
                    if let Err(error) = host.admit(&stream) {
                        send_off(&stream, &error.into());
                    } else if let Some(seat) = lobby.seat().await {
                        connections.spawn(Arc::clone(&host).serve(stream, seat));
                    }
                }
            }
        }
        // First the name, so that a new client finds no agent instead of a closed door.
        socket.remove();
        drop(listener);
        close.send_replace(true);
        let drained = timeout(limits.drain, async { while connections.join_next().await.is_some() {} });
        if drained.await.is_err() {
            warn!(unfinished = connections.len(), "requests were still at work at the end of the shutdown");
        }
        connections.len()
    }
}

async fn accept(listener: &UnixListener, lobby: &Lobby) -> Option<UnixStream> {
    match listener.accept().await {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            // Too many open files: the next attempt fails as well until one is closed.
            warn!(%error, "can't accept a connection");
            lobby.dismiss_oldest();
            sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Code;
    use crate::frame;

    #[derive(Debug)]
    struct Never;

    #[async_trait]
    impl Service for Never {
        async fn call(&self, _request: Request) -> Response {
            panic!("a refused client reached the service")
        }
    }

    #[tokio::test]
    async fn only_root_and_the_own_user_are_admitted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flock.sock");
        let mut server = Server::bind(&path).unwrap();
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(server.admitted, [0, own]);
        // As if this test were another user.
        server.admitted = vec![own + 1];
        let server = tokio::spawn(server.run(Arc::new(Never), std::future::pending()));
        let stream = UnixStream::connect(&path).await.unwrap();
        let json = frame::read_async(stream).await.unwrap();
        let Response::Error(error) = Response::from_json(&json).unwrap() else { panic!("not refused") };
        assert_eq!(error.code, Code::DENIED);
        let expected = format!("the request comes from user {own}, expected root or the agent's own user");
        assert_eq!(error.msg, expected);
        server.abort();
    }
}
