//! The program outside: starts itself in the sandbox, passes on what is said
//! there, and ends the sandbox when it is interrupted.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{MARK, STAYS, TERMINAL};
use crate::{LabError, Result, process};

/// How long the kernel may take to end everything in a sandbox.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long a program may take to be started in new namespaces.
const START_LIMIT: Duration = Duration::from_secs(10);

const ROOT: &[&str] = &["--fork", "--kill-child", "--net", "--mount", "--pid", "--mount-proc"];
const USER: &[&str] =
    &["--user", "--map-root-user", "--fork", "--kill-child", "--net", "--mount", "--pid", "--mount-proc"];

pub(super) fn run(arguments: Vec<OsString>) -> Result<ExitCode> {
    let (mark, flags) = namespaces()?;
    runtime()?.block_on(supervise(mark, flags, arguments))
}

pub(super) fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| LabError::Unexpected(format!("can't start an event loop: {error}")))
}

/// The kind of namespaces that this machine lets us make, tried out.
fn namespaces() -> Result<(&'static str, &'static [&'static str])> {
    let mut reasons = Vec::new();
    let root = rustix::process::geteuid().is_root().then_some(("root", ROOT));
    for (mark, flags) in root.into_iter().chain([("user", USER)]) {
        match process::run(Command::new("unshare").args(flags).arg("true")) {
            Ok(_) => return Ok((mark, flags)),
            Err(LabError::Failed { output, .. }) => reasons.push(output),
            Err(error) => return Err(error),
        }
    }
    Err(LabError::NoNamespaces { reason: reasons.join("; ") })
}

async fn supervise(mark: &str, flags: &[&str], arguments: Vec<OsString>) -> Result<ExitCode> {
    let mut interrupts = Interrupts::listen()?;
    let mut child = start(mark, flags, arguments)?;
    let lifeline = child.stdin.take();
    let out = tokio::spawn(relay(child.stdout.take(), io::stdout()));
    let err = tokio::spawn(relay(child.stderr.take(), io::stderr()));
    let mut lifeline =
        lifeline.ok_or_else(|| LabError::Unexpected("the sandbox has no standard input".to_owned()))?;
    if let Some(pid) = first_child(&child).await {
        // A sandbox that ended before it read this says why by its status.
        lifeline.write_all(format!("{pid}\n").as_bytes()).await.ok();
    }
    tokio::pin!(out);
    tokio::select! {
        status = child.wait() => {
            let status = status.map_err(LabError::file("wait for", "unshare"))?;
            // What was said is passed on to its end; a closed terminal is no matter any more.
            // One that has ended may have been asked already, below, and answers only once.
            if !out.is_finished() {
                out.await.ok();
            }
            err.await.ok();
            Ok(exit_code(status))
        }
        Ok(Relayed::Stays) = &mut out => Ok(ExitCode::SUCCESS),
        signal = interrupts.next() => {
            drop(lifeline);
            end(&mut child).await?;
            eprintln!("interrupted: the lab and everything in it is gone");
            Ok(ExitCode::from(128 + signal))
        }
    }
}

fn start(mark: &str, flags: &[&str], arguments: Vec<OsString>) -> Result<Child> {
    let this = env::current_exe().map_err(LabError::file("find", "this program"))?;
    let mut command = Command::new("unshare");
    command.args(flags).arg("--").arg(this).args(arguments);
    // On Debian the networking tools are not in the path of ordinary users.
    let path = env::var("PATH").unwrap_or_default();
    command.env(MARK, mark).env("PATH", format!("{path}:/usr/sbin:/sbin"));
    if io::stdout().is_terminal() {
        command.env(TERMINAL, "1");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = process::start_error(&command);
    let mut command = tokio::process::Command::from(command);
    // What is typed at the terminal is for the program outside: it ends the sandbox in order.
    command.process_group(0).spawn().map_err(failed)
}

/// The process that unshare forked: process 1 of the sandbox. None if it ended before.
async fn first_child(child: &Child) -> Option<u32> {
    let parent = child.id()?;
    let find = async {
        loop {
            if let Some(pid) = child_of(parent) {
                return pid;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(START_LIMIT, find).await.ok()
}

/// From `/proc/PID/stat`: after the name in parentheses come the state and the parent.
fn child_of(parent: u32) -> Option<u32> {
    let parent = parent.to_string();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        (fields.split(' ').nth(1)? == parent).then_some(pid)
    })
}

enum Relayed {
    Ended,
    Stays,
}

async fn relay(from: Option<impl AsyncRead + Unpin>, mut to: impl Write) -> Relayed {
    let Some(mut from) = from else { return Relayed::Ended };
    let mut buffer = [0; 4096];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return Relayed::Ended };
        let said = buffer.get(..count).unwrap_or_default();
        let (text, stays) = match said.iter().position(|byte| *byte == STAYS) {
            Some(end) => (said.get(..end).unwrap_or_default(), true),
            None => (said, false),
        };
        // A reader that has gone does not stop the work.
        to.write_all(text).and_then(|()| to.flush()).ok();
        if stays {
            return Relayed::Stays;
        }
    }
}

/// Without its lifeline process 1 ends by itself; the kernel then ends all the
/// others before unshare sees it gone.
async fn end(child: &mut Child) -> Result<()> {
    if tokio::time::timeout(END_LIMIT, child.wait()).await.is_err() {
        child.kill().await.map_err(LabError::file("kill", "unshare"))?;
    }
    Ok(())
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Interrupts {
    fn listen() -> Result<Self> {
        let listen = |kind: SignalKind| {
            signal(kind).map_err(|error| LabError::Unexpected(format!("can't listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The number of the next one.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
            _ = self.hangup.recv() => 1,
        }
    }
}
