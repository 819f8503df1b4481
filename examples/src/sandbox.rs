//! Private namespaces around a whole program.
//!
//! [`enter`] re-executes the running program as process 1 of new network, mount
//! and PID namespaces, and of a user namespace where it does not run as root. In
//! there `/run` is an empty tmpfs, so that `ip netns` names, sockets and logs live
//! and die with the sandbox. When process 1 ends, the kernel ends every other
//! process in the PID namespace; with the last process go the namespaces, their
//! links and their mounts.
//!
//! Architecture invariant: nothing survives the program that made a sandbox,
//! whatever it dies of, unless [`Sandbox::keep`] was called. Process 1 reads from
//! a pipe that only the program outside holds open (the lifeline) and ends when
//! that is closed, which the kernel does also for a program that was killed.
//! Checked by `tests/demo.rs`.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use rustix::mount::MountFlags;
use tokio::signal::unix::{SignalKind, signal};

use crate::{LabError, Result};

mod outside;

/// Set for the program inside: `root` or `user`, whose namespaces they are.
const MARK: &str = "FLOCK_SANDBOX";
/// Set for the program inside where the output goes to a terminal in the end.
const TERMINAL: &str = "FLOCK_SANDBOX_TERMINAL";
/// Ends the output of a sandbox that stays.
const STAYS: u8 = 0;

/// Where the program finds itself after [`enter`].
#[derive(Debug)]
pub enum Entry {
    /// In the sandbox: go on.
    Inside(Sandbox),
    /// Outside, and the sandbox has ended: end with this status.
    Left(ExitCode),
}

/// The sandbox that this program runs in, as its process 1.
#[derive(Debug)]
pub struct Sandbox {
    /// Process 1 as the machine outside numbers it.
    pid: u32,
    user_namespace: bool,
    terminal: bool,
    stays: Arc<AtomicBool>,
}

/// Enters a sandbox by running this program again in it, with the same arguments.
pub fn enter() -> Result<Entry> {
    enter_with(env::args_os().skip(1).collect())
}

/// Runs `body` of the test function `test` (its path below the test's crate) in a
/// sandbox: the test's program is run again with only that test.
pub fn within(test: &str, body: impl FnOnce(&Sandbox) -> Result<()>) -> Result<()> {
    let arguments = [test, "--exact", "--nocapture", "--include-ignored"];
    match enter_with(arguments.map(OsString::from).to_vec())? {
        Entry::Inside(sandbox) => body(&sandbox),
        Entry::Left(code) if code == ExitCode::SUCCESS => Ok(()),
        Entry::Left(code) => Err(LabError::Unexpected(format!("{test} failed in its sandbox: {code:?}"))),
    }
}

fn enter_with(arguments: Vec<OsString>) -> Result<Entry> {
    // A program that is started by one in a sandbox makes a sandbox of its own.
    match env::var(MARK) {
        Ok(mark) if process::id() == 1 => Ok(Entry::Inside(settle(&mark)?)),
        _ => outside::run(arguments).map(Entry::Left),
    }
}

fn settle(mark: &str) -> Result<Sandbox> {
    let stays = Arc::new(AtomicBool::new(false));
    let pid = hold_lifeline(Arc::clone(&stays))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", "/run", "tmpfs", flags, c"mode=0755")
        .map_err(|errno| LabError::file("mount a tmpfs on", "/run")(errno.into()))?;
    let names = std::fs::canonicalize("/var/run").map_err(LabError::file("find", "/var/run"))?;
    if names != std::path::Path::new("/run") {
        return Err(LabError::Unexpected(format!(
            "/var/run is {}, expected a link to /run: `ip netns` would leave names on this machine",
            names.display()
        )));
    }
    Ok(Sandbox { pid, user_namespace: mark == "user", terminal: env::var_os(TERMINAL).is_some(), stays })
}

/// Ends this process, and with it everything in the sandbox, when the program outside is gone.
fn hold_lifeline(stays: Arc<AtomicBool>) -> Result<u32> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut lifeline = io::stdin().lock();
        let mut first = String::new();
        lifeline.read_line(&mut first).ok();
        sender.send(first.trim().parse()).ok();
        // Nothing more is ever written: this returns when the other end is closed.
        lifeline.read_to_end(&mut Vec::new()).ok();
        if !stays.load(Ordering::SeqCst) {
            process::exit(1);
        }
    });
    match receiver.recv() {
        Ok(Ok(pid)) => Ok(pid),
        _ => Err(LabError::Unexpected(format!("{MARK} is set, but no program outside holds the lifeline"))),
    }
}

impl Sandbox {
    /// The command that opens a shell in here from the machine outside, without its last words.
    pub fn nsenter(&self) -> String {
        let user = if self.user_namespace { " --user --preserve-credentials" } else { "" };
        format!("nsenter --target {}{user} --mount --net --pid", self.pid)
    }

    /// The command that ends a sandbox that was kept.
    pub fn end_command(&self) -> String {
        format!("kill {}", self.pid)
    }

    /// Whether what is printed here goes to a terminal in the end.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Lets the program outside end with success, and stays until somebody ends
    /// this process (SIGTERM, SIGINT or SIGHUP).
    pub fn keep(&self) -> Result<()> {
        let runtime = outside::runtime()?;
        runtime.block_on(async {
            let broken = |error| LabError::Unexpected(format!("can't listen for signals: {error}"));
            let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
            let mut hangup = signal(SignalKind::hangup()).map_err(broken)?;
            self.stays.store(true, Ordering::SeqCst);
            take_leave().map_err(LabError::file("leave", "the terminal"))?;
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
            Ok(())
        })
    }
}

/// Nobody reads what is said from now on.
fn take_leave() -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(&[STAYS])?;
    out.flush()?;
    let nothing = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nothing)?;
    rustix::stdio::dup2_stderr(&nothing)?;
    Ok(())
}
