//! Commands that end, and daemons that do not.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::{LabError, Result};

const INSTALL_HINT: &str = "is it installed? `make demo`, `make test` and `make e2e` install what is missing";

/// Runs `command` to its end and answers with its standard output; a bad status is an error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    answer(command, output)
}

/// The same with a file as its standard input.
pub fn run_with(command: &mut Command, input: File) -> Result<String> {
    let output = command.stdin(input).output().map_err(start_error(command))?;
    answer(command, output)
}

fn answer(command: &Command, output: Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(LabError::Failed {
        command: command_line(command),
        status: status_text(output.status),
        output: String::from_utf8_lossy(&said).trim().to_owned(),
    })
}

/// Runs `command` to its end and answers with everything, whatever its status.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().map_err(start_error(command))
}

/// For `map_err` where `command` is started.
pub(crate) fn start_error(command: &Command) -> impl FnOnce(io::Error) -> LabError + use<> {
    let program = command.get_program().to_string_lossy().into_owned();
    move |source| LabError::Start { program, source, hint: INSTALL_HINT }
}

/// As one would type it.
pub(crate) fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn status_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    }
}

/// A process that runs until it is ended. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` with both its streams appended to the file `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().append(true).create(true).open(log);
        let file = file.map_err(LabError::file("open", log))?;
        let again = file.try_clone().map_err(LabError::file("open", log))?;
        command.stdin(Stdio::null()).stdout(file).stderr(again);
        let child = command.spawn().map_err(start_error(command))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long processors have worked for it, all its threads together.
    pub fn cpu_time(&self) -> Result<Duration> {
        let path = PathBuf::from(format!("/proc/{}/stat", self.pid()));
        let text = fs::read_to_string(&path).map_err(LabError::file("read", &path))?;
        // After the program's name, which may contain anything: proc(5), fields 14 and 15.
        let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        let ticks: Vec<u64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        match ticks[..] {
            [user, system] => Ok(Duration::from_millis(10 * (user + system))),
            _ => Err(LabError::Unexpected(format!("{} has no times: {text}", path.display()))),
        }
    }

    /// Its resident memory, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        let path = PathBuf::from(format!("/proc/{}/status", self.pid()));
        let status = fs::read_to_string(&path).map_err(LabError::file("read", &path))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
        kib.ok_or_else(|| LabError::Unexpected(format!("{} has no VmRSS in kB", path.display())))
    }

    /// An error with the end of its log unless it is still running.
    pub fn must_run(&mut self) -> Result<()> {
        let status = self.child.try_wait().map_err(LabError::file("wait for", &self.name))?;
        status.map_or(Ok(()), |status| {
            Err(LabError::Unexpected(format!(
                "{} ended with {}; its log ends so:\n{}",
                self.name,
                status_text(status),
                tail(&self.log, 10)
            )))
        })
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().map_err(LabError::file("kill", &self.name))?;
        self.child.wait().map_err(LabError::file("wait for", &self.name))?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        // A process that has ended by itself is what was wanted.
        send(self.child.id(), Signal::TERM).ok();
        self.child.wait().map_err(LabError::file("wait for", &self.name))
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().map_err(LabError::file("wait for", &self.name))
    }

    /// The file with what it said.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended before; either way nothing is left to be done here.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Sends a signal to a process.
pub(crate) fn send(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// The last `lines` lines of a log, indented; says so if there are none.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    if all.is_empty() {
        return format!("    ({} is empty)", log.display());
    }
    let last = all.len().saturating_sub(lines);
    all.iter().skip(last).map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_status_carries_the_command_and_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c echo out; echo err >&2; exit 3` ended with status 3: out\nerr");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program")).unwrap_err().to_string();
        assert!(error.starts_with("can't run no-such-program: "), "{error}");
        assert!(error.contains("make test"), "{error}");
    }

    #[test]
    fn a_daemon_that_ends_is_noticed_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no configuration; exit 1"]);
        let mut daemon = Daemon::start("speaker", &mut command, &dir.path().join("log")).unwrap();
        daemon.child.wait().unwrap();
        let error = daemon.must_run().unwrap_err().to_string();
        assert_eq!(error, "speaker ended with status 1; its log ends so:\n    no configuration");
    }

    #[test]
    fn a_dropped_daemon_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        let mut daemon = Daemon::start("sleeper", command.arg("600"), &dir.path().join("log")).unwrap();
        daemon.must_run().unwrap();
        let entry = PathBuf::from(format!("/proc/{}", daemon.pid()));
        assert!(entry.exists());
        drop(daemon);
        assert!(!entry.exists());
    }
}
