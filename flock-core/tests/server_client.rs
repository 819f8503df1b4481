//! The plugin's side against agents that are absent, hang or talk nonsense.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use flock_core::client::{self, ClientError, Deadline, Step};
use flock_core::cni::{self, Code, RawCall, Verb};
use flock_core::frame::{self, FrameError, MAX_LEN, Request, Response};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::json;
use tempfile::TempDir;

const BRIEF: Duration = Duration::from_millis(150);
const GENEROUS: Duration = Duration::from_secs(30);

fn request(config_len: usize) -> Request {
    let config = json!({"padding": "x".repeat(config_len)}).to_string();
    let raw = RawCall { verb: Verb::Add, config: config.as_bytes(), ..RawCall::default() };
    Request::new(&raw).unwrap()
}

fn socket() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flock.sock");
    (dir, path)
}

/// Calls and checks that the deadline holds, with room for a busy machine.
fn brief(socket: &Path, config_len: usize) -> ClientError {
    let start = Instant::now();
    let error = client::call(socket, request(config_len), Deadline::after(BRIEF)).unwrap_err();
    let elapsed = start.elapsed();
    assert!(elapsed < BRIEF + Duration::from_secs(5), "{elapsed:?}");
    error
}

/// An agent that takes one connection and does `act` with it.
fn agent(socket: &Path, act: impl FnOnce(UnixStream) + Send + 'static) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || act(listener.accept().unwrap().0))
}

#[test]
fn an_agent_that_is_not_there_is_named_with_its_socket() {
    let (dir, path) = socket();
    let absent = client::call(&path, request(0), Deadline::after(GENEROUS)).unwrap_err();
    drop(UnixListener::bind(&path).unwrap());
    let dead = client::call(&path, request(0), Deadline::after(GENEROUS)).unwrap_err();
    let below = client::call(&path.join("x"), request(0), Deadline::after(GENEROUS)).unwrap_err();
    for error in [absent, dead, below] {
        assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
        let error = cni::Error::from(error);
        assert_eq!(error.code, Code::TRY_AGAIN_LATER);
        assert!(error.msg.starts_with("flock-agent is not running: nothing listens on "), "{error}");
        assert!(error.msg.contains(dir.path().to_str().unwrap()), "{error}");
        for place in
            ["DaemonSet flock-agent", "kubectl -n flock-system logs", "service that runs flock-agent"]
        {
            assert!(error.details.contains(place), "{error}");
        }
    }
}

#[test]
fn a_path_that_no_socket_can_have_is_refused() {
    let path = PathBuf::from(format!("/run/{}/flock.sock", "x".repeat(120)));
    let error = cni::Error::from(client::call(&path, request(0), Deadline::after(GENEROUS)).unwrap_err());
    assert_eq!(error.code, Code::IO_FAILURE);
    assert!(error.details.contains("runDir"), "{error}");
}

#[test]
fn a_missing_permission_is_said() {
    let error = cni::Error::from(ClientError::Denied { socket: PathBuf::from("/run/flock/flock.sock") });
    assert_eq!(error.code, Code::IO_FAILURE);
    assert_eq!(
        error.msg,
        "no permission to connect to flock-agent on /run/flock/flock.sock, expected to run as root or as the agent's user"
    );
}

#[test]
fn an_agent_that_never_accepts_is_waited_for_until_the_deadline() {
    let (_dir, path) = socket();
    let _listener = UnixListener::bind(&path).unwrap();
    let error = brief(&path, 0);
    assert!(matches!(error, ClientError::Deadline { step: Step::Answer, .. }), "{error}");
    let error = cni::Error::from(error);
    assert_eq!(error.code, Code::TRY_AGAIN_LATER);
    let expected = format!("flock-agent did not answer on {} within 150 ms", path.display());
    assert_eq!(error.msg, expected);
}

#[test]
fn a_full_queue_of_connections_is_waited_for_until_the_deadline() {
    let (_dir, path) = socket();
    let address = SocketAddrUnix::new(&path).unwrap();
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let mut queue: Vec<OwnedFd> = Vec::new();
    loop {
        let stream = SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, stream, None).unwrap();
        if rustix::net::connect(&fd, &address).is_err() {
            break;
        }
        queue.push(fd);
    }
    let error = brief(&path, 0);
    assert!(matches!(error, ClientError::Deadline { step: Step::Connection, .. }), "{error}");
    assert!(error.to_string().starts_with("flock-agent did not accept a connection on "), "{error}");
}

#[test]
fn a_queue_that_moves_in_time_is_waited_for() {
    let (_dir, path) = socket();
    let address = SocketAddrUnix::new(&path).unwrap();
    let fd = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&fd, &address).unwrap();
    rustix::net::listen(&fd, 0).unwrap();
    let listener = UnixListener::from(fd);
    let first = UnixStream::connect(&path).unwrap();
    let calling = thread::spawn({
        let path = path.clone();
        move || client::call(&path, request(0), Deadline::after(GENEROUS))
    });
    drop((listener.accept().unwrap(), first));
    let (mut second, _) = listener.accept().unwrap();
    frame::read(&mut second).unwrap();
    frame::write(&mut second, &Response::EMPTY).unwrap();
    assert!(matches!(calling.join().unwrap(), Ok(Response::Result(None))));
}

#[test]
fn an_agent_that_does_not_read_is_waited_for_until_the_deadline() {
    let (_dir, path) = socket();
    let _listener = UnixListener::bind(&path).unwrap();
    let error = brief(&path, MAX_LEN - 1000);
    assert!(matches!(error, ClientError::Deadline { step: Step::Request, .. }), "{error}");
}

#[test]
fn an_agent_that_closes_early_or_in_the_middle_is_tried_again_later() {
    for answer in [&b""[..], b"\0\0", b"\0\0\0\x10{\"result\""] {
        let (_dir, path) = socket();
        let agent = agent(&path, move |mut stream| {
            frame::read(&mut stream).unwrap();
            stream.write_all(answer).unwrap();
        });
        let error = client::call(&path, request(0), Deadline::after(GENEROUS)).unwrap_err();
        assert!(matches!(error, ClientError::Closed { step: Step::Answer, .. }), "{error}");
        assert_eq!(cni::Error::from(error).code, Code::TRY_AGAIN_LATER);
        agent.join().unwrap();
    }
}

#[test]
fn an_agent_that_closes_without_reading_is_tried_again_later() {
    let (_dir, path) = socket();
    let agent = agent(&path, drop);
    let error = client::call(&path, request(MAX_LEN / 2), Deadline::after(GENEROUS)).unwrap_err();
    assert!(matches!(error, ClientError::Closed { .. }), "{error}");
    agent.join().unwrap();
}

#[test]
fn an_answer_that_comes_before_the_request_was_read_counts() {
    let (_dir, path) = socket();
    let agent = agent(&path, |mut stream| {
        // As a server does that refuses the caller: it answers and closes.
        frame::write(&mut stream, &Response::from(cni::Error::new(Code::DENIED, "no", ""))).unwrap();
    });
    match client::call(&path, request(MAX_LEN / 2), Deadline::after(GENEROUS)) {
        Ok(Response::Error(error)) => assert_eq!(error.code, Code::DENIED),
        other => panic!("{other:?}"),
    }
    agent.join().unwrap();
}

#[test]
fn an_answer_that_is_none_is_code_6() {
    let too_long = u32::try_from(MAX_LEN + 1).unwrap().to_be_bytes();
    for answer in [&b"\0\0\0\x05hello"[..], b"\0\0\0\x02{}", &too_long, b"HTTP/1.1 400 Bad Request\r\n"] {
        let (_dir, path) = socket();
        let bytes = answer.to_owned();
        let agent = agent(&path, move |mut stream| {
            frame::read(&mut stream).unwrap();
            stream.write_all(&bytes).unwrap();
            let _ = stream.read(&mut [0]);
        });
        let error = client::call(&path, request(0), Deadline::after(GENEROUS)).unwrap_err();
        assert!(matches!(error, ClientError::Frame { step: Step::Answer, .. }), "{error}");
        let error = cni::Error::from(error);
        assert_eq!(error.code, Code::DECODING_FAILURE);
        assert!(error.msg.starts_with("the answer of flock-agent on "), "{error}");
        agent.join().unwrap();
    }
}

#[test]
fn a_request_that_is_too_large_is_not_sent() {
    let (_dir, path) = socket();
    let _listener = UnixListener::bind(&path).unwrap();
    let error = client::call(&path, request(MAX_LEN), Deadline::after(GENEROUS)).unwrap_err();
    assert!(
        matches!(error, ClientError::Frame { step: Step::Request, source: FrameError::TooLong { .. }, .. }),
        "{error}"
    );
    assert_eq!(cni::Error::from(error).code, Code::INVALID_CONFIG);
}
