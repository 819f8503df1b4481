//! GoBGP, as Debian packages it.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::route::{Route, Routes};
use super::router::Host;
use crate::lab::Killed;

/// A running gobgpd.
pub(crate) struct Gobgp {
    _running: Killed,
    log: PathBuf,
}

impl Gobgp {
    /// Starts it with `config`.
    pub(crate) fn start(host: &Host, config: &str) -> Self {
        let (path, log) = (host.run("gobgpd.toml"), host.run("gobgpd.log"));
        fs::write(&path, config).unwrap();
        let said = fs::File::create(&log).unwrap();
        let process = host
            .command("gobgpd")
            .args(["--log-plain", "--pprof-disable", "--api-hosts", "127.0.0.1:50051", "-f"])
            .arg(&path)
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .unwrap();
        Self { _running: Killed(process), log }
    }

    /// What it has from its peers.
    pub(crate) fn routes(host: &Host) -> Routes {
        let mut found = Routes::new();
        for family in ["ipv4", "ipv6"] {
            // Until it is there, it has nothing.
            let text = host.output("gobgp", &["--json", "global", "rib", "-a", family]).unwrap_or_default();
            let table: Value = serde_json::from_str(&text).unwrap_or_default();
            for (prefix, paths) in table.as_object().into_iter().flatten() {
                // What it has itself comes from no neighbor.
                let paths = paths.as_array().into_iter().flatten();
                for path in paths.filter(|path| path["neighbor-ip"].is_string()) {
                    found.entry(prefix.parse().unwrap()).or_default().insert(route(path));
                }
            }
        }
        found
    }
}

impl Drop for Gobgp {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("GoBGP said:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Its attributes go by their types' numbers (RFC 4271, section 4.3).
fn route(path: &Value) -> Route {
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap_or_else(|| panic!("{path}"))).unwrap();
    let attribute =
        |kind: u64| path["attrs"].as_array().into_iter().flatten().find(move |found| found["type"] == kind);
    let value = |kind, name, otherwise| attribute(kind).map_or(otherwise, |found| number(&found[name]));
    let next_hop = attribute(3).or_else(|| attribute(14)).expect("NEXT_HOP or MP_REACH_NLRI");
    let segments = attribute(2).and_then(|path| path["as_paths"].as_array()).into_iter().flatten();
    let communities = attribute(8).and_then(|found| found["communities"].as_array()).into_iter().flatten();
    Route {
        next_hop: next_hop["nexthop"].as_str().unwrap().parse().unwrap(),
        as_path: segments.flat_map(|segment| segment["asns"].as_array().unwrap()).map(number).collect(),
        local_preference: value(5, "value", 100),
        med: value(4, "metric", 0),
        communities: communities
            .map(number)
            .map(|both| (u16::try_from(both >> 16).unwrap(), u16::try_from(both & 0xffff).unwrap()))
            .collect(),
    }
}
