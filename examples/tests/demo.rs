//! The demo, run as a person runs it: what it says, and what it leaves behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it should be"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use flock_examples::deadline::{Probe, until};
use flock_examples::programs;
use rustix::process::{Pid, Signal, kill_process};

/// For everything that ends to be gone.
const LIMIT: Duration = Duration::from_secs(10);
/// Printed when daemons and pods are there.
const IN_THE_MIDDLE: &str = "pods added by the flock plugin";

/// A demo and all its processes, told from others by a variable in their environment.
struct Demo {
    child: Child,
    mark: String,
}

impl Demo {
    fn start(test: &str, arguments: &[&str]) -> Self {
        let mark = format!("FLOCK_TEST={test}-{}", std::process::id());
        let (variable, value) = mark.split_once('=').unwrap();
        let child = Command::new(programs::example("demo").unwrap())
            .args(arguments)
            .env(variable, value)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, mark }
    }

    fn finish(&mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap(), said)
    }

    /// Reads on until the demo has said this.
    fn read_until(&mut self, text: &str) {
        let mut lines = BufReader::new(self.child.stdout.as_mut().unwrap()).lines();
        let found = lines.by_ref().map(Result::unwrap).any(|line| line.contains(text));
        assert!(found, "the demo ended without saying {text:?}");
    }

    fn processes(&self) -> Vec<String> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let marked = entries.filter(|entry| {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == self.mark.as_bytes())
        });
        marked
            .map(|entry| {
                fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ")
            })
            .collect()
    }

    fn nothing_is_left(&self) {
        until("the end of all processes of the demo", LIMIT, || {
            let left = self.processes();
            Ok(if left.is_empty() { Probe::Done(()) } else { Probe::Waiting(left.join("; ")) })
        })
        .unwrap();
        let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let names: Vec<_> = names.map(|entry| entry.file_name()).filter(|name| *name == *"tor").collect();
        assert!(names.is_empty(), "{names:?}");
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn the_demo_shows_the_main_job_and_leaves_nothing_behind() {
    let mut demo = Demo::start("whole", &[]);
    let (status, said) = demo.finish();
    assert!(status.success(), "{status}\n{said}");
    for expected in [
        "4 BGP sessions established",
        "6 pods added by the flock plugin",
        // Six pods, two families: the gateway, the router, and five other pods.
        "84 pings, 84 answers",
        "the router reaches 2001:db8:a::53 and 198.51.100.53 by both nodes",
        "dns-1 is not ready: by node2 alone",
        "dns-1 is ready: by both nodes again",
        "node1's routes carry GRACEFUL_SHUTDOWN, the router prefers node2",
        "after drainTime (1 s) none is left; the 4 BGP sessions stay up",
        "undone: every pod is reached",
        "the 4 BGP sessions are still up",
        "Everything works",
    ] {
        assert!(said.contains(expected), "{expected}\n{said}");
    }
    // The summaries of both nodes, and what is left of the anycast addresses.
    for prefix in [
        "2001:db8:1::/64",
        "10.0.1.0/24",
        "2001:db8:2::/64",
        "10.0.2.0/24",
        "2001:db8:a::53/128",
        "198.51.100.53/32",
    ] {
        let routes = said.lines().filter(|line| line.contains(prefix) && line.contains(" via ")).count();
        assert_eq!(routes, 1, "{prefix}\n{said}");
    }
    for pod in ["web-1", "api-1", "dns-1", "web-2", "api-2", "dns-2"] {
        let row =
            said.lines().find(|line| line.starts_with(&format!("  {pod} ")) && line.contains("2001:db8:"));
        let numbers = row.unwrap_or_default().split_whitespace().filter(|word| word.parse::<f64>().is_ok());
        assert_eq!(numbers.count(), 6, "round-trip times of {pod}\n{said}");
    }
    assert!(!said.contains('\x1b'), "colours, but not a terminal\n{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 100), "a line is too long\n{said}");
    // It has waited for the end of everything: no deadline is needed here.
    assert_eq!(demo.processes(), Vec::<String>::new());
    demo.nothing_is_left();
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    for (sent, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut demo = Demo::start("interrupted", &[]);
        demo.read_until(IN_THE_MIDDLE);
        signal(demo.child.id(), sent);
        assert_eq!(demo.child.wait().unwrap().code(), Some(code));
        assert_eq!(demo.processes(), Vec::<String>::new());
        demo.nothing_is_left();
    }
}

#[test]
fn a_killed_demo_leaves_nothing_behind() {
    let mut demo = Demo::start("killed", &[]);
    demo.read_until(IN_THE_MIDDLE);
    signal(demo.child.id(), Signal::KILL);
    demo.child.wait().unwrap();
    demo.nothing_is_left();
}

#[test]
fn a_kept_lab_can_be_looked_at_and_ended_with_the_commands_it_prints() {
    let mut demo = Demo::start("kept", &["--keep"]);
    let (status, said) = demo.finish();
    assert!(status.success(), "{status}\n{said}");
    let command = |start: &str| {
        let line = said.lines().map(str::trim).find(|line| line.starts_with(start));
        let words: Vec<&str> = line.expect(&said).split(' ').collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    };
    let names = command("nsenter --target").args(["--", "ip", "netns", "list"]).output().unwrap();
    let names = String::from_utf8(names.stdout).unwrap();
    for name in ["tor", "node1", "node2", "web-1"] {
        assert!(names.lines().any(|line| line.split(' ').next() == Some(name)), "{name}: {names}");
    }
    assert!(command("kill ").status().unwrap().success());
    demo.nothing_is_left();
}

#[test]
fn an_unknown_option_is_refused() {
    let output = Command::new(programs::example("demo").unwrap()).arg("--forever").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("found [\"--forever\"], expected nothing or --keep"), "{said}");
}
