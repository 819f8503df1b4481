//! Pings that go on while something happens, and what became of each of them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use flock_examples::netns::Netns;
use flock_examples::process::Daemon;
use flock_examples::{LabError, Result};
use rustix::process::{Pid, Signal, kill_process};

/// In seconds between two packets.
const INTERVAL: &str = "0.01";

/// One stream of pings.
#[derive(Debug)]
pub(crate) struct Stream {
    title: String,
    start: Instant,
    ping: Daemon,
}

/// What became of the packets of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) sent: u32,
    pub(crate) answered: u32,
}

impl Stream {
    /// Starts to ping every 10 ms.
    pub(crate) fn start(from: &Netns, to: IpAddr, logs: &Path) -> Result<Self> {
        let title = format!("{} to {to}", from.name());
        let log = log_of(logs, &title);
        // An earlier stream's numbers are not this one's.
        std::fs::remove_file(&log).ok();
        let mut command = from.command("ping");
        command.args(["-n", "-q", "-i", INTERVAL, &to.to_string()]);
        let ping = Daemon::start(&title, &mut command, &log)?;
        Ok(Self { title, start: Instant::now(), ping })
    }

    /// Ends it; an error if not every packet was answered.
    pub(crate) fn finish(mut self) -> Result<Outcome> {
        self.ping.must_run()?;
        let pid = i32::try_from(self.ping.pid()).ok().and_then(Pid::from_raw);
        // ping says its numbers when it is interrupted.
        if let Some(pid) = pid {
            kill_process(pid, Signal::INT).ok();
        }
        self.ping.wait()?;
        let log = self.ping.log();
        let said = std::fs::read_to_string(log).map_err(LabError::file("read", log))?;
        let outcome = outcome(&said)
            .ok_or_else(|| LabError::Unexpected(format!("ping from {}: {said}", self.title)))?;
        // Half of what there is time for: a busy machine is late now and then.
        let least = self.start.elapsed().as_millis() / 20;
        // The last one may be on its way.
        if u128::from(outcome.sent) < least || outcome.answered + 1 < outcome.sent {
            return Err(LabError::Unexpected(format!(
                "{}: {} of {} packets were lost, expected none of {least} or more",
                self.title,
                outcome.sent - outcome.answered,
                outcome.sent
            )));
        }
        Ok(outcome)
    }
}

fn log_of(logs: &Path, title: &str) -> PathBuf {
    logs.join(format!("ping {title}.log").replace([' ', ':'], "-"))
}

/// From `830 packets transmitted, 830 received, 0% packet loss, time 8303ms`, the last such line.
fn outcome(said: &str) -> Option<Outcome> {
    let line = said.lines().rfind(|line| line.contains(" packets transmitted, "))?;
    let mut words = line.split_whitespace();
    let sent = words.next()?.parse().ok()?;
    let answered = words.nth(2)?.parse().ok()?;
    Some(Outcome { sent, answered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_ping_are_read() {
        let said = "\n--- ::1 ping statistics ---\n830 packets transmitted, 829 received, 0.12% packet loss, time 8303ms\n";
        assert_eq!(outcome(said), Some(Outcome { sent: 830, answered: 829 }));
        assert_eq!(outcome("PING ::1"), None);
    }
}
