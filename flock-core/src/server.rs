//! The agent's request server: a Unix socket on which one [`frame`] comes in and one
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
//! | read, not closed yet | [`Limits::requests`] | its own time to answer, [`Limits::write`] to be written | is told to come back later (code 11) |
//! | of these, at work | [`Limits::work`] | the service's | waits in turn, until its own time is over (code 11) |
//!
//! So are memory (with [`Limits::large`]) and file descriptors.
//!
//! Dropping the future of [`Server::run`] closes all connections, but does not cancel
//! requests that are at work.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::net::{SendFlags, send};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{Instrument, Span, debug, info_span, warn};

use crate::cni::{Args, Code, Error};
use crate::frame::{self, FrameError, HEADER_LEN, Incoming, Inquiry, Request, Response};

mod lobby;
mod socket;

use lobby::{Lobby, Seat};
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
    /// How many requests of more than 64 KiB may be in memory at once. Further ones wait,
    /// within [`read`](Self::read), before they are read.
    pub large: usize,
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
            large: 16,
            read: Duration::from_secs(5),
            write: Duration::from_secs(5),
            drain: Duration::from_secs(10),
        }
    }
}

/// Nearly every request has fewer bytes: only larger ones are counted by [`Limits::large`].
const LARGE: usize = 64 << 10;

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    socket: Socket,
    limits: Limits,
    /// The users that are served.
    admitted: Vec<u32>,
    inspected: Option<Arc<dyn Inspect>>,
    close: watch::Sender<bool>,
}

impl Server {
    /// Listens on `path`, in a directory that no other server may use. It is made (mode
    /// 0700) if it is missing; one that others may look into is closed to them; one of
    /// another user, a symbolic link to one, /tmp and the like are refused. The socket of
    /// an agent that died is replaced.
    ///
    /// Must be called inside a tokio runtime. From here on clients are queued.
    pub fn bind(path: impl Into<std::path::PathBuf>) -> Result<Self, BindError> {
        let (socket, listener) = Socket::bind(path.into())?;
        let own = rustix::process::geteuid().as_raw();
        Ok(Self {
            listener,
            socket,
            limits: Limits::default(),
            admitted: vec![0, own],
            inspected: None,
            close: watch::Sender::new(false),
        })
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

    /// Becomes true when the server has begun to shut down and nobody finds it any more.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.close.subscribe()
    }

    /// Answers requests until `shutdown` is ready; then accepts no more, tells waiting
    /// clients to come back later and waits for the requests at work, no longer than
    /// [`Limits::drain`]. Returns how many were not done by then.
    pub async fn run(self, service: Arc<dyn Service>, shutdown: impl Future<Output = ()>) -> usize {
        let Self { listener, socket, limits, admitted, inspected, close } = self;
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

/// Answers a client that nothing will be read of any more, and does not wait for it: the
/// buffer of a new connection takes a short answer at once.
fn send_off(stream: &UnixStream, response: &Response) {
    if let Ok(bytes) = frame::encode(response) {
        // A client that left needs no answer.
        let _ = send(stream, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

/// What the connections of a server share.
struct Host {
    service: Arc<dyn Service>,
    inspected: Option<Arc<dyn Inspect>>,
    limits: Limits,
    admitted: Vec<u32>,
    closing: watch::Receiver<bool>,
    requests: Arc<Semaphore>,
    work: Arc<Semaphore>,
    large: Semaphore,
}

/// Why there is no request to be answered.
enum Unread {
    /// The client left without a word.
    Left,
    /// What came is no request, or did not come in time.
    Refused(Error),
    /// There is no more room for it.
    Dismissed,
}

impl Host {
    fn new(
        service: Arc<dyn Service>,
        inspected: Option<Arc<dyn Inspect>>,
        limits: Limits,
        admitted: Vec<u32>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self {
            service,
            inspected,
            limits,
            admitted,
            closing,
            requests: Arc::new(Semaphore::new(limits.requests)),
            work: Arc::new(Semaphore::new(limits.work)),
            large: Semaphore::new(limits.large),
        }
    }

    async fn serve(self: Arc<Self>, mut stream: UnixStream, mut seat: Seat) {
        let read = self.read(&mut stream, &mut seat).await;
        let (request, _large) = match read {
            Ok(read) => read,
            Err(Unread::Left) => return,
            Err(Unread::Refused(error)) => return send_off(&stream, &error.into()),
            Err(Unread::Dismissed) => {
                debug!("a client that sent no request made room for another one");
                return send_off(&stream, &busy("too many clients sent no complete request yet").into());
            }
        };
        let Ok(_open) = Arc::clone(&self.requests).try_acquire_owned() else {
            warn!(limit = self.limits.requests, "a request was sent away: too many are here");
            return send_off(&stream, &busy("too many requests are at work").into());
        };
        drop(seat);
        let response = match request {
            Incoming::Request(request) => self.answer(request).await,
            Incoming::Inquiry(inquiry) => self.inspect(inquiry).await,
        };
        let written = timeout(self.limits.write, frame::write_async(&mut stream, &response)).await;
        if !matches!(written, Ok(Ok(()))) {
            debug!("the client did not wait for its answer");
        }
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

    async fn read<'a>(
        &'a self,
        stream: &mut UnixStream,
        seat: &mut Seat,
    ) -> Result<(Incoming, Option<SemaphorePermit<'a>>), Unread> {
        let mut closing = self.closing.clone();
        let (json, large) = tokio::select! {
            // What is there already is read, also of who is told to go.
            biased;
            read = timeout(self.limits.read, self.frame(stream)) => match read {
                Ok(Err(FrameError::Truncated { received })) if received < HEADER_LEN => return Err(Unread::Left),
                Ok(read) => read.map_err(|error| Unread::Refused(error.into()))?,
                Err(_) => return Err(Unread::Refused(Error::new(
                    Code::IO_FAILURE,
                    format!("no complete request came within {:?}", self.limits.read),
                    "send the whole request at once",
                ))),
            },
            _ = closing.wait_for(|closing| *closing) => return Err(Unread::Refused(shutting_down())),
            () = seat.dismissed() => return Err(Unread::Dismissed),
        };
        let request = Incoming::from_json(&json).map_err(|error| Unread::Refused(error.into()))?;
        Ok((request, large))
    }

    /// One frame, and the right to have it in memory if it is large.
    async fn frame(
        &self,
        stream: &mut UnixStream,
    ) -> Result<(Vec<u8>, Option<SemaphorePermit<'_>>), FrameError> {
        let len = frame::read_len_async(&mut *stream).await?;
        // It is never closed, so it always gives one in the end.
        let large = if len > LARGE { self.large.acquire().await.ok() } else { None };
        Ok((frame::read_body_async(stream, len).await?, large))
    }

    async fn answer(&self, mut request: Request) -> Response {
        let span = span(&request);
        let start = Instant::now();
        let work = match self.turn(&request).await {
            Ok(work) => work,
            Err(error) => {
                span.in_scope(|| warn!(elapsed = ?start.elapsed(), code = error.code.0, %error, "failed"));
                return error.into();
            }
        };
        let waited = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        request.remaining_ms = request.remaining_ms.saturating_sub(waited);
        let service = Arc::clone(&self.service);
        let work = async move {
            let response = service.call(request).await;
            match &response {
                Response::Result(_) => debug!(elapsed = ?start.elapsed(), "done"),
                Response::Error(error) => {
                    warn!(elapsed = ?start.elapsed(), code = error.code.0, %error, "failed");
                }
            }
            drop(work);
            response
        };
        finished(tokio::spawn(work.instrument(span)).await)
    }

    async fn inspect(&self, inquiry: Inquiry) -> Response {
        let Some(inspected) = self.inspected.clone() else {
            return Response::Error(Error::new(
                Code::INVALID_ENVIRONMENT,
                format!("this agent does not answer {}", inquiry.as_str()),
                "look at the records and the kernel with flock-agent check --offline",
            ));
        };
        let work = async move { inspected.inspect(inquiry).await };
        let span = info_span!("inquiry", verb = inquiry.as_str());
        finished(tokio::spawn(work.instrument(span)).await)
    }

    /// The right to be worked on.
    async fn turn(&self, request: &Request) -> Result<OwnedSemaphorePermit, Error> {
        let mut closing = self.closing.clone();
        let remaining = Duration::from_millis(request.remaining_ms);
        tokio::select! {
            biased;
            turn = timeout(remaining, Arc::clone(&self.work).acquire_owned()) => match turn {
                Ok(Ok(turn)) => Ok(turn),
                _ => Err(busy(&format!(
                    "{} other requests were at work for all of the {} ms that this one had",
                    self.limits.work, request.remaining_ms
                ))),
            },
            _ = closing.wait_for(|closing| *closing) => Err(shutting_down()),
        }
    }
}

fn finished(response: Result<Response, tokio::task::JoinError>) -> Response {
    response.unwrap_or_else(|error| {
        Response::Error(Error::new(
            Code::INTERNAL,
            format!("flock-agent failed in the middle of the request: {error}"),
            "this is a defect of flock-agent: please report it with its log",
        ))
    })
}

fn busy(why: &str) -> Error {
    Error::new(
        Code::TRY_AGAIN_LATER,
        format!("flock-agent is busy: {why}"),
        "runtimes try again by themselves; if it stays so, look at the log of flock-agent and at who connects to its socket",
    )
}

fn shutting_down() -> Error {
    Error::new(
        Code::TRY_AGAIN_LATER,
        "flock-agent is shutting down",
        "it takes requests again as soon as it is started",
    )
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
