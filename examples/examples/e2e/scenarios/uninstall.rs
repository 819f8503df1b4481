//! The installer run again changes nothing, and what it installed can be taken away.

use std::fs;
use std::os::unix::fs::MetadataExt;

use flock_examples::cluster::Cluster;
use flock_examples::cluster::machine::Machine;
use flock_examples::deadline::{Probe, until};
use flock_examples::screen::Screen;
use flock_examples::{LabError, Result};

use crate::flock::{BIRD_SOCKET, CONFLIST, NAMESPACE, Part, SESSIONS, SOON};
use crate::pod::END;
use crate::scenarios::seen::expect;
use crate::{Lab, Step};

const FILES: [&str; 2] = [CONFLIST, "/opt/cni/bin/flock"];

pub(crate) fn play(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let Lab { cluster, manifests, .. } = lab;
    screen.step("a second installation", || {
        let before = all_files(cluster)?;
        manifests.kubectl(cluster, "apply", "base")?;
        Part::Agent.restart(cluster)?;
        let after = all_files(cluster)?;
        expect(before == after, || format!("the files were {before:?} and are {after:?}"))?;
        Ok((
            (),
            "applied and started again: the plugin and its configuration were not even written".to_owned(),
        ))
    })?;
    screen.step("goodbye", || {
        cluster.router.bird.established(SESSIONS, SOON)?;
        for machine in &cluster.machines {
            let pod = Part::Bird.pod_on(cluster, machine.name())?;
            cluster.kubectl(&[
                "-n",
                NAMESPACE,
                "exec",
                &pod,
                "--",
                "birdc",
                "-s",
                BIRD_SOCKET,
                "disable",
                "all",
            ])?;
        }
        // Well within the time for which it would keep them for graceful restart.
        until("the router to have no route of the nodes", SOON, || {
            let routes = cluster.router.bird.query("show route where source = RTS_BGP")?;
            Ok(if routes.contains("unicast") { Probe::Waiting(routes) } else { Probe::Done(()) })
        })?;
        Ok(((), "birdc disable all: the router drops the nodes' routes at once".to_owned()))
    })?;
    screen.step("uninstallation", || {
        cluster.kubectl(&["-n", NAMESPACE, "delete", "daemonset", "flock-agent", "flock-bird"])?;
        until("the pods of Flock to be gone", END, || {
            let left = Part::Agent.pods(cluster)?.len() + Part::Bird.pods(cluster)?.len();
            Ok(if left == 0 { Probe::Done(()) } else { Probe::Waiting(format!("{left} are left")) })
        })?;
        manifests.kubectl(cluster, "apply", "uninstall")?;
        cluster.kubectl(&[
            "-n",
            NAMESPACE,
            "rollout",
            "status",
            "--timeout=60s",
            "daemonset/flock-uninstall",
        ])?;
        for machine in &cluster.machines {
            for file in FILES {
                expect(!machine.path(file).exists(), || {
                    format!("{file} of {} is still there", machine.name())
                })?;
            }
            for dir in ["/etc/cni/net.d", "/opt/cni/bin", "/etc/flock/bird"] {
                let ours: Vec<String> = machine
                    .names(dir)?
                    .into_iter()
                    .filter(|name| name.contains("flock") || name.contains("bird"))
                    .collect();
                expect(ours.is_empty(), || format!("{dir} of {} still has {ours:?}", machine.name()))?;
            }
        }
        Ok((
            (),
            "kubectl apply -k deploy/uninstall: nothing of Flock's is left in the nodes' directories"
                .to_owned(),
        ))
    })?;
    screen.step("the last of it", || {
        manifests.kubectl(cluster, "delete", "uninstall")?;
        manifests.kubectl(cluster, "delete --ignore-not-found", "base")?;
        let left = cluster.kubectl(&["get", "crd,clusterrole,clusterrolebinding,namespace", "-o", "name"])?;
        let ours: Vec<&str> = left.lines().filter(|line| line.contains("flock")).collect();
        expect(ours.is_empty(), || format!("the cluster still has {ours:?}"))?;
        Ok(((), "kubectl delete -k: nothing is left in the cluster either".to_owned()))
    })?;
    screen.step("the nodes' routes", || {
        for machine in &cluster.machines {
            for family in ["-4", "-6"] {
                for protocol in ["bird", "70"] {
                    machine.netns.ip(&[family, "route", "flush", "proto", protocol])?;
                }
            }
            let left =
                machine.netns.ip(&["-4", "route", "show"])? + &machine.netns.ip(&["-6", "route", "show"])?;
            expect(!["proto bird", "proto 70"].iter().any(|ours| left.contains(ours)), || left.clone())?;
        }
        Ok(((), "ip route flush, as the manual has it: nothing is left of the nodes' routes".to_owned()))
    })
}

fn all_files(cluster: &Cluster) -> Result<Vec<(u64, i64)>> {
    cluster.machines.iter().flat_map(|machine| FILES.map(|file| identity(machine, file))).collect()
}

/// Another file under the same name has another of these.
fn identity(machine: &Machine, file: &str) -> Result<(u64, i64)> {
    let path = machine.path(file);
    let metadata = fs::metadata(&path).map_err(LabError::file("look at", path))?;
    Ok((metadata.ino(), metadata.mtime()))
}
