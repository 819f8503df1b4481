//! The plugin as a process, against a real server with a service made for the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flock_core::boot;
use flock_core::client::Deadline;
use flock_core::cni::{CniResult, Code, Error, Operation, Verb};
use flock_core::deletions::DeletionQueue;
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
        lab.serve();
        lab
    }

    fn serve(&self) {
        let socket = self.dir.path().join("flock.sock");
        let server = self.runtime.block_on(async { Server::bind(socket).unwrap() });
        self.runtime.spawn(server.run(Arc::new(Agent), std::future::pending()));
    }

    /// What waits for an agent, in order.
    fn queued(&self) -> Vec<String> {
        let queue = DeletionQueue::of_run_dir(self.dir.path());
        let waiting = queue.lock(Deadline::after(Duration::from_secs(5))).unwrap().waiting().unwrap();
        assert_eq!(waiting.set_aside, []);
        waiting.entries.iter().map(|entry| entry.deletion.key.to_string()).collect()
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
fn without_an_agent_the_socket_is_named_at_once() {
    let lab = Lab::without_agent();
    let socket = lab.dir.path().join("flock.sock").display().to_string();
    for (verb, code) in [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)] {
        let start = Instant::now();
        let output = lab.run(verb, "eth0");
        assert!(start.elapsed() < Duration::from_secs(1), "{verb}: {:?}", start.elapsed());
        assert_fails(&output, code, "flock-agent is not running: nothing listens on ");
        let error = json_of(&output);
        assert!(error["msg"].as_str().unwrap().contains(&socket), "{error}");
        let details = error["details"].as_str().unwrap();
        for look_at in ["kubectl -n flock-system logs", "DaemonSet flock-agent", "\"runDir\"", "--run-dir"] {
            assert!(details.contains(look_at), "{details}");
        }
    }
    assert_eq!(lab.queued(), Vec::<String>::new());
}

#[test]
fn without_an_agent_a_deletion_is_queued() {
    let lab = Lab::without_agent();
    // In front of the first start of an agent, not even the run directory is there.
    let run_dir = lab.dir.path().join("flock");
    let config = lab.config("1.1.0", 20).replace(lab.dir.path().to_str().unwrap(), run_dir.to_str().unwrap());
    for ifname in ["eth0", "eth1", "eth0"] {
        let start = Instant::now();
        let output = run("DEL", ifname, &config);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b""[..]), "{output:?}");
        let notice = String::from_utf8(output.stderr).unwrap();
        assert!(notice.starts_with("flock: flock-agent is not running: "), "{notice}");
        assert!(notice.contains(&format!("the deletion of 0123456789ab/{ifname} waits in ")), "{notice}");
    }
    assert_eq!(fs::metadata(&run_dir).unwrap().permissions().mode() & 0o7777, 0o700);
    let queue = DeletionQueue::of_run_dir(&run_dir);
    let waiting = queue.lock(Deadline::after(Duration::from_secs(5))).unwrap().waiting().unwrap();
    assert_eq!(waiting.set_aside, []);
    let boot_id = boot::id().unwrap();
    let found: Vec<_> = waiting.entries.iter().map(|entry| entry.deletion.key.interface.as_str()).collect();
    assert_eq!(found, ["eth0", "eth1"]);
    assert!(waiting.entries.iter().all(|entry| entry.deletion.boot_id == boot_id));
}

/// A socket that is there and that nobody listens on: the agent was killed.
#[test]
fn a_dead_agents_socket_makes_no_difference() {
    let lab = Lab::without_agent();
    drop(UnixListener::bind(lab.dir.path().join("flock.sock")).unwrap());
    assert_fails(&lab.run("ADD", "eth0"), 11, "flock-agent is not running");
    assert!(lab.run("DEL", "eth0").status.success());
    assert_eq!(lab.queued(), ["0123456789ab/eth0"]);
}

/// The agent takes the request and is gone before it answers.
#[test]
fn a_deletion_that_an_agent_died_of_is_queued() {
    let lab = Lab::without_agent();
    let listener = UnixListener::bind(lab.dir.path().join("flock.sock")).unwrap();
    let agent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        frame::read(&mut stream).unwrap();
    });
    let output = lab.run("DEL", "eth0");
    agent.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(lab.queued(), ["0123456789ab/eth0"]);
}

/// Between the first look and the lock, an agent was started.
#[test]
fn an_agent_that_is_there_by_now_is_asked() {
    let lab = Lab::without_agent();
    let queue = DeletionQueue::of_run_dir(lab.dir.path());
    let locked = queue.lock(Deadline::after(Duration::from_secs(5))).unwrap();
    let mut child = plugin("DEL", "eth0").spawn().unwrap();
    child.stdin.take().unwrap().write_all(lab.config("1.1.0", 20).as_bytes()).unwrap();
    // It waits for the lock once it has opened the queue.
    let wanted = fs::canonicalize(queue.path()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !has_open(child.id(), &wanted) {
        assert!(Instant::now() < deadline, "it does not wait for the lock: {:?}", child.try_wait());
        thread::yield_now();
    }
    lab.serve();
    drop(locked);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{output:?}");
    assert_eq!(lab.queued(), Vec::<String>::new());
}

/// A live agent that can't do it now is not asked again at once: the runtime comes again.
#[test]
fn an_agent_that_says_no_is_asked_once() {
    let lab = Lab::without_agent();
    let listener = UnixListener::bind(lab.dir.path().join("flock.sock")).unwrap();
    let agent = thread::spawn(move || {
        let mut connections = 0;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            connections += 1;
            let Ok(json) = frame::read(&mut stream) else { continue };
            if Request::from_json(&json).unwrap().verb == Verb::Status {
                break;
            }
            let busy = Error::new(Code::TRY_AGAIN_LATER, "no buffer space", "wait");
            frame::write(&mut stream, &Response::from(busy)).unwrap();
        }
        connections
    });
    assert_fails(&lab.run("DEL", "eth0"), 11, "no buffer space");
    assert_eq!(lab.queued(), Vec::<String>::new());
    lab.run("STATUS", "");
    assert_eq!(agent.join().unwrap(), 2, "connections, one of which is the last");
}

/// It takes no request any more, and the next one is there already.
#[test]
fn a_deletion_that_meets_an_agent_at_its_end_is_the_next_ones() {
    let lab = Lab::without_agent();
    let socket = lab.dir.path().join("flock.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (answered, next) = (std::sync::mpsc::channel(), socket.clone());
    let agent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        frame::read(&mut stream).unwrap();
        fs::remove_file(&next).unwrap();
        answered.0.send(()).unwrap();
        stream
    });
    let mut child = plugin("DEL", "eth0").spawn().unwrap();
    child.stdin.take().unwrap().write_all(lab.config("1.1.0", 20).as_bytes()).unwrap();
    answered.1.recv().unwrap();
    lab.serve();
    // The connection ends without an answer.
    drop(agent.join().unwrap());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{output:?}");
    assert_eq!(lab.queued(), Vec::<String>::new());
}

fn has_open(process: u32, path: &Path) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|found| found == path))
}

/// Nobody listens, and the queue is in another process's hands for good.
#[test]
fn a_deletion_that_can_not_be_queued_fails_by_its_deadline() {
    let lab = Lab::without_agent();
    let queue = DeletionQueue::of_run_dir(lab.dir.path());
    let _locked = queue.lock(Deadline::after(Duration::from_secs(5))).unwrap();
    let output = run("DEL", "eth0", &lab.config("1.1.0", 1));
    assert_fails(&output, 11, "flock-agent is not running: ");
    assert_fails(&output, 11, "and the deletion can't be queued: another process has had the queue ");
}

/// Whenever the plugin is killed, no entry is half and no lock stays.
#[test]
fn a_killed_plugin_leaves_the_whole_entry_or_none() {
    const ROUNDS: u32 = 40;
    let lab = Lab::without_agent();
    let config = lab.config("1.1.0", 20);
    let start = Instant::now();
    assert!(run("DEL", "whole", &config).status.success());
    let usual = start.elapsed();
    for round in 0..ROUNDS {
        let mut child = plugin("DEL", &format!("eth{round}")).spawn().unwrap();
        child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
        // From its first instruction to its last.
        let until = Instant::now() + usual * round / ROUNDS;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let queued = lab.queued();
    assert_eq!(queued[0], "0123456789ab/whole");
    assert!(run("DEL", "after", &config).status.success());
    assert_eq!(lab.queued().last().unwrap(), "0123456789ab/after");
    assert_eq!(lab.queued().len(), queued.len() + 1);
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
