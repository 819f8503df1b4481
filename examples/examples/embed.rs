//! Flock inside another program, with a Dataplane of one's own.
//!
//! The handler carries out ADD, CHECK and DEL on whatever it is given. Here the
//! four other parts are flock-core's reference backends, and the Dataplane is one
//! that programs a switch: it only says what it would do. A real one makes the
//! kernel, a DPU or a hypervisor do it, and runs the conformance suite.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flock_core::announcer::MemoryAnnouncer;
use flock_core::attachment::{Attachment, Netns};
use flock_core::clock::SystemClock;
use flock_core::cni::{Operation, RawCall, Verb};
use flock_core::dataplane::{
    AnycastRoute, Dataplane, DataplaneError, Disturbance, Drift, FoundLink, Link, NodeDrift, NodeFacts,
    NodeWanted, Stray,
};
use flock_core::handler::{Backends, Handler, Settings};
use flock_core::ipam::MemoryIpam;
use flock_core::name::InterfaceName;
use flock_core::node_config::NodeConfig;
use flock_core::pods::FixedPods;
use flock_core::store::MemoryStore;
use ipnet::IpNet;

type Error = Box<dyn std::error::Error>;

/// A Dataplane that says what it does and keeps the links it has.
#[derive(Debug, Default)]
struct Switch {
    ports: Mutex<BTreeMap<String, FoundLink>>,
}

impl Switch {
    fn ports(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, FoundLink>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn say(what: impl std::fmt::Display) {
    // A reader that has gone does not stop the switch.
    writeln!(io::stdout(), "switch: {what}").ok();
}

#[async_trait]
impl Dataplane for Switch {
    async fn prepare(&self) -> Result<NodeFacts, DataplaneError> {
        say("ready");
        Ok(NodeFacts { default_mtu: Some(9000), ..NodeFacts::default() })
    }

    async fn identify(&self, path: &Path) -> Result<Netns, DataplaneError> {
        Ok(Netns { path: path.to_owned(), device: 1, inode: 1 })
    }

    async fn attach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        let addresses: Vec<String> = attachment.addresses.iter().map(|address| address.to_string()).collect();
        say(format_args!(
            "port for {} with {}, mtu {}",
            attachment.key,
            addresses.join(" and "),
            attachment.mtu
        ));
        let port =
            FoundLink { link: Link::of(attachment), addresses: attachment.addresses, mtu: attachment.mtu };
        self.ports().insert(attachment.host_interface.to_string(), port);
        Ok(())
    }

    async fn detach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        say(format_args!("no more packets for {}", attachment.key));
        Ok(())
    }

    async fn reap(&self, links: &[Link]) -> Result<(), DataplaneError> {
        let mut ports = self.ports();
        for link in links {
            if ports.remove(link.interface.as_str()).is_some() {
                say("port removed");
            }
        }
        Ok(())
    }

    async fn check(&self, attachments: &[Attachment]) -> Result<Vec<Vec<Drift>>, DataplaneError> {
        let ports = self.ports();
        let missing = |attachment: &Attachment| !ports.contains_key(attachment.host_interface.as_str());
        let drift = |attachment| {
            let side = flock_core::dataplane::Side::Host;
            if missing(attachment) { vec![Drift::LinkMissing(side)] } else { Vec::new() }
        };
        Ok(attachments.iter().map(drift).collect())
    }

    async fn list(&self) -> Result<Vec<FoundLink>, DataplaneError> {
        Ok(self.ports().values().cloned().collect())
    }

    async fn set_summaries(&self, prefixes: &BTreeSet<IpNet>) -> Result<(), DataplaneError> {
        say(format_args!("summaries {}", list(prefixes.iter())));
        Ok(())
    }

    async fn set_anycast(&self, routes: &[AnycastRoute]) -> Result<(), DataplaneError> {
        if !routes.is_empty() {
            say(format_args!("anycast {}", list(routes.iter().map(|route| &route.address))));
        }
        Ok(())
    }

    async fn announced_anycast(&self) -> Result<Vec<(IpAddr, InterfaceName)>, DataplaneError> {
        Ok(Vec::new())
    }

    /// Nobody else has access to this switch.
    async fn disturbed(&self) -> Result<Disturbance, DataplaneError> {
        std::future::pending().await
    }

    async fn check_node(&self, _wanted: &NodeWanted) -> Result<Vec<NodeDrift>, DataplaneError> {
        // It has nothing that could be otherwise than it was told.
        Ok(Vec::new())
    }

    async fn remove_strays(&self, _strays: &[Stray]) -> Result<(), DataplaneError> {
        Ok(())
    }
}

fn list<T: std::fmt::Display>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let clock = Arc::new(SystemClock);
    let backends = Backends {
        ipam: Arc::new(MemoryIpam::new(clock.clone(), Duration::from_secs(30), 0)),
        store: Arc::new(MemoryStore::new()),
        dataplane: Arc::new(Switch::default()),
        announcer: Arc::new(MemoryAnnouncer::new()),
        pods: Arc::new(FixedPods::default()),
        clock,
    };
    let config = NodeConfig::from_yaml(
        "apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: {name: host001}
spec: {cidr6: '2001:db8:1::/64', cidr4: 10.0.1.0/24}",
        "host001.yaml",
    )?;
    let handler = Handler::new(backends, config, Settings::new("this boot"));
    handler.recover(&[]).await?;
    handler.publish().await?;

    // What a container runtime says, in the order in which it says it.
    for verb in [Verb::Add, Verb::Add, Verb::Check, Verb::Del, Verb::Del] {
        let said = RawCall {
            verb,
            container_id: "0123456789ab",
            ifname: "eth0",
            netns: "/run/netns/web-0",
            config: br#"{"cniVersion": "1.1.0", "name": "flock", "type": "flock"}"#,
            ..RawCall::default()
        };
        carry_out(&handler, verb, &said).await?;
    }
    handler.reap().await;
    Ok(())
}

async fn carry_out(handler: &Handler, verb: Verb, said: &RawCall<'_>) -> Result<(), Error> {
    let mut out = io::stdout();
    let Operation::Attachment(call) = Operation::parse(said)? else {
        return Err(format!("{verb:?} is not about an attachment").into());
    };
    match verb {
        Verb::Add => {
            let result = handler.add(&call, Instant::now() + Duration::from_secs(50)).await?;
            writeln!(out, "ADD: {}", list(result.ips.iter().map(|ip| &ip.address)))?;
        }
        Verb::Check => {
            handler.check(&call).await?;
            writeln!(out, "CHECK: as it should be")?;
        }
        _ => {
            handler.del(&call).await?;
            writeln!(out, "DEL: done")?;
        }
    }
    Ok(())
}
