//! The agent as it is seen over HTTP, by a client on a socket.
#![cfg(feature = "agent")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use flock_bin::agent::http::{Endpoints, HttpServer, Limits};
use flock_bin::agent::metrics::Metrics;
use flock_bin::agent::readiness::Readiness;
use flock_core::attachment::{Addresses, AttachmentKey, NodeCidrs};
use flock_core::ipam::{AddressRequest, Ipam, IpamError, Lease, LeaseOwner, Usage};
use flock_core::store::MemoryStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing here takes longer, unless it is broken.
const AT_MOST: Duration = Duration::from_secs(20);

struct Agent {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    readiness: watch::Sender<Readiness>,
    notes: Arc<Mutex<Vec<String>>>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

impl Agent {
    fn start() -> Self {
        Self::with_limits(Limits::default())
    }

    fn with_limits(limits: Limits) -> Self {
        let server = HttpServer::bind("[::1]:0".parse().unwrap()).unwrap().with_limits(limits);
        let address = server.address().unwrap();
        let (readiness, receiver) = watch::channel(Readiness::waiting_for("NodeConfig host001"));
        let notes = Arc::new(Mutex::new(Vec::new()));
        let metrics = Arc::new(Metrics::new(receiver.clone()));
        let endpoints = Endpoints {
            metrics: Arc::clone(&metrics),
            readiness: receiver,
            notes: {
                let notes = Arc::clone(&notes);
                Arc::new(move || notes.lock().unwrap().clone())
            },
        };
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.run(endpoints, async move {
            let _ = stopped.await;
        }));
        Self { address, metrics, readiness, notes, stop: Some(stop), serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut stream = self.connect().await;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: node\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Answer::read(stream).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }
}

struct Answer {
    head: String,
    body: String,
}

impl Answer {
    /// To the end: the server closes the connection after an answer.
    async fn read(mut stream: TcpStream) -> Self {
        let mut text = String::new();
        timeout(AT_MOST, stream.read_to_string(&mut text)).await.expect("the connection stays open").unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an answer: {text:?}"));
        Self { head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

#[tokio::test]
async fn healthz_says_that_the_process_serves() {
    let agent = Agent::start();
    let answer = agent.get("/healthz").await;
    assert_eq!((answer.status(), &*answer.body), ("200", "ok\n"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

/// Counts its addresses once it is told to.
#[derive(Debug)]
struct Counting(Semaphore);

#[async_trait]
impl Ipam for Counting {
    async fn allocate(&self, _: &LeaseOwner, _: &AddressRequest) -> Result<Addresses, IpamError> {
        unreachable!("nobody asks for an address")
    }
    async fn restore(&self, _: &LeaseOwner, _: Addresses) -> Result<(), IpamError> {
        unreachable!("nobody has an address")
    }
    async fn release(&self, _: &AttachmentKey) -> Result<(), IpamError> {
        unreachable!("nobody has an address")
    }
    async fn configure(&self, _: NodeCidrs, _: &[IpAddr]) -> Result<(), IpamError> {
        unreachable!("nobody has a prefix")
    }
    async fn usage(&self) -> Result<Vec<Usage>, IpamError> {
        let _told = self.0.acquire().await;
        Ok(Vec::new())
    }
    async fn leases(&self) -> Result<Vec<Lease>, IpamError> {
        unreachable!("nobody has an address")
    }
}

/// As `printf … | nc` does: its end comes before the answer.
#[tokio::test]
async fn a_client_that_says_that_it_is_done_is_answered() {
    let agent = Agent::start();
    let ipam = Arc::new(Counting(Semaphore::new(0)));
    agent.metrics.observe(Arc::clone(&ipam) as _, Arc::new(MemoryStore::new()));
    let mut stream = agent.connect().await;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = pin!(Answer::read(stream));
    // The server has seen the end of what was sent when another client is answered.
    tokio::select! {
        _ = &mut answer => panic!("answered, or sent away, before there was an answer"),
        other = agent.get("/healthz") => assert_eq!(other.status(), "200"),
    }
    ipam.0.add_permits(1);
    assert_eq!(answer.await.status(), "200");
}

#[tokio::test]
async fn readyz_says_what_is_waited_for() {
    let agent = Agent::start();
    let answer = agent.get("/readyz").await;
    assert_eq!((answer.status(), &*answer.body), ("503", "waiting for NodeConfig host001\n"));

    agent.readiness.send_replace(Readiness::Ready);
    let answer = agent.get("/readyz").await;
    assert_eq!((answer.status(), &*answer.body), ("200", "ready\n"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));

    agent.readiness.send_replace(Readiness::Stopping);
    let answer = agent.get("/readyz").await;
    assert_eq!((answer.status(), &*answer.body), ("503", "stopping\n"));
}

#[tokio::test]
async fn a_note_changes_nothing_about_readiness() {
    let agent = Agent::start();
    agent.readiness.send_replace(Readiness::Ready);
    agent.notes.lock().unwrap().push("BIRD can't be reached".to_owned());
    let answer = agent.get("/readyz").await;
    assert_eq!((answer.status(), &*answer.body), ("200", "ready\nnote: BIRD can't be reached\n"));
}

/// What a scraper of Prometheus 2 and 3 sends, and what one that says nothing gets.
#[tokio::test]
async fn metrics_come_in_the_format_that_is_asked_for() {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
    let agent = Agent::start();
    for (accept, expected) in [
        ("", PROMETHEUS),
        ("Accept: */*\r\n", PROMETHEUS),
        ("Accept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n", PROMETHEUS),
        (
            "Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n",
            OPEN_METRICS,
        ),
        (
            "Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2\r\n",
            OPEN_METRICS,
        ),
    ] {
        let answer = agent.ask("GET", "/metrics", accept).await;
        assert_eq!((answer.status(), answer.header("content-type")), ("200", Some(expected)), "{accept}");
        let (counter, end) = if expected == OPEN_METRICS {
            ("# TYPE flock_requests counter\n", "# EOF\n")
        } else {
            ("# TYPE flock_requests_total counter\n", "\n")
        };
        assert!(answer.body.contains(counter), "{accept}: {}", answer.body);
        assert!(answer.body.ends_with(end), "{accept}");
        assert_eq!(answer.body.contains("# EOF"), expected == OPEN_METRICS, "{accept}");
        assert!(answer.body.contains("\nflock_requests_total{verb=\"ADD\",code=\"0\"} 0\n"), "{accept}");
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_with_what_is_expected() {
    let agent = Agent::start();
    let answer = agent.get("/").await;
    let expected = "there is no / here, expected /metrics, /healthz or /readyz\n";
    assert_eq!((answer.status(), &*answer.body), ("404", expected));
    let answer = agent.ask("POST", "/healthz", "Content-Length: 0\r\n").await;
    assert_eq!((answer.status(), &*answer.body), ("405", "POST is not possible on /healthz, expected GET\n"));
    assert_eq!(answer.header("allow"), Some("get, head"));
    let answer = agent.ask("HEAD", "/healthz", "").await;
    assert_eq!((answer.status(), &*answer.body), ("200", ""));
}

#[tokio::test]
async fn garbage_ends_the_connection_and_nothing_else() {
    let agent = Agent::start();
    let mut stream = agent.connect().await;
    stream.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(AT_MOST, stream.read_to_end(&mut answer)).await.expect("the connection stays open").unwrap();
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 400"), "{answer:?}");
    assert_eq!(agent.get("/healthz").await.status(), "200");
}

#[tokio::test]
async fn clients_that_say_nothing_make_room_for_others() {
    let limits = Limits { local: 2, request: Duration::from_millis(200), ..Limits::default() };
    let agent = Agent::with_limits(limits);
    let mut silent = [agent.connect().await, agent.connect().await];
    // Half a request is none.
    silent[1].write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    // One too many is sent away at once.
    assert_eq!(rest(agent.connect().await).await, b"");
    for stream in silent {
        assert_eq!(rest(stream).await, b"");
    }
    let answer = async {
        loop {
            let mut stream = agent.connect().await;
            let _ = stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await;
            let answer = rest(stream).await;
            // Their connections end a moment before their room is free.
            if !answer.is_empty() {
                break String::from_utf8(answer).unwrap();
            }
        }
    };
    let answer = timeout(AT_MOST, answer).await.expect("no room was made");
    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
}

#[tokio::test]
async fn a_connection_lasts_no_longer_than_it_may() {
    let limits = Limits { request: AT_MOST, connection: Duration::from_millis(200), ..Limits::default() };
    let agent = Agent::with_limits(limits);
    let mut stream = agent.connect().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    assert_eq!(rest(stream).await, b"");
}

/// What comes until the server closes the connection.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    match timeout(AT_MOST, stream.read_to_end(&mut rest)).await.expect("the connection stays open") {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => rest,
    }
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_clients_that_say_nothing() {
    let limits = Limits { drain: Duration::from_millis(100), ..Limits::default() };
    let mut agent = Agent::with_limits(limits);
    let _silent = agent.connect().await;
    assert_eq!(agent.get("/healthz").await.status(), "200");
    agent.stop.take().unwrap().send(()).unwrap();
    timeout(AT_MOST, agent.serving).await.expect("the server does not end").unwrap();
    let refused = TcpStream::connect(agent.address).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let agent = Agent::start();
    let error = HttpServer::bind(agent.address).unwrap_err().to_string();
    let expected = format!("can't listen on {} for /metrics, /healthz and /readyz: ", agent.address);
    assert!(error.starts_with(&expected), "{error}");
    assert!(error.ends_with("choose another --http-address"), "{error}");
    // Nothing of it is left over for the one that is there.
    assert_eq!(agent.get("/healthz").await.status(), "200");
}
