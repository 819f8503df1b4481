//! Network namespaces, the links between them, and pings through them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::deadline::{Probe, until};
use crate::process::{output, run};
use crate::{LabError, Result};

/// A network namespace of the sandbox, named as `ip netns` keeps them unless others made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns {
    name: String,
    path: PathBuf,
}

impl Netns {
    /// Makes a namespace with its loopback interface up.
    pub fn create(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let netns = Self { name: name.to_owned(), path: Path::new("/run/netns").join(name) };
        netns.ip(&["link", "set", "dev", "lo", "up"])?;
        Ok(netns)
    }

    /// One that somebody else made and ends; `path` is a file of it, `name` for messages.
    pub fn of_others(name: &str, path: &Path) -> Self {
        Self { name: name.to_owned(), path: path.to_owned() }
    }

    /// Removes its name; the namespace goes when nothing uses it any more.
    pub fn delete(&self) -> Result<()> {
        run(Command::new("ip").args(["netns", "delete", &self.name])).map(drop)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that a container runtime hands to a plugin.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `program`, to be run in this namespace.
    ///
    /// `ip netns exec` would also mount a new `/sys`, which not every container allows.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg("--").arg(program);
        command
    }

    /// Runs `ip` with these arguments.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        run(self.command("ip").args(arguments))
    }

    /// Gives an interface an address that is usable at once, `address/length`.
    pub fn address(&self, interface: &str, prefix: &str) -> Result<()> {
        let mut arguments = vec!["address", "replace", prefix, "dev", interface];
        if prefix.contains(':') {
            // No waiting for duplicate address detection (RFC 4862).
            arguments.push("nodad");
        }
        self.ip(&arguments).map(drop)
    }

    /// Makes it a router for both families.
    pub fn forward(&self) -> Result<()> {
        let script = "echo 1 > /proc/sys/net/ipv4/ip_forward && \
                      echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
        run(self.command("sh").args(["-c", script])).map(drop)
    }

    /// One echo request (RFC 792, RFC 4443), without a second try. `target` is an
    /// address, with its interface where it is link-local (`fe80::1%eth0`).
    pub fn ping(&self, target: impl fmt::Display, limit: Duration) -> Result<Reply> {
        let mut command = self.command("ping");
        command.args(["-n", "-c", "1", "-W", &format!("{:.3}", limit.as_secs_f64()), &target.to_string()]);
        let output = output(&mut command)?;
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        match round_trip(&said) {
            Some(time) if output.status.success() => Ok(Reply::After(time)),
            _ if output.status.code() == Some(1) => Ok(Reply::None),
            // There is no route at all, or one into a blackhole.
            _ if complaint.contains("Network is unreachable") => Ok(Reply::None),
            _ if complaint.contains("connect: Invalid argument") => Ok(Reply::None),
            _ => Err(LabError::Unexpected(format!(
                "{}: ping {target}: {}{}",
                self.name,
                said.trim(),
                complaint.trim()
            ))),
        }
    }

    /// Pings until the first answer, for a target that is still being announced.
    pub fn reach(&self, target: impl fmt::Display, limit: Duration) -> Result<()> {
        until(&format!("an answer from {target} to {}", self.name), limit, || {
            Ok(match self.ping(&target, Duration::from_millis(500))? {
                Reply::After(_) => Probe::Done(()),
                Reply::None => Probe::Waiting("no answer".to_owned()),
            })
        })
    }

    /// The round-trip time of [`ping`](Self::ping); no answer is an error.
    pub fn must_ping(&self, target: impl fmt::Display, limit: Duration) -> Result<Duration> {
        match self.ping(&target, limit)? {
            Reply::After(time) => Ok(time),
            Reply::None => Err(LabError::Unexpected(format!(
                "{} got no answer from {target} within {limit:?}",
                self.name
            ))),
        }
    }
}

/// What became of one ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The round-trip time.
    After(Duration),
    /// No answer in time, or an answer that the target is unreachable.
    None,
}

/// One end of a link.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The namespace it is in.
    pub netns: &'a Netns,
    /// The name of the interface there.
    pub interface: &'a str,
}

/// Joins two namespaces by a veth, both ends up.
pub fn link(one: End<'_>, other: End<'_>) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["link", "add", "name", one.interface, "netns", one.netns.name(), "type", "veth"]);
    command.args(["peer", "name", other.interface, "netns", other.netns.name()]);
    run(&mut command)?;
    for end in [one, other] {
        end.netns.ip(&["link", "set", "dev", end.interface, "up"])?;
    }
    Ok(())
}

/// From `64 bytes from ::1: icmp_seq=1 ttl=64 time=0.079 ms`.
fn round_trip(said: &str) -> Option<Duration> {
    let (_, after) = said.split_once(" time=")?;
    let milliseconds: f64 = after.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(milliseconds / 1000.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox;

    #[test]
    fn a_round_trip_time_is_read() {
        let said = "64 bytes from 10.0.1.1: icmp_seq=1 ttl=64 time=0.079 ms\n";
        assert_eq!(round_trip(said), Some(Duration::from_micros(79)));
        assert_eq!(round_trip("1 packets transmitted, 0 received, 100% packet loss, time 0ms"), None);
    }

    #[test]
    fn linked_namespaces_reach_each_other() -> Result<()> {
        sandbox::within("netns::tests::linked_namespaces_reach_each_other", |_| {
            let (left, right) = (Netns::create("left")?, Netns::create("right")?);
            link(End { netns: &left, interface: "a" }, End { netns: &right, interface: "b" })?;
            for (netns, interface, prefixes) in [
                (&left, "a", ["2001:db8::1/64", "192.0.2.1/24"]),
                (&right, "b", ["2001:db8::2/64", "192.0.2.2/24"]),
            ] {
                for prefix in prefixes {
                    netns.address(interface, prefix)?;
                }
            }
            let second = Duration::from_secs(1);
            for target in ["2001:db8::2", "192.0.2.2"] {
                left.must_ping(target, second)?;
            }
            let nobody = left.ping("192.0.2.3", Duration::from_millis(50))?;
            assert_eq!(nobody, Reply::None);
            Ok(())
        })
    }
}
