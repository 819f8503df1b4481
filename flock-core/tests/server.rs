//! The agent's server against good, slow, rude and foreign clients.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flock_core::client::{self, ClientError, Deadline};
use flock_core::cni::{self, Code, RawCall, Verb};
use flock_core::frame::{self, MAX_LEN, Request, Response};
use flock_core::server::{BindError, Limits, Server, Service};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

/// Answers with the interface's name; `wait` waits for a permit, `panic` panics.
#[derive(Debug)]
struct Echo {
    started: mpsc::UnboundedSender<String>,
    permits: Semaphore,
    done: mpsc::UnboundedSender<String>,
}

#[async_trait]
impl Service for Echo {
    async fn call(&self, request: Request) -> Response {
        let name = request.ifname.clone();
        self.started.send(name.clone()).unwrap();
        match name.as_str() {
            "wait" => self.permits.acquire().await.unwrap().forget(),
            "panic" => panic!("as asked for"),
            "error" => return cni::Error::new(Code::ADDRESS, "no address", "delete pods").into(),
            _ => {}
        }
        self.done.send(name.clone()).unwrap();
        Response::result(&json!({"ifname": name, "remainingMs": request.remaining_ms}))
    }
}

struct Lab {
    dir: TempDir,
    service: Arc<Echo>,
    started: mpsc::UnboundedReceiver<String>,
    done: mpsc::UnboundedReceiver<String>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<usize>,
}

const GENEROUS: Duration = Duration::from_secs(30);
const BRIEF: Duration = Duration::from_millis(100);

impl Lab {
    fn with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (started_tx, started) = mpsc::unbounded_channel();
        let (done_tx, done) = mpsc::unbounded_channel();
        let service = Arc::new(Echo { started: started_tx, permits: Semaphore::new(0), done: done_tx });
        let server = Server::bind(dir.path().join("flock.sock")).unwrap().with_limits(limits);
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = Arc::clone(&service);
        let server = tokio::spawn(server.run(shared, async { drop(stopped.await) }));
        Self { dir, service, started, done, stop: Some(stop), server }
    }

    fn new() -> Self {
        Self::with(Limits { read: GENEROUS, write: GENEROUS, drain: GENEROUS, ..Limits::default() })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("flock.sock")
    }

    fn call(&self, ifname: &str) -> JoinHandle<Result<Response, ClientError>> {
        let (socket, request) = (self.socket(), request(ifname));
        tokio::task::spawn_blocking(move || client::call(&socket, request, Deadline::after(GENEROUS)))
    }

    /// Sends raw bytes and reads the answer.
    async fn raw(&self, bytes: &[u8]) -> Response {
        let (socket, bytes) = (self.socket(), bytes.to_owned());
        let talk = move || {
            let mut stream = UnixStream::connect(socket).unwrap();
            stream.write_all(&bytes).unwrap();
            Response::from_json(&frame::read(stream).unwrap()).unwrap()
        };
        tokio::task::spawn_blocking(talk).await.unwrap()
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

fn request(ifname: &str) -> Request {
    let raw = RawCall { verb: Verb::Add, container_id: "c1", ifname, config: b"{}", ..RawCall::default() };
    Request::new(&raw).unwrap()
}

fn error_of(response: Response) -> cni::Error {
    match response {
        Response::Error(error) => error,
        Response::Result(result) => panic!("{result:?}"),
    }
}

fn ifname_of(response: Response) -> String {
    match response {
        Response::Result(Some(json)) => {
            let value: serde_json::Value = serde_json::from_str(json.get()).unwrap();
            value["ifname"].as_str().unwrap().to_owned()
        }
        other => panic!("{other:?}"),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

mod bind {
    use super::*;

    #[tokio::test]
    async fn a_missing_directory_is_made_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/flock/flock.sock");
        let _server = Server::bind(&socket).unwrap();
        assert_eq!(mode(&socket), 0o600);
        assert_eq!(mode(&dir.path().join("run/flock")), 0o700);
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_agent_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("flock.sock");
        drop(UnixListener::bind(&socket).unwrap());
        let server = Server::bind(&socket).unwrap();
        drop(server);
        assert!(socket.exists(), "a server that never ran leaves its file, as a killed one does");
        assert!(Server::bind(&socket).is_ok());
    }

    #[tokio::test]
    async fn a_second_server_is_refused_and_the_first_one_goes_on() {
        let lab = Lab::new();
        let error = Server::bind(lab.socket()).unwrap_err();
        assert!(matches!(error, BindError::AlreadyServing { .. }), "{error}");
        let expected = format!("another flock-agent is already serving {}", lab.socket().display());
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert_eq!(ifname_of(lab.call("eth0").await.unwrap().unwrap()), "eth0");
    }

    #[tokio::test]
    async fn somebody_who_serves_without_the_lock_is_noticed_too() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("flock.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(matches!(Server::bind(&socket), Err(BindError::AlreadyServing { .. })));
        assert!(UnixStream::connect(&socket).is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_that_start_at_once_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("flock.sock");
        drop(UnixListener::bind(&socket).unwrap());
        let start = Arc::new(tokio::sync::Barrier::new(4));
        let attempts: Vec<_> = (0..4)
            .map(|_| {
                let (socket, start) = (socket.clone(), Arc::clone(&start));
                tokio::spawn(async move {
                    start.wait().await;
                    Server::bind(socket)
                })
            })
            .collect();
        let mut servers = Vec::new();
        for attempt in attempts {
            servers.push(attempt.await.unwrap());
        }
        assert_eq!(servers.iter().filter(|server| server.is_ok()).count(), 1, "{servers:?}");
        assert!(UnixStream::connect(&socket).is_ok());
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flock.sock");
        fs::write(&path, "precious").unwrap();
        let error = Server::bind(&path).unwrap_err();
        assert!(error.to_string().contains("exists and is not a socket: remove it"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_directory_that_can_not_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = Server::bind(dir.path().join("file/flock.sock")).unwrap_err();
        assert!(error.to_string().starts_with("can't create the directory "), "{error}");
        let error = Server::bind(dir.path().join("x".repeat(200))).unwrap_err();
        assert!(error.to_string().starts_with("can't listen on "), "{error}");
    }
}

mod requests {
    use super::*;

    #[tokio::test]
    async fn are_answered() {
        let lab = Lab::new();
        assert_eq!(ifname_of(lab.call("eth0").await.unwrap().unwrap()), "eth0");
        assert_eq!(error_of(lab.call("error").await.unwrap().unwrap()).code, Code::ADDRESS);
    }

    #[tokio::test]
    async fn do_not_wait_for_each_other() {
        let mut lab = Lab::new();
        let waiting = lab.call("wait");
        assert_eq!(lab.started.recv().await.unwrap(), "wait");
        assert_eq!(ifname_of(lab.call("eth0").await.unwrap().unwrap()), "eth0");
        lab.service.permits.add_permits(1);
        assert_eq!(ifname_of(waiting.await.unwrap().unwrap()), "wait");
    }

    #[tokio::test]
    async fn are_not_cancelled_by_a_client_that_hangs_up() {
        let mut lab = Lab::new();
        let mut stream = UnixStream::connect(lab.socket()).unwrap();
        frame::write(&mut stream, &request("wait")).unwrap();
        assert_eq!(lab.started.recv().await.unwrap(), "wait");
        drop(stream);
        lab.service.permits.add_permits(1);
        assert_eq!(lab.done.recv().await.unwrap(), "wait");
    }

    #[tokio::test]
    async fn that_make_the_service_panic_are_answered_and_disturb_nobody() {
        let lab = Lab::new();
        let error = error_of(lab.call("panic").await.unwrap().unwrap());
        assert_eq!(error.code, Code::INTERNAL);
        assert!(error.msg.contains("failed in the middle of the request"), "{error}");
        assert_eq!(ifname_of(lab.call("eth0").await.unwrap().unwrap()), "eth0");
    }

    #[tokio::test]
    async fn that_are_none_get_a_clear_error() {
        let lab = Lab::new();
        let too_long = u32::try_from(MAX_LEN + 1).unwrap().to_be_bytes();
        let other_protocol = frame::encode(&json!({"protocol": 2})).unwrap();
        for (bytes, code, expected) in [
            (&b"\0\0\0\x05hello"[..], Code::DECODING_FAILURE, "can't be decoded"),
            (b"GET / HTTP/1.1\r\n\r\n", Code::INVALID_CONFIG, "expected at most 1048576"),
            (&too_long, Code::INVALID_CONFIG, "has 1048577 bytes, expected at most 1048576"),
            (&other_protocol, Code::INCOMPATIBLE_VERSION, "protocol version 2, expected 1"),
        ] {
            let error = error_of(lab.raw(bytes).await);
            assert_eq!(error.code, code, "{error}");
            assert!(error.msg.contains(expected), "{error}");
        }
        assert_eq!(ifname_of(lab.call("eth0").await.unwrap().unwrap()), "eth0");
    }
}

mod limits {
    use super::*;

    #[tokio::test]
    async fn a_client_that_sends_nothing_or_half_is_told_and_dropped() {
        let lab = Lab::with(Limits { read: BRIEF, ..Limits::default() });
        for bytes in [&b""[..], b"\0\0", b"\0\0\0\x05he"] {
            let error = error_of(lab.raw(bytes).await);
            assert_eq!(error.msg, "no complete request came within 100ms");
        }
    }

    #[tokio::test]
    async fn idle_clients_give_way_to_good_ones() {
        let lab = Lab::with(Limits { connections: 2, read: BRIEF, ..Limits::default() });
        let idle: Vec<_> = (0..6).map(|_| UnixStream::connect(lab.socket()).unwrap()).collect();
        assert_eq!(ifname_of(lab.call("eth0").await.unwrap().unwrap()), "eth0");
        drop(idle);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_does_not_hold_its_slot() {
        let lab = Lab::with(Limits { connections: 1, write: BRIEF, ..Limits::default() });
        let socket = lab.socket();
        let write = move || {
            let mut deaf = UnixStream::connect(socket).unwrap();
            // The answer repeats the name, which is more than a socket's buffer takes.
            frame::write(&mut deaf, &request(&"x".repeat(MAX_LEN - 1000))).unwrap();
            deaf
        };
        let _deaf = tokio::task::spawn_blocking(write).await.unwrap();
        assert_eq!(ifname_of(lab.call("eth0").await.unwrap().unwrap()), "eth0");
    }
}

mod shutdown {
    use super::*;

    #[tokio::test]
    async fn waits_for_the_requests_at_work_and_takes_no_more() {
        let mut lab = Lab::new();
        let waiting = lab.call("wait");
        assert_eq!(lab.started.recv().await.unwrap(), "wait");
        let idle = UnixStream::connect(lab.socket()).unwrap();
        lab.stop();
        // The idle client hears of it, or finds itself closed if it was not accepted yet.
        if let Ok(json) = tokio::task::spawn_blocking(move || frame::read(idle)).await.unwrap() {
            assert_eq!(error_of(Response::from_json(&json).unwrap()).code, Code::TRY_AGAIN_LATER);
        }
        assert!(!lab.socket().exists());
        let refused = lab.call("eth0").await.unwrap().unwrap_err();
        assert!(matches!(refused, ClientError::NotRunning { .. }), "{refused}");
        let second = Server::bind(lab.socket()).unwrap_err();
        assert!(matches!(second, BindError::AlreadyServing { .. }), "the records are still in use: {second}");
        lab.service.permits.add_permits(1);
        assert_eq!(ifname_of(waiting.await.unwrap().unwrap()), "wait");
        assert_eq!(lab.server.await.unwrap(), 0);
        assert!(Server::bind(lab.dir.path().join("flock.sock")).is_ok());
    }

    #[tokio::test]
    async fn ends_by_its_deadline() {
        let mut lab = Lab::with(Limits { drain: BRIEF, ..Limits::default() });
        let waiting = lab.call("wait");
        assert_eq!(lab.started.recv().await.unwrap(), "wait");
        lab.stop();
        assert_eq!((&mut lab.server).await.unwrap(), 1);
        let error = waiting.await.unwrap().unwrap_err();
        assert!(matches!(error, ClientError::Closed { .. }), "{error}");
        // The work itself was not cancelled.
        lab.service.permits.add_permits(1);
        assert_eq!(lab.done.recv().await.unwrap(), "wait");
    }

    #[tokio::test]
    async fn leaves_the_socket_of_somebody_else() {
        let mut lab = Lab::new();
        fs::remove_file(lab.socket()).unwrap();
        let _other = UnixListener::bind(lab.socket()).unwrap();
        lab.stop();
        assert_eq!((&mut lab.server).await.unwrap(), 0);
        assert!(lab.socket().exists());
    }
}
