//! NodeConfig manifests, and what is rendered of them for BIRD.
//!
//! Input that begins with a zero is no text: its bytes are the values of a manifest, since
//! text that is still a manifest after a change is rare.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flock_core::node_config::{
    API_VERSION, BgpSpec, KIND, Manifest, Metadata, NodeConfig, NodeConfigError, Spec,
};
use serde_json::{Value, json};

use crate::message::assert_readable;
use crate::rendered;

/// What a problem with a manifest begins with.
const FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata.name", "spec", "is not a NodeConfig manifest: "];

/// Reads `data` as a manifest, in YAML or JSON.
pub fn check(data: &[u8]) {
    let outcome = if let Some((0, values)) = data.split_first() {
        let manifest = Values(values).manifest();
        let json = serde_json::to_string(&manifest).unwrap_or_else(|error| panic!("{error}"));
        let outcome = NodeConfig::from_manifest(&manifest);
        assert_eq!(NodeConfig::from_yaml(&json, "host001.yaml").is_ok(), outcome.is_ok(), "{json}");
        outcome
    } else {
        let Ok(text) = std::str::from_utf8(data) else { return };
        let outcome = NodeConfig::from_yaml(text, "host001.yaml");
        if let Err(error) = &outcome {
            assert!(error.to_string().contains("host001.yaml"), "the file is not named: {error}");
        }
        outcome
    };
    match outcome {
        Ok(config) => accepted(&config),
        Err(error) => refused(&error),
    }
}

/// The values of a manifest, one after the other; zero when there are no more.
struct Values<'a>(&'a [u8]);

impl Values<'_> {
    fn manifest(mut self) -> Manifest {
        let [have] = self.take();
        let cidr6 = (have & 1 != 0).then(|| format!("{}/{}", self.v6(), self.byte()));
        let cidr4 = (have & 2 != 0).then(|| format!("{}/{}", self.v4(), self.byte()));
        let mtu = (have & 4 != 0).then(|| self.number());
        let bgp = (have & 8 != 0).then(|| BgpSpec {
            asn: self.number(),
            router_id: (have & 16 != 0).then(|| self.v4()),
            maximum_paths: (have & 64 != 0).then(|| self.byte().into()),
            drain: self.byte() & 1 != 0,
            drain_time: self.byte().checked_sub(128).map(|more| u32::from(more) * 1000),
            export: (have & 128 != 0).then(|| self.export()),
            peers: (0..self.byte() % 4).map(|_| self.peer()).collect(),
        });
        let name = if have & 32 == 0 { "host001".to_owned() } else { self.text() };
        let anycast_prefixes = self.prefixes();
        let static_prefixes = self.prefixes();
        Manifest {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            metadata: Metadata { name },
            spec: Spec { cidr6, cidr4, mtu, anycast_prefixes, static_prefixes, bgp },
        }
    }

    fn prefixes(&mut self) -> Vec<String> {
        (0..self.byte() % 3).map(|_| format!("{}/{}", self.v6(), self.byte())).collect()
    }

    /// The last bits of the first byte say where it is, the others whether it has more.
    fn peer(&mut self) -> Value {
        let [kind] = self.take();
        let address: IpAddr = if kind & 1 == 0 { self.v4().into() } else { self.v6().into() };
        let mut peer = json!({"name": self.text(), "address": address, "asn": self.number()});
        if kind & 2 != 0 {
            peer["interface"] = self.text().into();
        }
        if kind & 4 != 0 {
            let numbers = ["port", "multihop", "holdTime", "keepaliveTime"];
            for field in numbers {
                let [high, low] = self.take();
                if high != 0 || low != 0 {
                    peer[field] = u16::from_be_bytes([high, low]).into();
                }
            }
        }
        if kind & 8 != 0 {
            let [flags] = self.take();
            peer["passive"] = (flags & 1 != 0).into();
            peer["ttlSecurity"] = (flags & 2 != 0).into();
            for (flag, field, value) in [
                (4, "bfd", json!({"minRxMs": self.byte()})),
                (8, "families", json!(["ipv4", "ipv6"])),
                (16, "import", "default".into()),
                (32, "gracefulRestart", json!({"longLived": {"staleTime": self.byte()}})),
                (64, "maxPrefixes", json!({"count": self.byte(), "action": "block"})),
                (128, "localAddress", self.text().into()),
            ] {
                if flags & flag != 0 {
                    peer[field] = value;
                }
            }
        }
        if kind & 16 != 0 {
            peer["export"] = self.export();
        }
        if kind & 32 != 0 {
            peer["passwordFile"] = self.text().into();
        }
        peer
    }

    fn export(&mut self) -> Value {
        let level = |values: &mut Self| {
            json!({
                "communities": [values.text()], "largeCommunities": [], "med": values.number(),
                "prepend": values.byte() % 18,
            })
        };
        let mut export = level(self);
        export["anycast"] = level(self);
        export
    }

    fn text(&mut self) -> String {
        let len = usize::from(self.byte()).min(self.0.len());
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        String::from_utf8_lossy(text).into_owned()
    }

    fn v6(&mut self) -> Ipv6Addr {
        self.take::<16>().into()
    }

    fn v4(&mut self) -> Ipv4Addr {
        self.take::<4>().into()
    }

    fn number(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let len = N.min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        bytes[..len].copy_from_slice(taken);
        self.0 = rest;
        bytes
    }
}

fn accepted(config: &NodeConfig) {
    valid(config);
    let manifest = Manifest::from(config);
    assert_eq!(NodeConfig::from_manifest(&manifest).as_ref(), Ok(config));
    let json = serde_json::to_string(&manifest).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(NodeConfig::from_yaml(&json, "host001.json").as_ref(), Ok(config));
    rendered::check(config);
}

fn refused(error: &NodeConfigError) {
    assert!(!error.problems.is_empty());
    for problem in &error.problems {
        assert!(FIELDS.iter().any(|field| problem.starts_with(field)), "no field is named: {problem}");
        assert_readable(problem);
    }
}

fn valid(config: &NodeConfig) {
    let NodeConfig { name, cidrs, mtu, allowed, bgp } = config;
    assert!((1..=253).contains(&name.as_str().len()), "{name}");
    assert!(
        name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    );
    assert!(cidrs.iter().next().is_some(), "a node without prefixes");
    for cidr in cidrs.iter() {
        assert_eq!(cidr, cidr.trunc());
        assert_ne!(cidr.prefix_len(), 0);
    }
    let least = if cidrs.ipv6.is_some() { 1280 } else { 68 };
    assert!(mtu.is_none_or(|mtu| (least..=65_535).contains(&mtu)), "{mtu:?}");
    for prefix in allowed.anycast.iter().chain(&allowed.fixed) {
        assert_eq!(*prefix, prefix.trunc());
        assert_ne!(prefix.prefix_len(), 0);
    }
    for prefix in &allowed.anycast {
        let others = cidrs.iter().chain(allowed.fixed.iter().copied());
        let mut meeting = others.filter(|other| other.contains(prefix) || prefix.contains(other));
        assert_eq!(meeting.next(), None, "{prefix}");
    }
    let Some(bgp) = bgp else { return };
    assert!(bgp.asn != 0 && bgp.router_id.is_none_or(|id| !id.is_unspecified()), "{bgp:?}");
    let names: BTreeSet<&str> = bgp.peers.iter().map(|peer| peer.name.as_str()).collect();
    let places: BTreeSet<String> = bgp.peers.iter().map(|peer| peer.neighbor.to_string()).collect();
    assert_eq!((names.len(), places.len()), (bgp.peers.len(), bgp.peers.len()), "{:?}", bgp.peers);
    assert!(bgp.peers.is_sorted_by_key(|peer| &peer.name));
    for refused in &bgp.refused {
        assert!(!refused.problems.is_empty(), "refused for nothing");
        refused.problems.iter().for_each(|problem| assert_readable(problem));
    }
    for peer in &bgp.peers {
        assert_eq!(peer.problems(bgp.asn), [] as [String; 0], "{peer:?}");
    }
    for address in bgp.peers.iter().filter_map(|peer| peer.neighbor.address()) {
        assert!(!cidrs.contain(address), "a peer at a pod's address: {address}");
    }
}
