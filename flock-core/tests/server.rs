//! The agent's server against good, slow, rude and foreign clients.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flock_core::client::{self, ClientError, Deadline};
use flock_core::cni::{self, Code, RawCall, Verb};
use flock_core::frame::{self, FrameError, Inquiry, InquiryFrame, MAX_LEN, Request, Response};
use flock_core::server::{BindError, Claim, Inspect, Limits, Server, Service};
use serde_json::json;
use tempfile::{NamedTempFile, TempDir};
use tokio::io::AsyncWriteExt;
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
            "large" => return Response::result(&json!("x".repeat(MAX_LEN))),
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
        Self::of(limits, |server| server)
    }

    fn of(limits: Limits, with: impl FnOnce(Server) -> Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (started_tx, started) = mpsc::unbounded_channel();
        let (done_tx, done) = mpsc::unbounded_channel();
        let service = Arc::new(Echo { started: started_tx, permits: Semaphore::new(0), done: done_tx });
        let server = with(Server::bind(dir.path().join("flock.sock")).unwrap().with_limits(limits));
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
        self.send(request(ifname))
    }

    fn send(&self, request: Request) -> JoinHandle<Result<Response, ClientError>> {
        let socket = self.socket();
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

/// With that many bytes of arguments.
fn large(ifname: &str, bytes: usize) -> Request {
    Request { args: "x".repeat(bytes), ..request(ifname) }
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

    /// A kubelet makes the directory of a hostPath with mode 0755.
    #[tokio::test]
    async fn a_directory_that_is_open_to_others_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        for wide in [0o755, 0o777, 0o750, 0o701] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(wide)).unwrap();
            let _server = Server::bind(dir.path().join("flock.sock")).unwrap();
            assert_eq!(mode(dir.path()), 0o700, "{wide:o}");
        }
    }

    /// Who names them by mistake must not lose the system.
    #[tokio::test]
    async fn a_directory_of_others_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let error = Server::bind(dir.path().join("flock.sock")).unwrap_err();
        let expected =
            "has the mode 1777 and is used by others too, expected one of Flock's own with mode 0700";
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o7777, 0o1777);
        assert!(!dir.path().join("flock.sock").exists());

        let elsewhere = tempfile::tempdir().unwrap();
        fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let link = dir.path().join("link");
        symlink(elsewhere.path(), &link).unwrap();
        let error = Server::bind(link.join("flock.sock")).unwrap_err();
        let expected = format!("the run directory {} is a symbolic link: remove it", link.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert_eq!(mode(elsewhere.path()), 0o755);
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_directory_with_something_elses_files_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for own in ["attachments", "deletions"] {
            fs::create_dir(dir.path().join(own)).unwrap();
        }
        fs::write(dir.path().join("dpkg\n"), "").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = Server::bind(dir.path().join("flock.sock")).unwrap_err();
        assert!(matches!(error, BindError::Directory { .. }), "{error:?}");
        for part in ["has the mode 0755 and holds \"dpkg\\n\", expected", "choose another --run-dir"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(mode(dir.path()), 0o755);
        assert!(!dir.path().join("flock.sock").exists());
        // Where nothing has to be changed it is nobody's business.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(Server::bind(dir.path().join("flock.sock")).is_ok());
    }

    #[tokio::test]
    async fn a_directory_with_what_agents_and_bird_leave_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        for own in ["attachments", "deletions", "bird"] {
            fs::create_dir(dir.path().join(own)).unwrap();
        }
        for own in ["node-config.json", "bird.ctl", "bird.started"] {
            fs::write(dir.path().join(own), "").unwrap();
        }
        drop(UnixListener::bind(dir.path().join("flock.sock")).unwrap());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let _server = Server::bind(dir.path().join("flock.sock")).unwrap();
        assert_eq!(mode(dir.path()), 0o700);
    }

    #[tokio::test]
    async fn a_directory_that_is_in_use_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("flock.sock");
        let _claim = Claim::of(&socket).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(Server::bind(&socket), Err(BindError::AlreadyServing { .. })));
        assert_eq!(mode(dir.path()), 0o755);
    }

    /// Not even one that points at a socket.
    #[tokio::test]
    async fn a_link_in_the_place_of_the_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, target) = (dir.path().join("run/flock.sock"), dir.path().join("other.sock"));
        fs::create_dir(dir.path().join("run")).unwrap();
        drop(UnixListener::bind(&target).unwrap());
        fs::set_permissions(&target, fs::Permissions::from_mode(0o666)).unwrap();
        symlink(&target, &socket).unwrap();
        let error = Server::bind(&socket).unwrap_err();
        assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read_link(&socket).unwrap(), target);
        assert_eq!(mode(&target), 0o666);
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
        let error = Server::bind(dir.path().join("run").join("x".repeat(200))).unwrap_err();
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
    async fn with_an_answer_that_fits_no_frame_get_an_error() {
        let lab = Lab::new();
        let error = error_of(lab.call("large").await.unwrap().unwrap());
        assert_eq!(error.code, Code::INTERNAL);
        assert!(error.msg.contains(&format!("expected at most {MAX_LEN}")), "{error}");
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

mod log {
    use super::*;

    /// What is logged on this thread while the guard lives.
    fn kept() -> (NamedTempFile, tracing::subscriber::DefaultGuard) {
        let log = NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(Arc::new(log.reopen().unwrap()))
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    #[tokio::test]
    async fn what_a_client_says_of_itself_is_cut() {
        let lab = Lab::new();
        let (log, _guard) = kept();
        let hostile = "\n\u{1b}[2J".repeat(20_000);
        let refused = Request { container_id: hostile.clone(), ..request("error") };
        error_of(lab.send(refused).await.unwrap().unwrap());
        lab.send(request(&hostile)).await.unwrap().unwrap();
        let log = fs::read_to_string(log.path()).unwrap();
        let (failed, done) = log.trim_end().split_once('\n').unwrap();
        for (line, expected) in [(failed, "failed"), (done, "done")] {
            assert!(line.contains(expected) && line.contains("(cut)"), "{line:.1000}");
            assert!(!line.contains(char::is_control), "{line:.1000}");
            assert!(line.len() < 8_000, "{} bytes: {line:.1000}", line.len());
        }
    }

    #[tokio::test]
    async fn what_is_valid_is_whole() {
        let lab = Lab::new();
        let (log, _guard) = kept();
        let longest = "a".repeat(190);
        let request = Request { container_id: longest.clone(), ..request("fifteen-bytes-x") };
        lab.send(request).await.unwrap().unwrap();
        let log = fs::read_to_string(log.path()).unwrap();
        assert!(log.contains(&format!("container=\"{longest}\" ifname=\"fifteen-bytes-x\"")), "{log}");
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
    async fn the_time_for_a_request_is_one_for_all_its_bytes() {
        let lab = Lab::with(Limits { read: BRIEF, ..Limits::default() });
        let mut trickling = tokio::net::UnixStream::connect(lab.socket()).await.unwrap();
        let start = Instant::now();
        let request = frame::encode(&request("eth0")).unwrap();
        // Each byte comes long before the limit, and all of them long after it.
        for byte in &request {
            if trickling.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(BRIEF / 20).await;
        }
        assert!(start.elapsed() < BRIEF * 5, "the client could go on for {:?}", start.elapsed());
        let answer = frame::read_async(trickling).await.unwrap();
        let error = error_of(Response::from_json(&answer).unwrap());
        assert_eq!(error.msg, "no complete request came within 100ms");
    }

    #[tokio::test]
    async fn who_waits_longest_makes_room_for_a_good_one() {
        let lab = Lab::with(Limits { waiting: 2, read: GENEROUS, ..Limits::default() });
        let idle: Vec<_> = (0..6).map(|_| UnixStream::connect(lab.socket()).unwrap()).collect();
        assert_eq!(ifname_of(lab.call("eth0").await.unwrap().unwrap()), "eth0");
        let first = idle.into_iter().next().unwrap();
        let answer = tokio::task::spawn_blocking(|| frame::read(first)).await.unwrap().unwrap();
        let error = error_of(Response::from_json(&answer).unwrap());
        assert_eq!(error.code, Code::TRY_AGAIN_LATER);
        assert_eq!(error.msg, "flock-agent is busy: too many clients sent no complete request yet");
    }

    /// It had been sent when the client was told to go.
    #[tokio::test]
    async fn a_request_that_is_there_is_read_however_many_come_after_it() {
        let lab = Lab::with(Limits { waiting: 1, read: GENEROUS, ..Limits::default() });
        // All of them are in the kernel's queue before the server looks at it for the first time.
        let clients: Vec<_> = (0..50)
            .map(|_| {
                let mut client = UnixStream::connect(lab.socket()).unwrap();
                frame::write(&mut client, &request("eth0")).unwrap();
                client
            })
            .collect();
        let answers =
            move || clients.into_iter().map(|client| frame::read(client).unwrap()).collect::<Vec<_>>();
        for answer in tokio::task::spawn_blocking(answers).await.unwrap() {
            assert_eq!(ifname_of(Response::from_json(&answer).unwrap()), "eth0");
        }
    }

    #[tokio::test]
    async fn a_request_waits_for_its_turn_as_long_as_its_time_lasts() {
        let mut lab = Lab::with(Limits { work: 1, read: GENEROUS, drain: GENEROUS, ..Limits::default() });
        let at_work = lab.call("wait");
        assert_eq!(lab.started.recv().await.unwrap(), "wait");
        // It comes first, so that it has waited for nearly as long as the other had.
        let [patient, brief] =
            [("patient", GENEROUS), ("brief", Duration::from_millis(50))].map(|(ifname, time)| {
                let mut stream = UnixStream::connect(lab.socket()).unwrap();
                let remaining_ms = u64::try_from(time.as_millis()).unwrap();
                frame::write(&mut stream, &Request { remaining_ms, ..request(ifname) }).unwrap();
                tokio::task::spawn_blocking(|| frame::read(stream))
            });
        let answer = brief.await.unwrap().unwrap();
        let error = error_of(Response::from_json(&answer).unwrap());
        assert_eq!(error.code, Code::TRY_AGAIN_LATER);
        let expected =
            "flock-agent is busy: 1 other requests were at work for all of the 50 ms that this one had";
        assert_eq!(error.msg, expected);
        lab.service.permits.add_permits(1);
        assert_eq!(ifname_of(at_work.await.unwrap().unwrap()), "wait");
        let Ok(Response::Result(Some(answer))) = Response::from_json(&patient.await.unwrap().unwrap()) else {
            panic!("not answered")
        };
        let answer: serde_json::Value = serde_json::from_str(answer.get()).unwrap();
        let left = Duration::from_millis(answer["remainingMs"].as_u64().unwrap());
        assert!(left + Duration::from_millis(25) <= GENEROUS, "what it waited was not taken off: {left:?}");
        // Only these two were worked on.
        assert_eq!(lab.started.recv().await.unwrap(), "patient");
        assert!(lab.started.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_request_too_many_is_to_come_again() {
        let mut lab = Lab::with(Limits { requests: 1, read: GENEROUS, drain: GENEROUS, ..Limits::default() });
        let at_work = lab.call("wait");
        assert_eq!(lab.started.recv().await.unwrap(), "wait");
        let error = error_of(lab.call("eth0").await.unwrap().unwrap());
        assert_eq!(error.code, Code::TRY_AGAIN_LATER);
        assert_eq!(error.msg, "flock-agent is busy: too many requests are at work");
        lab.service.permits.add_permits(1);
        assert_eq!(ifname_of(at_work.await.unwrap().unwrap()), "wait");
    }

    /// A garbage collection on a full node has some 200 KB.
    #[tokio::test]
    async fn large_requests_at_work_keep_no_large_one_waiting() {
        // All of them come at once, and none is to make room for another while it is read.
        let limits = Limits { large_waiting: 64, read: GENEROUS, drain: GENEROUS, ..Limits::default() };
        let mut lab = Lab::with(limits);
        let at_work: Vec<_> = (0..32).map(|_| lab.send(large("wait", 100_000))).collect();
        for _ in &at_work {
            assert_eq!(lab.started.recv().await.unwrap(), "wait");
        }
        assert_eq!(ifname_of(lab.send(large("eth0", 200_000)).await.unwrap().unwrap()), "eth0");
        lab.service.permits.add_permits(at_work.len());
        for call in at_work {
            assert_eq!(ifname_of(call.await.unwrap().unwrap()), "wait");
        }
    }

    #[tokio::test]
    async fn a_large_request_too_many_is_to_come_again() {
        let limits = Limits { large_bytes: MAX_LEN, read: GENEROUS, drain: GENEROUS, ..Limits::default() };
        let mut lab = Lab::with(limits);
        let at_work = lab.send(large("wait", 600_000));
        assert_eq!(lab.started.recv().await.unwrap(), "wait");
        let error = error_of(lab.send(large("eth0", 600_000)).await.unwrap().unwrap());
        assert_eq!(error.code, Code::TRY_AGAIN_LATER);
        assert_eq!(error.msg, "flock-agent is busy: too many large requests are at work");
        assert!(error.details.contains("try again"), "{error}");
        assert_eq!(ifname_of(lab.send(large("eth0", 300_000)).await.unwrap().unwrap()), "eth0");
        assert_eq!(ifname_of(lab.call("eth0").await.unwrap().unwrap()), "eth0");
        lab.service.permits.add_permits(1);
        assert_eq!(ifname_of(at_work.await.unwrap().unwrap()), "wait");
        assert_eq!(ifname_of(lab.send(large("eth0", 600_000)).await.unwrap().unwrap()), "eth0");
    }

    #[tokio::test]
    async fn the_largest_request_has_room_whatever_the_limit() {
        let lab = Lab::with(Limits { large_bytes: 0, large_waiting: 0, ..Limits::default() });
        let response = lab.send(large("error", MAX_LEN - 1_000)).await.unwrap().unwrap();
        assert_eq!(error_of(response).code, Code::ADDRESS);
    }

    #[tokio::test]
    async fn who_announces_a_large_request_and_sends_none_keeps_nobody_waiting() {
        let lab = Lab::with(Limits { large_waiting: 1, read: GENEROUS, ..Limits::default() });
        let announced = u32::try_from(MAX_LEN).unwrap().to_be_bytes();
        let idle: Vec<_> = (0..20)
            .map(|_| {
                let mut client = UnixStream::connect(lab.socket()).unwrap();
                client.write_all(&announced).unwrap();
                client
            })
            .collect();
        for _ in 0..3 {
            assert_eq!(ifname_of(lab.send(large("eth0", 200_000)).await.unwrap().unwrap()), "eth0");
        }
        drop(idle);
    }

    #[tokio::test]
    async fn of_those_that_sent_much_and_not_all_who_waits_longest_makes_room() {
        let lab = Lab::with(Limits { large_waiting: 2, read: GENEROUS, ..Limits::default() });
        let bytes = frame::encode(&large("eth0", 100_000)).unwrap();
        let (most, _) = bytes.split_at(bytes.len() - 1);
        let mut halves: Vec<_> = (0..2)
            .map(|_| {
                let mut client = UnixStream::connect(lab.socket()).unwrap();
                client.write_all(most).unwrap();
                client
            })
            .collect();
        assert_eq!(ifname_of(lab.send(large("eth0", 200_000)).await.unwrap().unwrap()), "eth0");
        let first = halves.remove(0);
        let answer = tokio::task::spawn_blocking(|| frame::read(first)).await.unwrap().unwrap();
        let error = error_of(Response::from_json(&answer).unwrap());
        assert_eq!(error.code, Code::TRY_AGAIN_LATER);
        assert_eq!(error.msg, "flock-agent is busy: too many clients sent no complete request yet");
        // The other one can go on.
        let mut second = halves.remove(0);
        second.write_all(&bytes[most.len()..]).unwrap();
        let answer = tokio::task::spawn_blocking(|| frame::read(second)).await.unwrap().unwrap();
        assert_eq!(ifname_of(Response::from_json(&answer).unwrap()), "eth0");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_does_not_hold_its_place() {
        let lab = Lab::with(Limits { requests: 1, write: BRIEF, ..Limits::default() });
        let socket = lab.socket();
        let write = move || {
            let mut deaf = UnixStream::connect(socket).unwrap();
            // The answer repeats the name, which is more than a socket's buffer takes.
            frame::write(&mut deaf, &request(&"x".repeat(MAX_LEN - 1000))).unwrap();
            deaf
        };
        let _deaf = tokio::task::spawn_blocking(write).await.unwrap();
        let deadline = Instant::now() + GENEROUS;
        while matches!(lab.call("eth0").await.unwrap().unwrap(), Response::Error(_)) {
            assert!(Instant::now() < deadline, "its place is still taken");
        }
    }
}

/// For this client, it is as if no agent had been there.
async fn no_answer(client: UnixStream) {
    let read = tokio::task::spawn_blocking(move || frame::read(client)).await.unwrap();
    assert!(matches!(read, Err(FrameError::Truncated { .. } | FrameError::Io(_))), "{read:?}");
}

mod shutdown {
    use super::*;

    #[tokio::test]
    async fn waits_for_the_requests_at_work_and_takes_no_more() {
        let mut lab = Lab::with(Limits { work: 1, read: GENEROUS, drain: GENEROUS, ..Limits::default() });
        let waiting = lab.call("wait");
        assert_eq!(lab.started.recv().await.unwrap(), "wait");
        let idle = UnixStream::connect(lab.socket()).unwrap();
        let mut patient = UnixStream::connect(lab.socket()).unwrap();
        frame::write(&mut patient, &request("eth0")).unwrap();
        lab.stop();
        for client in [idle, patient] {
            no_answer(client).await;
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

mod inquiries {
    use super::*;

    /// Answers with what was asked, once it may.
    #[derive(Debug)]
    struct Said {
        started: mpsc::UnboundedSender<Inquiry>,
        permits: Semaphore,
    }

    #[async_trait]
    impl Inspect for Said {
        async fn inspect(&self, inquiry: Inquiry) -> Response {
            self.started.send(inquiry).unwrap();
            self.permits.acquire().await.unwrap().forget();
            Response::result(&json!({"asked": inquiry.as_str()}))
        }
    }

    struct Inspected {
        lab: Lab,
        said: Arc<Said>,
        started: mpsc::UnboundedReceiver<Inquiry>,
    }

    impl Inspected {
        fn with(limits: Limits) -> Self {
            let (started_tx, started) = mpsc::unbounded_channel();
            let said = Arc::new(Said { started: started_tx, permits: Semaphore::new(0) });
            let lab = Lab::of(limits, |server| server.with_inspection(Arc::clone(&said) as _));
            Self { lab, said, started }
        }

        fn ask(&self, inquiry: Inquiry) -> JoinHandle<Result<Response, ClientError>> {
            ask(self.lab.socket(), inquiry)
        }

        /// One that the server has before whatever is asked next.
        fn sent(&self, inquiry: Inquiry) -> UnixStream {
            let mut client = UnixStream::connect(self.lab.socket()).unwrap();
            frame::write(&mut client, &InquiryFrame::new(inquiry)).unwrap();
            client
        }
    }

    async fn answer(client: UnixStream) -> Response {
        let json = tokio::task::spawn_blocking(|| frame::read(client)).await.unwrap().unwrap();
        Response::from_json(&json).unwrap()
    }

    fn ask(socket: PathBuf, inquiry: Inquiry) -> JoinHandle<Result<Response, ClientError>> {
        tokio::task::spawn_blocking(move || client::ask(&socket, inquiry, Deadline::after(GENEROUS)))
    }

    fn asked(response: Response) -> String {
        match response {
            Response::Result(Some(json)) => json.get().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn are_answered_where_there_is_somebody_to_answer() {
        let lab = Lab::new();
        let refused = error_of(ask(lab.socket(), Inquiry::View).await.unwrap().unwrap());
        assert_eq!(refused.code, Code::INVALID_ENVIRONMENT);
        assert!(refused.details.contains("flock-agent check --offline"), "{refused}");

        let inspected = Inspected::with(Limits::default());
        inspected.said.permits.add_permits(2);
        for inquiry in [Inquiry::View, Inquiry::Repair] {
            let answer = asked(inspected.ask(inquiry).await.unwrap().unwrap());
            assert_eq!(answer, format!(r#"{{"asked":"{}"}}"#, inquiry.as_str()));
        }
    }

    #[tokio::test]
    async fn wait_in_turn_and_neither_for_the_other_sort_nor_for_requests() {
        let limits = Limits { work: 1, views: 2, inquiry: GENEROUS, drain: GENEROUS, ..Limits::default() };
        let mut inspected = Inspected::with(limits);
        let at_work = inspected.lab.call("wait");
        assert_eq!(inspected.lab.started.recv().await.unwrap(), "wait");
        let mut asking = Vec::new();
        for inquiry in [Inquiry::View, Inquiry::View, Inquiry::Repair] {
            asking.push(inspected.ask(inquiry));
            assert_eq!(inspected.started.recv().await.unwrap(), inquiry);
        }
        let waiting = [Inquiry::View, Inquiry::Repair].map(|inquiry| inspected.sent(inquiry));
        inspected.lab.service.permits.add_permits(1);
        assert_eq!(ifname_of(at_work.await.unwrap().unwrap()), "wait");
        assert_eq!(ifname_of(inspected.lab.call("eth0").await.unwrap().unwrap()), "eth0");
        assert!(inspected.started.try_recv().is_err(), "one too many is at work");
        inspected.said.permits.add_permits(asking.len() + waiting.len());
        for asking in asking {
            asked(asking.await.unwrap().unwrap());
        }
        for waiting in waiting {
            asked(answer(waiting).await);
        }
    }

    #[tokio::test]
    async fn wait_no_longer_than_their_limit() {
        let limits = Limits { views: 1, inquiry: BRIEF, drain: GENEROUS, ..Limits::default() };
        let mut inspected = Inspected::with(limits);
        for inquiry in [Inquiry::View, Inquiry::Repair] {
            let at_work = inspected.ask(inquiry);
            assert_eq!(inspected.started.recv().await.unwrap(), inquiry);
            let error = error_of(inspected.ask(inquiry).await.unwrap().unwrap());
            assert_eq!(error.code, Code::TRY_AGAIN_LATER);
            let expected =
                format!("flock-agent is busy: it was answering {} for all of 100ms", inquiry.as_str());
            assert_eq!(error.msg, expected);
            inspected.said.permits.add_permits(1);
            asked(at_work.await.unwrap().unwrap());
        }
    }

    #[tokio::test]
    async fn that_wait_are_not_answered_where_the_server_ends() {
        let limits = Limits { views: 1, inquiry: GENEROUS, drain: GENEROUS, ..Limits::default() };
        let mut inspected = Inspected::with(limits);
        let at_work = inspected.ask(Inquiry::View);
        assert_eq!(inspected.started.recv().await.unwrap(), Inquiry::View);
        let waiting = inspected.sent(Inquiry::View);
        // Who came later is answered: that one was read.
        assert_eq!(ifname_of(inspected.lab.call("eth0").await.unwrap().unwrap()), "eth0");
        inspected.lab.stop();
        no_answer(waiting).await;
        inspected.said.permits.add_permits(1);
        asked(at_work.await.unwrap().unwrap());
    }
}

/// While a run directory is claimed no agent uses it, and the other way round.
#[tokio::test]
async fn a_claimed_run_directory_has_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("flock.sock");
    let claim = Claim::of(&socket).unwrap();
    assert!(matches!(Server::bind(&socket), Err(BindError::AlreadyServing { .. })));
    drop(claim);
    let _server = Server::bind(&socket).unwrap();
    assert!(matches!(Claim::of(&socket), Err(BindError::AlreadyServing { .. })));
}
