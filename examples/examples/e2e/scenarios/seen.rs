//! Probes, metrics and conditions: what is seen of Flock without looking inside.

use flock_examples::cluster::machine::Machine;
use flock_examples::deadline::{Probe, until};
use flock_examples::process::output;
use flock_examples::screen::Screen;
use flock_examples::{LabError, Result};
use serde_json::Value;

use crate::flock::{Holdings, NAMESPACE, Part, SOON, ask_agent, metric, node_config};
use crate::pod::{Wanted, condition};
use crate::{Lab, Step};

pub(crate) fn play(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let cluster = &lab.cluster;
    screen.step("probes", || {
        for machine in &cluster.machines {
            for path in ["/healthz", "/readyz"] {
                let answer = ask_agent(cluster, machine, path)?;
                expect(answer.good, || format!("{path} of {} says {}", machine.name(), answer.body))?;
            }
        }
        Ok(((), "/healthz and /readyz of both agents are good".to_owned()))
    })?;
    screen.step("metrics", || {
        let pod = Wanted::new("counted").on("node1").start(cluster)?;
        let text = ask_agent(cluster, cluster.machine(&pod.node)?, "/metrics")?.body;
        for (series, least) in [
            ("flock_ready", 1.0),
            ("flock_requests_total{verb=\"ADD\",code=\"0\"}", 1.0),
            ("flock_attachments{state=\"committed\"}", 1.0),
            ("flock_addresses{family=\"ipv6\",state=\"in_use\"}", 1.0),
            ("flock_bird_configurations_total{result=\"applied\"}", 1.0),
        ] {
            let value = metric(&text, series);
            expect(value.is_some_and(|value| value >= least), || {
                format!("{series} is {value:?}, expected {least} or more: {text}")
            })?;
        }
        Ok(((), "/metrics counts what happened".to_owned()))
    })?;
    screen.step("conditions", || {
        for machine in &cluster.machines {
            let node = cluster.api().get(&format!("/api/v1/nodes/{}", machine.name()))?;
            let network = condition(&node, "NetworkUnavailable");
            expect(network.is_some_and(|network| network["status"] == "False"), || {
                format!("NetworkUnavailable of {} is {network:?}", machine.name())
            })?;
            let config = node_config(cluster, machine.name())?;
            let ready = condition(&config, "Ready");
            expect(ready.is_some_and(|ready| ready["status"] == "True"), || {
                format!("the status of NodeConfig {} is {}", machine.name(), config["status"])
            })?;
            expect(
                config.pointer("/status/observedGeneration") == config.pointer("/metadata/generation"),
                || {
                    format!(
                        "the status of NodeConfig {} is not about this generation: {config}",
                        machine.name()
                    )
                },
            )?;
        }
        until("the status to count the addresses of a pod", SOON, || {
            let config = node_config(cluster, "node1")?;
            let addresses = &config["status"]["addresses"];
            let counted = ["ipv6", "ipv4"].iter().all(|family| {
                let (used, free) = (&addresses[family]["inUse"], text(addresses, &format!("/{family}/free")));
                used.as_i64() >= Some(1) && free.parse::<u128>().is_ok_and(|free| free > 0)
            });
            Ok(if counted { Probe::Done(()) } else { Probe::Waiting(config["status"].to_string()) })
        })?;
        let table = cluster.kubectl(&["get", "nodeconfigs"])?;
        expect(table.contains("2001:db8:1::/64") && table.contains("True"), || table.clone())?;
        Ok((
            (),
            "the nodes' network is not unavailable, the NodeConfigs are Ready, also in kubectl get"
                .to_owned(),
        ))
    })?;
    screen.step("flock-agent check", || {
        for machine in &cluster.machines {
            let pod = Part::Agent.pod_on(cluster, machine.name())?;
            let check = ["-n", NAMESPACE, "exec", &pod, "-c", "agent", "--", "flock-agent", "check"];
            let said = cluster.kubectl(&check)?;
            expect(said.contains("everything agrees"), || format!("{} says {said}", machine.name()))?;
        }
        Ok(((), "flock-agent check, in the agents' containers: everything agrees".to_owned()))
    })?;
    screen.step("drift", || {
        let machine = cluster.machine("node1")?;
        let before = Holdings::of(machine)?;
        expect(!before.routes.is_empty(), || {
            "found no route of a pod, expected those of \"counted\"".into()
        })?;
        for family in ["-4", "-6"] {
            machine.netns.ip(&[family, "route", "flush", "proto", "70"])?;
        }
        before.are_those_of(machine, SOON)?;
        let metrics = ask_agent(cluster, machine, "/metrics")?.body;
        let repairs = metric(&metrics, "flock_repairs_total{kind=\"disturbed\"}");
        expect(repairs >= Some(1.0), || format!("flock_repairs_total is {repairs:?}, expected 1 or more"))?;
        Ok(((), "routes that somebody flushes are put back".to_owned()))
    })?;
    screen.step("credentials", || {
        for machine in &cluster.machines {
            // Where the kubelet keeps them for pods: found there, the search is a good one.
            expect(!credentials(machine, &["/var/lib/kubelet/pods"])?.is_empty(), || {
                format!("found no token of any pod on {}, expected the agent's", machine.name())
            })?;
            let found =
                credentials(machine, &["/etc/cni/net.d", "/opt/cni/bin/flock", "/run/flock", "/etc/flock"])?;
            expect(found.is_empty(), || format!("{} has credentials in {found}", machine.name()))?;
        }
        Ok(((), "what Flock has on the hosts holds no credentials".to_owned()))
    })
}

/// The files of a machine with a token (a JWT's header) or a private key in them.
fn credentials(machine: &Machine, places: &[&str]) -> Result<String> {
    let mut grep = machine.command("grep");
    grep.args(["-r", "-l", "-D", "skip", "-E", "eyJhbGciOi|PRIVATE KEY"]).args(places);
    let output = output(&mut grep)?;
    // 1 is its answer where nothing was found.
    match output.status.code() {
        Some(0 | 1) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        _ => Err(LabError::Unexpected(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// An error with this text unless the condition holds.
pub(crate) fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(LabError::Unexpected(otherwise())) }
}

/// A text of an object, empty if it is not there.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
