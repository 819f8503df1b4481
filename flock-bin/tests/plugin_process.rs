//! The plugin as a process, against a real server with a service made for the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use async_trait::async_trait;
use flock_core::cni::{CniResult, Code, Error, Operation};
use flock_core::frame::{self, Request, Response};
use flock_core::server::{Server, Service};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Validates as an agent does; the interface's name says what else happens.
#[derive(Debug)]
struct Agent;

#[async_trait]
impl Service for Agent {
    async fn call(&self, request: Request) -> Response {
        let call = match request.operation() {
            Ok(Operation::Attachment(call)) => call,
            Ok(_) => return Response::EMPTY,
            Err(error) => return error.into(),
        };
        match call.key.interface.as_str() {
            "hang" => std::future::pending().await,
            "taken" => Error::new(Code::ADDRESS, "10.0.1.7 is already in use", "choose another").into(),
            "empty" => Response::EMPTY,
            _ => Response::result(&CniResult::default().to_json(call.config.cni_version)),
        }
    }
}

struct Lab {
    dir: TempDir,
    runtime: Runtime,
}

impl Lab {
    fn without_agent() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), runtime: Runtime::new().unwrap() }
    }

    fn new() -> Self {
        let lab = Self::without_agent();
        let socket = lab.dir.path().join("flock.sock");
        let server = lab.runtime.block_on(async { Server::bind(socket).unwrap() });
        lab.runtime.spawn(server.run(Arc::new(Agent), std::future::pending()));
        lab
    }

    fn config(&self, version: &str, timeout: u64) -> String {
        let dir = self.dir.path();
        json!({"cniVersion": version, "name": "flock", "runDir": dir, "timeoutSeconds": timeout}).to_string()
    }

    fn run(&self, verb: &str, ifname: &str) -> Output {
        run(verb, ifname, &self.config("1.1.0", 20))
    }
}

fn plugin(verb: &str, ifname: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flock"));
    command.env_clear().env("CNI_COMMAND", verb).env("CNI_CONTAINERID", "0123456789ab");
    command.env("CNI_NETNS", "/run/netns/pod1").env("CNI_IFNAME", ifname);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(verb: &str, ifname: &str, config: &str) -> Output {
    let mut child = plugin(verb, ifname).spawn().unwrap();
    child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[track_caller]
fn assert_fails(output: &Output, code: u32, expected: &str) {
    let error = json_of(output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error["code"], code, "{error}");
    assert!(error["msg"].as_str().unwrap().contains(expected), "{error}");
}

#[test]
fn the_agents_result_is_printed() {
    let lab = Lab::new();
    let output = lab.run("ADD", "eth0");
    assert_eq!(json_of(&output), json!({"cniVersion": "1.1.0"}));
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    for verb in ["DEL", "CHECK", "ADD"] {
        let output = lab.run(verb, "empty");
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b""[..]), "{verb}");
    }
    for verb in ["STATUS", "GC"] {
        assert_eq!(lab.run(verb, "").status.code(), Some(0), "{verb}");
    }
}

#[test]
fn the_agents_error_is_printed_in_the_configurations_version() {
    let lab = Lab::new();
    let output = run("ADD", "taken", &lab.config("0.4.0", 20));
    assert_eq!(
        json_of(&output),
        json!({"cniVersion": "0.4.0", "code": 101, "msg": "10.0.1.7 is already in use", "details": "choose another"})
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_only_the_agent_validates_comes_back() {
    let lab = Lab::new();
    let config = lab.config("1.1.0", 20).replace("\"flock\"", "\"a/b\"");
    assert_fails(&run("ADD", "eth0", &config), 7, "\"name\": \"a/b\" is not a valid network name");
}

#[test]
fn an_agent_that_hangs_is_waited_for_as_long_as_configured() {
    let lab = Lab::new();
    let start = Instant::now();
    assert_fails(&run("ADD", "hang", &lab.config("1.1.0", 1)), 11, "flock-agent did not answer");
    assert!((1..6).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[test]
fn without_an_agent_the_socket_is_named() {
    let lab = Lab::without_agent();
    assert_fails(&lab.run("DEL", "eth0"), 11, "flock-agent is not running: nothing listens on ");
    assert_fails(&lab.run("STATUS", ""), 50, lab.dir.path().to_str().unwrap());
}

#[test]
fn an_agent_that_breaks_off_or_talks_nonsense_is_an_error() {
    for (answer, code, expected) in [
        (&b"\0\0\0\x20{\"result\""[..], 11, "closed the connection"),
        (b"\0\0\0\x05hello", 6, "can't be decoded"),
        (b"\xff\xff\xff\xff", 6, "expected at most 1048576"),
    ] {
        let lab = Lab::without_agent();
        let listener = UnixListener::bind(lab.dir.path().join("flock.sock")).unwrap();
        let agent = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            frame::read(&mut stream).unwrap();
            stream.write_all(answer).unwrap();
        });
        assert_fails(&lab.run("ADD", "eth0"), code, expected);
        agent.join().unwrap();
    }
}

#[test]
fn a_configuration_that_is_too_large_is_refused_as_such() {
    let lab = Lab::new();
    let mut child = plugin("ADD", "eth0").spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The plugin stops reading at its limit, the rest meets a closed pipe.
    let writing = thread::spawn(move || drop(stdin.write_all(&vec![b' '; 4 << 20])));
    assert_fails(&child.wait_with_output().unwrap(), 7, "standard input has more than 1048576 bytes");
    writing.join().unwrap();
    // Fits on standard input, but not in a frame with the rest of the request.
    let padding = "x".repeat((1 << 20) - 200);
    let config = lab.config("1.1.0", 20).replacen('{', &format!("{{\"padding\":\"{padding}\","), 1);
    assert_fails(&run("ADD", "eth0", &config), 7, "expected at most 1048576");
}

#[test]
fn standard_input_that_stays_open_does_not_hold_up_status_and_version() {
    for (verb, code) in [("STATUS", 1), ("VERSION", 0)] {
        let mut child = plugin(verb, "").spawn().unwrap();
        let stdin = child.stdin.take();
        let mut output = String::new();
        child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{verb}: {output}");
        assert!(output.contains("\"cniVersion\""), "{verb}: {output}");
        drop(stdin);
    }
}

#[test]
fn by_hand_it_says_what_it_is() {
    let by_hand = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flock"));
        command.env_clear().stdin(Stdio::null());
        command
    };
    let output = by_hand().output().unwrap();
    assert_fails(&output, 4, "CNI_COMMAND is missing");
    assert!(output.stderr.starts_with(b"flock is a CNI plugin"));
    let help = by_hand().arg("--help").output().unwrap();
    assert!(help.status.success() && help.stdout.starts_with(b"flock is a CNI plugin"));
}
