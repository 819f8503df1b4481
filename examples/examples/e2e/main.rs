//! Flock on a real Kubernetes cluster, from its manifests to pods that talk.
//!
//! A control plane, two nodes and a top-of-rack router, all on this machine and all
//! real: see `flock_examples::cluster`. Everything happens in private namespaces and is
//! gone with the program; logs stay. `--keep` leaves the cluster standing and says how to
//! look around in it. A scenario that fails does not keep the next ones from being played.

use std::env;
use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use flock_examples::cluster::{Cluster, Materials};
use flock_examples::sandbox::{self, Entry, Sandbox};
use flock_examples::screen::{Failure, Screen};
use flock_examples::{LabError, Result};

use crate::flock::Manifests;
use crate::measured::Measured;
use crate::options::Options;

mod flock;
mod http;
mod measured;
mod options;
mod pod;
mod scenarios;
mod traffic;

const PICTURE: &str = "
                  tor   BIRD, AS 64500
                  2001:db8:ffff::1 192.0.2.254
       ┌──────────────────┼────────────────────┐
  node1, AS 64501    node2, AS 64502        control
  containerd         containerd             etcd, kube-apiserver,
  kubelet            kubelet                kube-controller-manager,
  kube-proxy         kube-proxy             kube-scheduler
  2001:db8:1::/64    2001:db8:2::/64        Services: 2001:db8:5::/108
  10.0.1.0/24        10.0.2.0/24            10.96.0.0/16";

/// What may fail, said with the step that it failed in.
pub(crate) type Step<T> = Result<T, Failure<LabError>>;

/// Everything that a scenario works with.
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
    pub(crate) manifests: Manifests,
    pub(crate) materials: Materials,
    pub(crate) measured: Measured,
}

fn main() -> ExitCode {
    let options = match Options::read(env::args_os().skip(1)) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("{reason}");
            return ExitCode::from(2);
        }
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("e2e: found an ordinary user, expected root: containerd and kubelet run as root only");
        return ExitCode::from(2);
    }
    match sandbox::enter() {
        Ok(Entry::Left(code)) => code,
        Ok(Entry::Inside(sandbox)) => prove(&sandbox, &options),
        Err(error) => {
            eprintln!("e2e: {error}");
            ExitCode::FAILURE
        }
    }
}

fn prove(sandbox: &Sandbox, options: &Options) -> ExitCode {
    let screen = Screen::new(sandbox.is_terminal());
    screen.line(PICTURE.trim_start_matches('\n'));
    let start = Instant::now();
    let lab = build(&screen, options);
    let (lab, tally) = match lab {
        Ok(mut lab) => {
            let tally = scenarios::play(&screen, &mut lab, options);
            (Some(lab), tally)
        }
        Err(failure) => {
            screen.failure(&failure);
            (None, scenarios::Tally { passed: 0, failed: 1 })
        }
    };
    if let Some(lab) = &lab {
        lab.measured.show(&screen, &options.logs);
    }
    screen.line("");
    let time = start.elapsed().as_secs();
    screen.line(format!("{} passed, {} failed; {time} s in all.", tally.passed, tally.failed));
    screen.line(format!("The logs of all parts: {}", options.logs.display()));
    if options.keep && lab.is_some() {
        stay(sandbox, &screen);
    }
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The cluster, on which nothing is installed.
fn build(screen: &Screen, options: &Options) -> Step<Lab> {
    screen.heading("A cluster");
    let materials = Materials {
        programs: options.kubernetes.clone(),
        images: vec![options.image.clone()],
        logs: options.logs.clone(),
    };
    let mut cluster = screen.step("the network and the control plane", || {
        fs::remove_dir_all(&materials.logs).ok();
        let cluster = Cluster::build(&materials)?;
        let version = cluster.api().get("/version")?;
        let version = version["gitVersion"].as_str().unwrap_or_default().to_owned();
        Ok((cluster, format!("a router, and a control plane with Kubernetes {version}")))
    })?;
    screen.step("the nodes", || {
        cluster.start_nodes()?;
        Ok(((), "containerd, kubelet and kube-proxy on node1 and node2".to_owned()))
    })?;
    let manifests = Manifests::new(options.deploy.clone());
    Ok(Lab { cluster, manifests, materials, measured: Measured::default() })
}

fn stay(sandbox: &Sandbox, screen: &Screen) {
    screen.heading("The cluster stands. A shell in it:");
    screen.line(format!("  {}", sandbox.nsenter()));
    screen.line("\nand in that shell, for example:");
    let kubectl =
        "nsenter --net=/run/netns/control kubectl --kubeconfig /run/lab/control/credentials/admin.kubeconfig";
    for (command, what) in [
        (format!("alias k='{kubectl}'"), "with Kubernetes' programs in the path; then k get pods -A -o wide"),
        ("birdc -s /run/lab/tor/bird.ctl show protocols".to_owned(), "the router's sessions"),
        ("birdc -s /run/lab/tor/bird.ctl show route".to_owned(), "the router's routes"),
        ("nsenter -t $(pgrep -f 'hostname-override=node1' | head -n 1) -m -n".to_owned(), "a shell on node1"),
    ] {
        screen.line(format!("  {command}   # {what}"));
    }
    screen.line(format!("\nEnd it, from outside:\n  {}", sandbox.end_command()));
    if let Err(error) = sandbox.keep() {
        screen.line(format!("e2e: {error}"));
    }
}
