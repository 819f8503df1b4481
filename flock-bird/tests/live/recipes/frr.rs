//! FRR, as Debian packages it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;

use super::route::{Route, Routes, next_hop};
use super::router::Host;
use crate::lab::{Killed, eventually};

/// The daemons of a router that does BGP, and BFD.
const DAEMONS: [&str; 3] = ["zebra", "bgpd", "bfdd"];

/// Its daemons, in the foreground.
pub(crate) struct Frr {
    running: BTreeMap<&'static str, Killed>,
    log: PathBuf,
}

impl Frr {
    /// Starts it with `config` as its `frr.conf`, all of which it must take.
    pub(crate) async fn start(host: &Host, config: &str) -> Self {
        fs::write(host.etc_frr("frr.conf"), config).unwrap();
        let log = host.run("frr/log");
        let mut frr = Self { running: BTreeMap::new(), log };
        for daemon in DAEMONS {
            frr.run(host, daemon).await;
        }
        Self::configure(host);
        frr
    }

    /// Starts a daemon, and waits until it listens: zebra has to be there before the others look for it.
    async fn run(&mut self, host: &Host, daemon: &'static str) {
        let log = fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let process = host
            .command(&format!("/usr/lib/frr/{daemon}"))
            // No TCP port for its command line; the configuration comes by vtysh.
            .args(["-P", "0", "-f", "/dev/null", "--log", "stdout"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running.insert(daemon, Killed(process));
        let socket = host.run(&format!("frr/{daemon}.vty"));
        eventually(daemon, async || UnixStream::connect(&socket).is_ok()).await;
    }

    /// As the service does it at boot.
    fn configure(host: &Host) {
        host.output("vtysh", &["-b"]).expect("FRR takes the configuration");
    }

    /// Has bgpd end as a crash does, and start anew.
    pub(crate) async fn crash(&mut self, host: &Host) {
        self.running.remove("bgpd").unwrap();
        self.run(host, "bgpd").await;
        Self::configure(host);
    }

    /// What it has from its peers.
    pub(crate) fn routes(host: &Host) -> Routes {
        let show = |what: &str| -> Value {
            let text = host.output("vtysh", &["-c", &format!("show bgp {what} json")]).unwrap();
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{what}: {error}: {text}"))
        };
        let mut found = Routes::new();
        for family in ["ipv4 unicast", "ipv6 unicast"] {
            let table = show(family);
            for prefix in table["routes"].as_object().into_iter().flat_map(|routes| routes.keys()) {
                let paths = show(&format!("{family} {prefix}"));
                for path in paths["paths"].as_array().into_iter().flatten() {
                    if path["peer"]["peerId"].as_str().is_some_and(|peer| peer != "0.0.0.0" && peer != "::") {
                        found.entry(prefix.parse().unwrap()).or_default().insert(route(path));
                    }
                }
            }
        }
        found
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("FRR said:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

fn route(path: &Value) -> Route {
    let number =
        |value: &Value, otherwise| value.as_u64().map_or(otherwise, |value| u32::try_from(value).unwrap());
    let systems = path["aspath"]["segments"].as_array().into_iter().flatten().flat_map(|segment| {
        assert_eq!(segment["type"], "as-sequence", "{path}");
        segment["list"].as_array().unwrap()
    });
    let hops = path["nexthops"].as_array().into_iter().flatten();
    let communities = path["community"]["list"].as_array().into_iter().flatten();
    Route {
        next_hop: next_hop(hops.map(|hop| hop["ip"].as_str().unwrap().parse().unwrap())),
        as_path: systems.map(|system| number(system, 0)).collect(),
        local_preference: number(&path["locPrf"], 100),
        med: number(&path["metric"], 0),
        communities: communities.map(|text| community(text.as_str().unwrap())).collect(),
    }
}

/// FRR names those that have a name.
fn community(text: &str) -> (u16, u16) {
    match text {
        "gracefulShutdown" | "graceful-shutdown" => (65535, 0),
        "noExport" | "no-export" => (65535, 65281),
        _ => {
            let (system, value) = text.split_once(':').unwrap_or_else(|| panic!("{text}"));
            (system.parse().unwrap(), value.parse().unwrap())
        }
    }
}
