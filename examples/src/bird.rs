//! A real BIRD in a namespace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::deadline::{Probe, until};
use crate::netns::Netns;
use crate::process::{Daemon, run};
use crate::{LabError, Result};

/// How long a BIRD may take until it answers on its control socket.
const START_LIMIT: Duration = Duration::from_secs(5);

/// A running BIRD. Dropping it kills it.
#[derive(Debug)]
pub struct Bird {
    daemon: Daemon,
    socket: PathBuf,
}

impl Bird {
    /// Starts BIRD with this configuration, and waits until it answers. `socket` is
    /// its control socket, its log goes to `log`.
    pub fn start(netns: &Netns, config: &Path, socket: &Path, log: &Path) -> Result<Self> {
        run(netns.command("bird").arg("-p").arg("-c").arg(config))?;
        let mut command = netns.command("bird");
        command.arg("-f").arg("-c").arg(config).arg("-s").arg(socket);
        let mut daemon = Daemon::start(&format!("BIRD on {}", netns.name()), &mut command, log)?;
        until(&format!("an answer of the BIRD on {}", netns.name()), START_LIMIT, || {
            daemon.must_run()?;
            Ok(match query(socket, "show status") {
                Ok(_) => Probe::Done(()),
                Err(error) => Probe::Waiting(error.to_string()),
            })
        })?;
        Ok(Self { daemon, socket: socket.to_owned() })
    }

    /// The answer to a command of BIRD's command line.
    pub fn query(&self, question: &str) -> Result<String> {
        query(&self.socket, question)
    }

    /// Waits until `count` BGP sessions are established, and no fewer are configured.
    pub fn established(&self, count: usize, limit: Duration) -> Result<()> {
        until(&format!("{count} BGP sessions of the {}", self.daemon.name()), limit, || {
            let sessions = self.query("show protocols \"*\"")?;
            let up = sessions.lines().filter(|line| is_established(line)).count();
            Ok(if up == count { Probe::Done(()) } else { Probe::Waiting(sessions) })
        })
    }

    /// The process.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// What it says.
    pub fn log(&self) -> &Path {
        self.daemon.log()
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

fn query(socket: &Path, question: &str) -> Result<String> {
    let answer = loop {
        match run(Command::new("birdc").arg("-r").arg("-s").arg(socket).args(question.split(' '))) {
            Err(error) if is_interrupted(&error) => {}
            answer => break answer?,
        }
    };
    // The first lines are the greeting.
    let lines = answer.lines().filter(|line| {
        !(line.starts_with("BIRD ") && line.ends_with("ready.")) && *line != "Access restricted"
    });
    let answer: Vec<&str> = lines.collect();
    if answer.iter().any(|line| line.starts_with("syntax error")) {
        return Err(LabError::Unexpected(format!(
            "BIRD does not understand {question:?}: {}",
            answer.join(" ")
        )));
    }
    Ok(answer.join("\n"))
}

/// Routes are not listed to their end beside a new configuration. BIRD takes one at a time, so
/// asking again is answered in the end.
fn is_interrupted(error: &LabError) -> bool {
    matches!(error, LabError::Failed { output, .. } if output.ends_with("Stopped due to reconfiguration"))
}

/// From `node1_v6   BGP        ---        up     10:11:12.345  Established`.
fn is_established(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.nth(1) == Some("BGP") && words.any(|word| word == "Established")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_that_a_new_configuration_stops_is_told_from_other_failures() {
        let failed = |output: &str| LabError::Failed {
            command: "birdc show route".to_owned(),
            status: "status 1".to_owned(),
            output: output.to_owned(),
        };
        let listing = "Table master4:\n10.0.1.0/30 blackhole [flock_kernel4 11:56:48.070] * (200)";
        assert!(is_interrupted(&failed(&format!("{listing}\nStopped due to reconfiguration"))));
        assert!(!is_interrupted(&failed("Unable to connect to server control socket")));
    }

    #[test]
    fn sessions_are_told_from_other_protocols() {
        assert!(is_established("tor-v6     BGP        ---        up     20:58:01.110  Established   "));
        assert!(!is_established("tor-v6     BGP        ---        start  20:58:01.110  Active        "));
        assert!(!is_established("device1    Device     ---        up     20:58:01.110  "));
    }
}
