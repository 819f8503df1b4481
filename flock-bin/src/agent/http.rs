//! The agent as seen over HTTP: `/metrics`, `/healthz` and `/readyz`.
//!
//! Guarantees: a connection carries one request, which must have come within
//! [`Limits::request`], and lasts no longer than [`Limits::connection`], whatever the
//! client does. No more than [`Limits::remote`] and [`Limits::local`] of them are open at
//! once; further ones are closed at once, so that nobody waits behind them. Those of this
//! machine have room of their own: kubelet's probes are among them, and any pod can reach
//! this port.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::agent::metrics::{Format, Metrics};
use crate::agent::readiness::Readiness;

mod slots;

use self::slots::Slots;

/// What there is to be seen.
#[derive(Clone)]
pub struct Endpoints {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/readyz`.
    pub readiness: watch::Receiver<Readiness>,
    /// Further lines of `/readyz` that change nothing about readiness, for example
    /// that BIRD is away. Asked at each request: must return at once.
    pub notes: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").field("readiness", &*self.readiness.borrow()).finish_non_exhaustive()
    }
}

/// The address can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address} for /metrics, /healthz and /readyz: {source}{}", hint(.source))]
pub struct ListenError {
    /// Which address.
    pub address: SocketAddr,
    /// The system's answer.
    pub source: io::Error,
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program, or another flock-agent, listens there: choose another --http-address"
        }
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported => {
            "; this node has no such address: choose another --http-address, for example 0.0.0.0:9430"
        }
        io::ErrorKind::PermissionDenied => "; choose a port of 1024 or above with --http-address",
        _ => "; choose another --http-address",
    }
}

/// What bounds the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many connections from elsewhere are open at once.
    pub remote: usize,
    /// How many connections over the loopback interface are open at once.
    pub local: usize,
    /// How long a request may take to come, from being accepted.
    pub request: Duration,
    /// How long a connection may last in all, from being accepted to the last byte.
    pub connection: Duration,
    /// How long requests at work are waited for after the shutdown began.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // A scrape is 20 kB and takes milliseconds; kubelet and a few scrapers are all that come.
        Self {
            remote: 32,
            local: 8,
            request: Duration::from_secs(1),
            connection: Duration::from_secs(10),
            drain: Duration::from_secs(2),
        }
    }
}

/// How many clients the kernel queues.
const BACKLOG: u32 = 1024;

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    limits: Limits,
}

impl HttpServer {
    /// Listens on `address`, on `[::]` for IPv4 too. From here on clients are queued.
    pub fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let listener = listen(address).map_err(|source| ListenError { address, source })?;
        Ok(Self { listener, limits: Limits::default() })
    }

    /// Replaces the limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Where it listens: with the port that the system chose where port 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `shutdown` is ready; then accepts no more and waits for the requests at
    /// work, no longer than [`Limits::drain`].
    pub async fn run(self, endpoints: Endpoints, shutdown: impl Future<Output = ()>) {
        let Self { listener, limits } = self;
        let slots = Slots::new(limits.remote, limits.local);
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                Some((stream, peer)) = accept(&listener) => {
                    let Some(slot) = slots.take(peer.ip()) else {
                        tracing::debug!(%peer, "an HTTP client was sent away: too many are here");
                        continue;
                    };
                    connections.spawn(serve(stream, endpoints.clone(), limits, slot));
                }
            }
        }
        drop(listener);
        // What is not done by then is dropped with the set.
        let _ = timeout(limits.drain, async { while connections.join_next().await.is_some() {} }).await;
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Whatever net.ipv6.bindv6only says: probes ask 127.0.0.1.
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            // Too many open files: the next attempt fails as well until one is closed.
            tracing::warn!(%error, "can't accept an HTTP connection");
            sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn serve(stream: TcpStream, endpoints: Endpoints, limits: Limits, slot: OwnedSemaphorePermit) {
    let service = service_fn(|request| answer(request, &endpoints));
    // One request for each connection: an idle one holds no slot.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request)
        .keep_alive(false)
        // Who has asked may say that it is done before it is answered.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(limits.connection, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an HTTP client left, was not understood, or said nothing"),
        Err(_) => tracing::debug!(limit = ?limits.connection, "an HTTP client took too long"),
    }
    drop(slot);
}

/// Nobody sends a body here, so none is read.
async fn answer<B>(request: Request<B>, endpoints: &Endpoints) -> Result<Response<String>, Infallible> {
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        let text = format!("there is no {path} here, expected /metrics, /healthz or /readyz\n");
        return Ok(plain(StatusCode::NOT_FOUND, text));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let text = format!("{} is not possible on {path}, expected GET\n", request.method());
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, text);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    Ok(match path {
        "/metrics" => metrics(request.headers(), &endpoints.metrics).await,
        "/readyz" => ready(&endpoints.readiness.borrow(), &(endpoints.notes)()),
        _ => plain(StatusCode::OK, "ok\n".to_owned()),
    })
}

async fn metrics(headers: &HeaderMap, metrics: &Metrics) -> Response<String> {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::preferred(accepted);
    match metrics.scrape(format).await {
        Ok(text) => response(StatusCode::OK, format.content_type(), text),
        // Writing to a string does not fail; a collector that breaks its promise does.
        Err(error) => {
            tracing::error!(%error, "the metrics can't be written");
            plain(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics can't be written: {error}\n"))
        }
    }
}

fn ready(readiness: &Readiness, notes: &[String]) -> Response<String> {
    let (status, mut text) = match readiness {
        Readiness::Ready => (StatusCode::OK, "ready\n".to_owned()),
        Readiness::Starting { waiting_for } => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {waiting_for}\n"))
        }
        Readiness::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned()),
    };
    for note in notes {
        text.push_str("note: ");
        text.push_str(note);
        text.push('\n');
    }
    plain(status, text)
}

fn plain(status: StatusCode, text: String) -> Response<String> {
    response(status, "text/plain; charset=utf-8", text)
}

fn response(status: StatusCode, content_type: &'static str, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
