//! The agent's request server: a Unix socket on which one [`frame`] comes in and one
//! goes out per connection.
//!
//! Guarantees: a request that was read is answered by its [`Service`] even if the
//! runtime hangs up meanwhile; a client that sends nothing is dropped after
//! [`Limits::read`]; nobody but root and the agent's own user is served; at most one
//! server uses a run directory.
//!
//! Dropping the future of [`Server::run`] closes all connections, but does not cancel
//! requests that are at work.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{Instrument, Span, debug, info_span, warn};

use crate::cni::{Args, Code, Error};
use crate::frame::{self, FrameError, HEADER_LEN, Request, Response};

mod socket;

pub use socket::BindError;
use socket::Socket;

/// Answers the plugin's requests.
#[async_trait]
pub trait Service: fmt::Debug + Send + Sync + 'static {
    /// Answers one request. It runs on a task of its own: a runtime that hangs up
    /// does not cancel it.
    async fn call(&self, request: Request) -> Response;
}

/// What bounds a server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many connections are open at once; further ones wait to be accepted.
    pub connections: usize,
    /// How long a client may take to send its request.
    pub read: Duration,
    /// How long a client may take to receive its answer.
    pub write: Duration,
    /// How long requests at work are waited for after the shutdown began.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
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
}

impl Server {
    /// Listens on `path`, in a directory that is made (mode 0700) if it is missing and
    /// that no other server may use. The socket of an agent that died is replaced.
    ///
    /// Must be called inside a tokio runtime. From here on clients are queued.
    pub fn bind(path: impl Into<std::path::PathBuf>) -> Result<Self, BindError> {
        let (socket, listener) = Socket::bind(path.into())?;
        let own = rustix::process::geteuid().as_raw();
        Ok(Self { listener, socket, limits: Limits::default(), admitted: vec![0, own] })
    }

    /// Replaces the limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Answers requests until `shutdown` is ready; then accepts no more, tells waiting
    /// clients to come back later and waits for the requests at work, no longer than
    /// [`Limits::drain`]. Returns how many were not done by then.
    pub async fn run(self, service: Arc<dyn Service>, shutdown: impl Future<Output = ()>) -> usize {
        let Self { listener, socket, limits, admitted } = self;
        let (close, closing) = watch::channel(false);
        let host = Arc::new(Host { service, limits, admitted, closing });
        let slots = Arc::new(Semaphore::new(limits.connections));
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                Some((slot, stream)) = accept(&listener, &slots) => {
                    connections.spawn(Arc::clone(&host).serve(stream, slot));
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

/// The next client, as soon as there is a slot for it.
async fn accept(
    listener: &UnixListener,
    slots: &Arc<Semaphore>,
) -> Option<(OwnedSemaphorePermit, UnixStream)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((slot, stream)),
        Err(error) => {
            // Too many open files: the next attempt fails as well until one is closed.
            warn!(%error, "can't accept a connection");
            sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// What the connections of a server share.
struct Host {
    service: Arc<dyn Service>,
    limits: Limits,
    admitted: Vec<u32>,
    closing: watch::Receiver<bool>,
}

impl Host {
    async fn serve(self: Arc<Self>, mut stream: UnixStream, slot: OwnedSemaphorePermit) {
        let response = match self.admit(&stream) {
            Err(error) => Some(error.into()),
            Ok(()) => match self.request(&mut stream).await {
                Ok(request) => Some(self.answer(request).await),
                Err(error) => error.map(Response::Error),
            },
        };
        if let Some(response) = response {
            let written = timeout(self.limits.write, frame::write_async(&mut stream, &response)).await;
            if !matches!(written, Ok(Ok(()))) {
                debug!("the client did not wait for its answer");
            }
        }
        drop(slot);
    }

    fn admit(&self, stream: &UnixStream) -> Result<(), Error> {
        let found = match stream.peer_cred() {
            Ok(peer) if self.admitted.contains(&peer.uid()) => return Ok(()),
            Ok(peer) => format!("user {}", peer.uid()),
            Err(error) => format!("a user that can't be told ({error})"),
        };
        warn!(from = found, "refused a connection");
        Err(Error::new(
            Code::DENIED,
            format!("the request comes from {found}, expected root or the agent's own user"),
            "run flock as root, as container runtimes do",
        ))
    }

    /// Reads the request; without one, the error to answer, or none for a client that just left.
    async fn request(&self, stream: &mut UnixStream) -> Result<Request, Option<Error>> {
        let mut closing = self.closing.clone();
        let json = tokio::select! {
            biased;
            read = timeout(self.limits.read, frame::read_async(stream)) => match read {
                Ok(Err(FrameError::Truncated { received })) if received < HEADER_LEN => return Err(None),
                Ok(json) => json.map_err(|error| Some(error.into()))?,
                Err(_) => return Err(Some(Error::new(
                    Code::IO_FAILURE,
                    format!("no complete request came within {:?}", self.limits.read),
                    "send the whole request at once",
                ))),
            },
            _ = closing.wait_for(|closing| *closing) => return Err(Some(Error::new(
                Code::TRY_AGAIN_LATER,
                "flock-agent is shutting down",
                "it takes requests again as soon as it is started",
            ))),
        };
        Request::from_json(&json).map_err(|error| Some(error.into()))
    }

    async fn answer(&self, request: Request) -> Response {
        let span = span(&request);
        let service = Arc::clone(&self.service);
        let work = async move {
            let start = Instant::now();
            let response = service.call(request).await;
            match &response {
                Response::Result(_) => debug!(elapsed = ?start.elapsed(), "done"),
                Response::Error(error) => {
                    warn!(elapsed = ?start.elapsed(), code = error.code.0, %error, "failed");
                }
            }
            response
        };
        tokio::spawn(work.instrument(span)).await.unwrap_or_else(|error| {
            Response::Error(Error::new(
                Code::INTERNAL,
                format!("flock-agent failed in the middle of the request: {error}"),
                "this is a defect of flock-agent: please report it with its log",
            ))
        })
    }
}

fn span(request: &Request) -> Span {
    let pod = Args::parse(&request.args).ok().and_then(|args| args.pod);
    info_span!(
        "request",
        verb = request.verb.as_str(),
        container = request.container_id,
        ifname = request.ifname,
        pod = pod.map(tracing::field::display),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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
