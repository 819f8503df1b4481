//! Probes, metrics and conditions: what is seen of Flock without looking inside.

use flock_examples::screen::Screen;
use flock_examples::{LabError, Result};
use serde_json::Value;

use crate::flock::{ask_agent, node_config};
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
        for (start, least) in [
            ("flock_ready ", 1.0),
            ("flock_requests_total{verb=\"ADD\",code=\"0\"} ", 1.0),
            ("flock_attachments{state=\"committed\"} ", 1.0),
            ("flock_addresses{family=\"ipv6\",state=\"in_use\"} ", 1.0),
            ("flock_bird_configurations_total{result=\"applied\"} ", 1.0),
        ] {
            let line = text.lines().find_map(|line| line.strip_prefix(start));
            let value: Option<f64> = line.and_then(|value| value.trim().parse().ok());
            expect(value.is_some_and(|value| value >= least), || {
                format!("{start}is {value:?}, expected {least} or more: {text}")
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
        let table = cluster.kubectl(&["get", "nodeconfigs"])?;
        expect(table.contains("2001:db8:1::/64") && table.contains("True"), || table.clone())?;
        Ok((
            (),
            "the nodes' network is not unavailable, the NodeConfigs are Ready, also in kubectl get"
                .to_owned(),
        ))
    })
}

/// An error with this text unless the condition holds.
pub(crate) fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(LabError::Unexpected(otherwise())) }
}

/// A text of an object, empty if it is not there.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
