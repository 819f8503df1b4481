//! Pods reach pods, Services, nodes and the router, by both families.

use std::net::IpAddr;
use std::time::Duration;

use flock_examples::cluster::Cluster;
use flock_examples::cluster::control::API_SERVICE;
use flock_examples::deadline::{Probe, until};
use flock_examples::netns::Netns;
use flock_examples::process::run;
use flock_examples::screen::Screen;
use flock_examples::{LabError, Result};
use serde_json::{Value, json};

use crate::flock::SOON;
use crate::pod::{Pod, Wanted, served_name};
use crate::{Lab, Step};

const ANSWER: Duration = Duration::from_secs(1);

pub(crate) fn play(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let cluster = &lab.cluster;
    let pods = screen.step("pods on both nodes", || {
        let names = [("web-1", "node1"), ("web-2", "node1"), ("web-3", "node2"), ("web-4", "node2")];
        for (name, node) in names {
            Wanted::new(name).on(node).label("service", "web").create(cluster)?;
        }
        let pods = names.iter().map(|(name, _)| Pod::ready(cluster, name)).collect::<Result<Vec<_>>>()?;
        Ok((pods, "four pods are Running, two on each node".to_owned()))
    })?;
    screen.step("addresses", || {
        for pod in &pods {
            let number = pod.node.trim_start_matches("node");
            let expected = [format!("2001:db8:{number}::"), format!("10.0.{number}.")];
            for (address, prefix) in [(pod.address(true)?, &expected[0]), (pod.address(false)?, &expected[1])]
            {
                if !address.to_string().starts_with(prefix) {
                    let found = format!("{} on {} has {address}, expected {prefix}", pod.name, pod.node);
                    return Err(LabError::Unexpected(found));
                }
            }
        }
        Ok(((), "each has an address of each family, from its node's prefixes".to_owned()))
    })?;
    let networks = screen.step("the pods' networks", || {
        let networks = pods.iter().map(|pod| pod.netns(cluster)).collect::<Result<Vec<_>>>()?;
        Ok((networks, "their networks are found at their runtime".to_owned()))
    })?;
    screen.step("pings", || {
        let targets = targets(cluster, &pods);
        for address in &targets {
            // Routes may be on their way.
            cluster.router.netns.reach(address, SOON)?;
        }
        let mut count = 0;
        let sources = networks.iter().chain(cluster.machines.iter().map(|machine| &machine.netns));
        for source in sources {
            for address in &targets {
                source.must_ping(address, ANSWER)?;
                count += 1;
            }
        }
        Ok(((), format!("{count} pings, {count} answers: pods, nodes and router, IPv6 and IPv4")))
    })?;
    screen.step("the API's Service", || {
        for network in &networks {
            api_by_service(cluster, network)?;
        }
        Ok(((), format!("each pod reaches the API server at its Service's address, {API_SERVICE}")))
    })?;
    screen.step("a Service of two families", || {
        let addresses = service(cluster)?;
        for (pod, network) in pods.iter().zip(&networks) {
            for address in &addresses {
                both_nodes_answer(&pods, pod, network, *address)?;
            }
        }
        cluster.api().delete("/api/v1/namespaces/default/services/web")?;
        Ok(((), "each pod gets answers from pods of both nodes at a Service, IPv6 and IPv4".to_owned()))
    })?;
    screen.step("kubectl exec", || {
        let target = pods.last().map(|pod| pod.address(true)).transpose()?;
        let target = target.map(|address| address.to_string()).unwrap_or_default();
        cluster.kubectl(&["exec", "web-1", "--", "ping", "-c", "1", "-W", "1", &target])?;
        Ok(((), "kubectl exec works, and from in there the same is reached".to_owned()))
    })
}

/// The addresses of pods, nodes and the router.
fn targets(cluster: &Cluster, pods: &[Pod]) -> Vec<IpAddr> {
    let pods = pods.iter().flat_map(|pod| pod.addresses.iter().copied());
    let nodes = cluster.machines.iter().flat_map(|machine| machine.addresses);
    pods.chain(nodes).chain(cluster.router.addresses()).collect()
}

/// That it is the API server is shown by its certificate.
fn api_by_service(cluster: &Cluster, from: &Netns) -> Result<()> {
    let mut command = from.command("openssl");
    command.args(["s_client", "-verify_return_error", "-verify_ip", API_SERVICE, "-CAfile"]);
    command.arg(cluster.control.credentials.authority());
    run(command.args(["-connect", &format!("[{API_SERVICE}]:443")])).map(drop)
}

/// A Service for the pods, and its addresses.
fn service(cluster: &Cluster) -> Result<Vec<IpAddr>> {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"service": "web"},
            "ports": [{"port": 80}],
            "ipFamilyPolicy": "RequireDualStack",
        },
    });
    let created = cluster.api().create("/api/v1/namespaces/default/services", &service)?;
    let addresses = created.pointer("/spec/clusterIPs").and_then(Value::as_array);
    let addresses: Vec<IpAddr> =
        addresses.into_iter().flatten().filter_map(|address| address.as_str()?.parse().ok()).collect();
    if addresses.len() == 2 {
        return Ok(addresses);
    }
    Err(LabError::Unexpected(format!("found {addresses:?}, expected a Service address of each family")))
}

/// kube-proxy picks a pod for each connection.
fn both_nodes_answer(pods: &[Pod], from: &Pod, network: &Netns, service: IpAddr) -> Result<()> {
    let mut nodes: Vec<&str> = Vec::new();
    until(&format!("pods of both nodes to answer {} at {service}", from.name), SOON, || {
        match served_name(network, service, 80) {
            Ok(name) => {
                nodes.extend(pods.iter().filter(|pod| pod.name == name).map(|pod| pod.node.as_str()));
                nodes.sort_unstable();
                nodes.dedup();
            }
            // kube-proxy may have it to do yet.
            Err(error) => return Ok(Probe::Waiting(error.to_string())),
        }
        Ok(if nodes.len() == 2 { Probe::Done(()) } else { Probe::Waiting(format!("only {nodes:?}")) })
    })
}
