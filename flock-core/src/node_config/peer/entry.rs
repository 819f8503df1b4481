//! A peer as it is written in a manifest: read from there, and written again.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{Bfd, Family, GracefulRestart, Import, LimitAction, MaxPrefixes, Neighbor, Peer, is_peer_name};
use crate::node_config::attributes;
use crate::node_config::fields::Fields;
use crate::node_config::password::PasswordReference;

const IMPORTS: [(&str, Import); 3] =
    [("all", Import::All), ("default", Import::Default), ("none", Import::None)];
const FAMILIES: [(&str, Family); 2] = [("ipv6", Family::Ipv6), ("ipv4", Family::Ipv4)];
const ACTIONS: [(&str, LimitAction); 4] = [
    ("restart", LimitAction::Restart),
    ("disable", LimitAction::Disable),
    ("block", LimitAction::Block),
    ("warn", LimitAction::Warn),
];

/// Reads one entry of `spec.bgp.peers` of a node of the autonomous system `local_asn`, or says
/// everything that is wrong with it.
pub(in crate::node_config) fn read(entry: &Value, local_asn: u32) -> Result<Peer, Vec<String>> {
    let mut problems = Vec::new();
    if !entry.is_object() {
        return Err(vec!["the entry is no object, expected name, address, asn and more".to_owned()]);
    }
    let mut fields = Fields::new("", entry, &mut problems);
    let name = fields.text("name", "text");
    let neighbor = neighbor(&mut fields);
    let asn = fields.number("asn", 0..=u32::MAX);
    let peer = match (name, neighbor, asn) {
        (Some(name), Some(neighbor), Some(asn)) => Some(settings(&mut fields, Peer::at(name, neighbor, asn))),
        (name, neighbor, asn) => {
            for (field, is_there) in [("name", name.is_some()), ("asn", asn.is_some())] {
                // A wrong one was told of already.
                if !is_there && entry.get(field).is_none_or(Value::is_null) {
                    fields.problem(format!("{field} is missing, expected in each entry"));
                }
            }
            // For the problems in it.
            let neighbor = neighbor.unwrap_or(Neighbor::Address([192, 0, 2, 1].into()));
            settings(&mut fields, Peer::at("", neighbor, 0));
            None
        }
    };
    fields.end();
    match peer {
        Some(peer) if problems.is_empty() => {
            let problems = peer.problems(local_asn);
            if problems.is_empty() { Ok(peer) } else { Err(problems) }
        }
        _ => Err(problems),
    }
}

/// What an entry is called, if it has a name that peers can have.
pub(in crate::node_config) fn name_of(entry: &Value) -> Option<&str> {
    entry.get("name").and_then(Value::as_str).filter(|name| is_peer_name(name))
}

fn neighbor(fields: &mut Fields<'_>) -> Option<Neighbor> {
    let is_set = (fields.is_set("address"), fields.is_set("interface"));
    let address = fields.parsed("address", "an IPv6 or IPv4 address");
    let interface = fields.parsed("interface", "the name of an interface of the node");
    match is_set {
        (true, true) => Some(Neighbor::LinkLocal { address: address?, interface: interface? }),
        (true, false) => address.map(Neighbor::Address),
        (false, true) => interface.map(|interface| Neighbor::Unnumbered { interface }),
        (false, false) => {
            fields.problem("address is missing, expected it, or interface for a peer that is unnumbered");
            None
        }
    }
}

fn settings(fields: &mut Fields<'_>, defaults: Peer) -> Peer {
    let families = fields.list("families", |text| {
        let family = FAMILIES.iter().find(|(word, _)| *word == text);
        family.map(|(_, family)| *family).ok_or_else(|| "expected ipv6 or ipv4".to_owned())
    });
    Peer {
        port: fields.number("port", 1..=u16::MAX).unwrap_or(defaults.port),
        local_address: fields.parsed("localAddress", "an address of the node"),
        passive: fields.flag("passive"),
        multihop: fields.number("multihop", 1..=u8::MAX),
        ttl_security: fields.flag("ttlSecurity"),
        hold_time: fields.number("holdTime", 0..=u16::MAX).unwrap_or(defaults.hold_time),
        keepalive_time: fields.number("keepaliveTime", 1..=u16::MAX),
        password_reference: password_reference(fields),
        bfd: fields.nested("bfd", bfd),
        graceful_restart: fields.nested("gracefulRestart", graceful_restart).unwrap_or_default(),
        families: families.map_or(defaults.families, |families| families.into_iter().collect()),
        import: fields.word("import", &IMPORTS).unwrap_or_default(),
        max_prefixes: fields.nested("maxPrefixes", max_prefixes).flatten(),
        export: fields.nested("export", attributes::read).unwrap_or_default(),
        ..defaults
    }
}

/// Whoever puts a password here by mistake does not find it in a message.
fn password_reference(fields: &mut Fields<'_>) -> Option<PasswordReference> {
    let both = fields.is_set("passwordSecret") && fields.is_set("passwordFile");
    let secret = fields.nested("passwordSecret", |fields| {
        let name = fields.text("name", "the name of a Secret");
        let key = fields.text("key", "the name of a value in the Secret");
        let key = key.unwrap_or_else(|| PasswordReference::DEFAULT_KEY.to_owned());
        let Some(name) = name.filter(|name| is_secret_name(name)) else {
            fields.problem("name is missing or none, expected the name of a Secret in the agent's namespace");
            return None;
        };
        if !is_secret_key(&key) {
            fields
                .problem("key is none of a Secret, expected letters, digits, '-', '_' and '.', at most 253");
        }
        Some(PasswordReference::Secret { name, key })
    });
    let file = match fields.raw("passwordFile") {
        None => None,
        Some(Value::String(path)) if path.starts_with('/') && !path.contains(char::is_control) => {
            Some(PasswordReference::File(PathBuf::from(path)))
        }
        Some(_) => {
            fields.problem(
                "passwordFile is no absolute path, expected that of a file which holds the password",
            );
            None
        }
    };
    if both {
        fields.problem("passwordSecret and passwordFile are both set, expected one of them");
    }
    secret.flatten().or(file)
}

/// RFC 1123, as Kubernetes has it for objects.
fn is_secret_name(name: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let is_outer = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    (1..=253).contains(&name.len())
        && name.bytes().all(is_inner)
        && is_outer(name.bytes().next())
        && is_outer(name.bytes().next_back())
}

fn is_secret_key(key: &str) -> bool {
    (1..=253).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn bfd(fields: &mut Fields<'_>) -> Bfd {
    let defaults = Bfd::default();
    let intervals = Bfd::MIN_INTERVAL_MS..=Bfd::MAX_INTERVAL_MS;
    Bfd {
        min_rx_ms: fields.number("minRxMs", intervals.clone()).unwrap_or(defaults.min_rx_ms),
        min_tx_ms: fields.number("minTxMs", intervals).unwrap_or(defaults.min_tx_ms),
        multiplier: fields.number("multiplier", 1..=u8::MAX).unwrap_or(defaults.multiplier),
    }
}

fn graceful_restart(fields: &mut Fields<'_>) -> GracefulRestart {
    let restart_time = fields.number("restartTime", 0..=Peer::MAX_RESTART_TIME);
    let stale_time = fields.nested("longLived", |fields| {
        let given = fields.is_set("staleTime");
        let stale_time = fields.number("staleTime", 0..=Peer::MAX_STALE_TIME);
        if !given {
            fields.problem("staleTime is missing, expected for how many seconds routes are kept");
        }
        stale_time
    });
    let stale_time = stale_time.flatten();
    let restart = GracefulRestart::Restart { restart_time, stale_time };
    let modes =
        [("restart", restart), ("helper", GracefulRestart::Helper), ("disabled", GracefulRestart::Disabled)];
    let mode = fields.word("mode", &modes).unwrap_or(restart);
    if mode != restart && restart != GracefulRestart::default() {
        fields.problem("restartTime and longLived are for the mode restart, expected none in another");
    }
    mode
}

fn max_prefixes(fields: &mut Fields<'_>) -> Option<MaxPrefixes> {
    let given = fields.is_set("count");
    let count = fields.number("count", 1..=u32::MAX);
    if !given {
        fields.problem("count is missing, expected 1 to 4294967295");
    }
    let action = fields.word("action", &ACTIONS).unwrap_or_default();
    count.map(|count| MaxPrefixes { count, action })
}

/// What [`read`] would read as this peer. Defaults are left out, and so is the password.
pub(in crate::node_config) fn write(peer: &Peer) -> Value {
    let defaults = Peer::at(peer.name.clone(), peer.neighbor.clone(), peer.asn);
    let mut entry = Map::new();
    let mut put = |field: &str, value: Option<Value>| {
        value.and_then(|value| entry.insert(field.to_owned(), value));
    };
    put("name", Some(peer.name.clone().into()));
    put("address", peer.neighbor.address().map(|address| address.to_string().into()));
    put("interface", peer.neighbor.interface().map(|interface| interface.as_str().into()));
    put("asn", Some(peer.asn.into()));
    put("port", (peer.port != defaults.port).then(|| peer.port.into()));
    put("localAddress", peer.local_address.map(|address| address.to_string().into()));
    put("passive", peer.passive.then_some(Value::Bool(true)));
    put("multihop", peer.multihop.map(Value::from));
    put("ttlSecurity", peer.ttl_security.then_some(Value::Bool(true)));
    put("holdTime", (peer.hold_time != defaults.hold_time).then(|| peer.hold_time.into()));
    put("keepaliveTime", peer.keepalive_time.map(Value::from));
    match &peer.password_reference {
        Some(PasswordReference::Secret { name, key }) => {
            put("passwordSecret", Some(json!({"name": name, "key": key})));
        }
        Some(PasswordReference::File(path)) => put("passwordFile", path.to_str().map(Value::from)),
        None => {}
    }
    put("bfd", peer.bfd.map(|Bfd { min_rx_ms, min_tx_ms, multiplier }| {
        json!({"minRxMs": min_rx_ms, "minTxMs": min_tx_ms, "multiplier": multiplier})
    }));
    let graceful_restart = peer.graceful_restart;
    put(
        "gracefulRestart",
        (graceful_restart != defaults.graceful_restart).then(|| match graceful_restart {
            GracefulRestart::Restart { restart_time, stale_time } => {
                let mut said = Map::new();
                if let Some(time) = restart_time {
                    said.insert("restartTime".to_owned(), time.into());
                }
                if let Some(time) = stale_time {
                    said.insert("longLived".to_owned(), json!({"staleTime": time}));
                }
                Value::Object(said)
            }
            GracefulRestart::Helper => json!({"mode": "helper"}),
            GracefulRestart::Disabled => json!({"mode": "disabled"}),
        }),
    );
    put(
        "families",
        (peer.families != defaults.families)
            .then(|| peer.families.iter().rev().map(|family| word_of(&FAMILIES, family)).collect()),
    );
    put("import", (peer.import != defaults.import).then(|| word_of(&IMPORTS, &peer.import)));
    put(
        "maxPrefixes",
        peer.max_prefixes.map(
            |MaxPrefixes { count, action }| json!({"count": count, "action": word_of(&ACTIONS, &action)}),
        ),
    );
    put("export", (!peer.export.is_empty()).then(|| attributes::write(&peer.export)));
    Value::Object(entry)
}

fn word_of<T: PartialEq>(words: &[(&str, T)], meant: &T) -> Value {
    words.iter().find(|(_, value)| value == meant).map(|(word, _)| (*word).into()).unwrap_or_default()
}
