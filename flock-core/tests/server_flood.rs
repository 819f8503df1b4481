//! The agent's server under a flood: a thousand clients that say nothing, announce much, or stop
//! in the middle, two hundred that say one byte after another, and good ones among them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flock_core::cni::{RawCall, Verb};
use flock_core::frame::{self, HEADER_LEN, Request, Response};
use flock_core::server::{Limits, Server, Service};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

const IDLE: usize = 1_000;
const LARGE: usize = 200_000;
const TRICKLING: usize = 200;
/// How long nine of ten good clients may take among them, and how long the slowest: each of
/// the others may take 5 s. (Alone it is under a millisecond; the machine may be busy.)
const PROMPT: Duration = Duration::from_millis(200);
const SLOWEST: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Counting(AtomicUsize);

#[async_trait]
impl Service for Counting {
    async fn call(&self, _request: Request) -> Response {
        self.0.fetch_add(1, Ordering::Relaxed);
        Response::EMPTY
    }
}

fn request() -> Request {
    let raw =
        RawCall { verb: Verb::Add, container_id: "c1", ifname: "eth0", config: b"{}", ..RawCall::default() };
    Request::new(&raw).unwrap()
}

/// As large as a garbage collection on a full node.
fn large() -> Request {
    Request { args: "x".repeat(LARGE), ..request() }
}

/// Both ends of each connection belong to this process.
fn raise_the_limit_of_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    assert!(maximum.is_none_or(|most| most >= 4096), "4096 open files are needed, allowed are {maximum:?}");
    setrlimit(Resource::Nofile, Rlimit { current: maximum.map_or(Some(4096), Some), maximum }).unwrap();
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A good client: it sends its request at once.
fn call(socket: &Path, request: &[u8]) -> Response {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    // One that was sent away has an answer to read.
    let _ = stream.write_all(request);
    Response::from_json(&frame::read(stream).unwrap()).unwrap()
}

/// What an idle client says before it says no more: nothing, an announcement, or most of a request.
fn beginning(client: usize) -> Vec<u8> {
    match client % 10 {
        0 => frame::encode(&large()).unwrap()[..100_000].to_owned(),
        1..=4 => frame::encode(&large()).unwrap()[..HEADER_LEN].to_owned(),
        _ => Vec::new(),
    }
}

/// A client that sends one byte after another, and comes again when it is sent away.
fn trickle(socket: PathBuf, announced: [u8; HEADER_LEN]) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let Ok(mut stream) = UnixStream::connect(&socket).await else { return };
            // An announced length that never comes.
            for byte in announced.into_iter().chain(std::iter::repeat(b' ')) {
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_and_trickling_clients_keep_nobody_waiting() {
    raise_the_limit_of_files();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("flock.sock");
    let service = Arc::new(Counting(AtomicUsize::new(0)));
    let limits = Limits::default();
    let server = Server::bind(&socket).unwrap();
    let _server = tokio::spawn(server.run(Arc::clone(&service) as _, std::future::pending()));
    let before = open_files();

    let mut idle = Vec::new();
    for client in 0..IDLE {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        // Who was sent away by then did what it was to do.
        let _ = stream.write_all(&beginning(client)).await;
        idle.push(stream);
    }
    let announced = [[0, 0, 4, 0], [0, 4, 0, 0]].into_iter().cycle();
    let trickling: Vec<_> =
        announced.take(TRICKLING).map(|announced| trickle(socket.clone(), announced)).collect();
    for (size, request) in [("small", request()), ("large", large())] {
        let bytes: Arc<[u8]> = frame::encode(&request).unwrap().into();
        let mut took = Vec::new();
        for _ in 0..50 {
            let start = Instant::now();
            let (target, bytes) = (socket.clone(), Arc::clone(&bytes));
            let answer = tokio::task::spawn_blocking(move || call(&target, &bytes)).await.unwrap();
            assert!(matches!(answer, Response::Result(None)), "{size}: {answer:?}");
            took.push(start.elapsed());
        }
        took.sort();
        println!(
            "of 50 {size} calls the median took {:?}, the 45th {:?}, the slowest {:?}",
            took[25], took[44], took[49]
        );
        assert!(took[44] < PROMPT && took[49] < SLOWEST, "{size}: {took:?}");
    }
    assert_eq!(service.0.load(Ordering::Relaxed), 100);

    let ends_of_clients = IDLE + TRICKLING;
    let at_server = open_files().saturating_sub(before + ends_of_clients);
    // And some for what is on its way in and out.
    let most = limits.waiting + limits.large_waiting + 10;
    assert!(at_server <= most, "the server has {at_server} connections open");
    for task in trickling {
        task.abort();
    }
}
