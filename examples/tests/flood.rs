//! The real agent's socket under a flood: idle and trickling clients keep no runtime waiting,
//! and cost the agent neither memory nor files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
)]
#![allow(clippy::print_stdout, reason = "numbers for docs/reliability.md")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flock_core::server::Limits;
use flock_examples::deadline::{Probe, until};
use flock_examples::node::Node;
use flock_examples::{Result, sandbox};
use serde_json::json;

const IDLE: usize = 1_000;
const TRICKLING: usize = 200;
/// What a whole ADD may take among them, the start of processes and the kernel's work included,
/// on a machine that is busy. Each of the others may take 5 s, and they came first.
const PROMPT: Duration = Duration::from_secs(1);

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// In KiB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_thousand_idle_and_trickling_clients_keep_no_runtime_waiting() -> Result<()> {
    sandbox::within("a_thousand_idle_and_trickling_clients_keep_no_runtime_waiting", |_| {
        let mut node = Node::alone("node", &json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24"}))?;
        node.start_agent()?;
        node.wait_ready()?;
        let pid = node.agent().unwrap().pid();
        let socket = node.files().run.join("flock.sock");
        for pod in 0..5 {
            let pod = node.add_pod(&format!("before{pod}"), &[])?;
            node.runtime()?.delete(&pod.container)?;
        }
        let (files, kib) = (open_files(pid), memory(pid));

        let connect = || UnixStream::connect(&socket).unwrap();
        let (trickles, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let idle: Vec<_> = (0..IDLE).map(|_| connect()).collect();
            scope.spawn(|| {
                let mut clients: Vec<_> = (0..TRICKLING).map(|_| connect()).collect();
                while !stop.load(Ordering::Relaxed) {
                    for client in &mut clients {
                        // Who was sent away comes again.
                        if client.write_all(b"\0").is_err() {
                            *client = connect();
                        }
                        trickles.fetch_add(1, Ordering::Relaxed);
                    }
                    // They trickle; the flood is in their number.
                    thread::sleep(Duration::from_millis(5));
                }
            });
            let outcome = flooded(&mut node, &trickles, pid, files, kib);
            stop.store(true, Ordering::Relaxed);
            drop(idle);
            outcome
        })?;
        until("the agent to close what the clients closed", Duration::from_secs(10), || {
            let open = open_files(pid);
            Ok(if open <= files + 5 { Probe::Done(()) } else { Probe::Waiting(format!("{open} are open")) })
        })
    })
}

fn flooded(node: &mut Node, trickles: &AtomicUsize, pid: u32, files: usize, kib: u64) -> Result<()> {
    let mut took = Vec::new();
    let mut pods = Vec::new();
    for number in 0..20 {
        let so_far = trickles.load(Ordering::Relaxed);
        let start = Instant::now();
        pods.push(node.add_pod(&format!("pod{number}"), &[])?);
        took.push(start.elapsed());
        let open = open_files(pid);
        assert!(
            open <= files + Limits::default().waiting + 20,
            "{open} files are open, before there were {files}"
        );
        until("the flood to go on", Duration::from_secs(10), || {
            let now = trickles.load(Ordering::Relaxed);
            Ok(if now > so_far + TRICKLING {
                Probe::Done(())
            } else {
                Probe::Waiting(format!("{now} bytes"))
            })
        })?;
    }
    took.sort();
    println!("of 20 ADDs the median took {:?}, the slowest {:?}", took[10], took[19]);
    assert!(took[17] < PROMPT, "{took:?}");
    let grown = memory(pid).saturating_sub(kib);
    println!("the agent grew by {grown} KiB");
    assert!(grown < 8 << 10, "the agent grew by {grown} KiB");
    for pod in pods {
        node.runtime()?.delete(&pod.container)?;
    }
    Ok(())
}

/// Of everything in the run directory, and of the directory itself.
fn modes(path: &Path, found: &mut Vec<(String, u32)>) {
    let metadata = fs::symlink_metadata(path).unwrap();
    found.push((path.display().to_string(), metadata.permissions().mode() & 0o7777));
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            modes(&entry.unwrap().path(), found);
        }
    }
}

/// Also where somebody else, such as a kubelet, has made it.
#[test]
fn the_run_directory_and_what_is_in_it_are_for_its_user_alone() -> Result<()> {
    sandbox::within("the_run_directory_and_what_is_in_it_are_for_its_user_alone", |_| {
        let mut node = Node::alone("node", &json!({"cidr6": "2001:db8:1::/64"}))?;
        let run = node.files().run.clone();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = std::process::Command::new("sh");
        let agent = node.agent_command()?;
        // The widest that a process may leave to the files that it makes.
        command.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(agent.get_program()).args(agent.get_args());
        command.envs(agent.get_envs().filter_map(|(key, value)| Some((key, value?))));
        node.start_agent_as(command)?;
        node.wait_ready()?;
        node.add_pod("web", &[])?;
        let mut found = Vec::new();
        modes(&run, &mut found);
        for name in ["flock.sock", "attachments", ".json"] {
            assert!(found.iter().any(|(path, _)| path.ends_with(name)), "{name} is not in {found:?}");
        }
        let open: Vec<_> = found.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
        assert!(open.is_empty(), "others may use {open:?}");
        Ok(())
    })
}
