//! The network configuration on standard input, with every verb.

use std::path::Path;
use std::time::Duration;

use flock_core::attachment::AttachmentKey;
use flock_core::cni::{
    CniResult, Code, Delivery, Error, NetworkConfig, Operation, RawCall, SpecVersion, Verb, version_info,
};
use flock_core::frame::{self, Request};
use serde_json::Value;

use crate::message::assert_names;

/// What an error about a network configuration may name.
const NAMES: [&str; 14] = [
    "the network configuration",
    "CNI version",
    "cniVersion",
    "\"name\"",
    "runDir",
    "timeoutSeconds",
    "mtu",
    "runtimeConfig",
    "io.kubernetes.cri.pod-annotations",
    "prevResult",
    "interfaces",
    "containerID",
    "ifname",
    "cni.dev/",
];
/// What an error about `prevResult` names beside these.
const LISTS: [&str; 3] = ["ips", "routes", "dns"];

/// Reads `data` as a network configuration.
pub fn check(data: &[u8]) {
    let full = NetworkConfig::parse(data);
    let for_del = NetworkConfig::parse_for_del(data);
    let delivery = Delivery::parse(data);
    for error in [full.as_ref().err(), for_del.as_ref().err(), delivery.as_ref().err()].into_iter().flatten()
    {
        refused(error);
    }
    if let Ok(full) = &full {
        valid(full);
        let Ok(for_del) = &for_del else { panic!("ADD takes what DEL refuses: {for_del:?}") };
        let less = NetworkConfig { mtu: None, pod_annotations: None, prev_result: None, ..full.clone() };
        assert_eq!(for_del, &less);
    }
    if let Ok(NetworkConfig { cni_version, run_dir, timeout, .. }) = for_del.clone() {
        assert_eq!(delivery, Ok(Delivery { cni_version, run_dir, timeout }));
    }
    if let Ok(delivery) = &delivery {
        assert_eq!(SpecVersion::for_errors(data), delivery.cni_version);
    }
    answer_to_version(data);
    for verb in [Verb::Add, Verb::Check, Verb::Del, Verb::Gc, Verb::Status, Verb::Version] {
        let expected = if verb == Verb::Del { &for_del } else { &full };
        operation(verb, data, expected);
    }
}

fn refused(error: &Error) {
    assert!(
        matches!(error.code, Code::INCOMPATIBLE_VERSION | Code::DECODING_FAILURE | Code::INVALID_CONFIG),
        "{error:?}"
    );
    let names: Vec<&str> = NAMES.into_iter().chain(LISTS).collect();
    assert_names(error, &names);
}

fn valid(config: &NetworkConfig) {
    let name = config.name.as_str();
    assert!(name.starts_with(|c: char| c.is_ascii_alphanumeric()), "{name:?}");
    assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)), "{name:?}");
    usable_path(&config.run_dir);
    assert!((Duration::from_secs(1)..=Duration::from_secs(110)).contains(&config.timeout), "{config:?}");
    assert!(config.mtu.is_none_or(|mtu| (68..=65_535).contains(&mtu)), "{:?}", config.mtu);
    if let Some(previous) = &config.prev_result {
        result(previous);
    }
}

fn usable_path(path: &Path) {
    assert!(path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0), "{}", path.display());
}

/// What a plugin before this one answered is passed on as it was.
fn result(previous: &CniResult) {
    for ip in &previous.ips {
        assert!(ip.interface.is_none_or(|index| index < previous.interfaces.len()), "{previous:?}");
    }
    assert_eq!(CniResult::from_json(&previous.to_json(SpecVersion::NEWEST)).as_ref(), Ok(previous));
    for version in SpecVersion::ALL {
        let written = previous.to_json(version);
        assert_eq!(written["cniVersion"], version.as_str());
        let read = CniResult::from_json(&written).unwrap_or_else(|error| panic!("{error}: {written}"));
        assert_eq!(read.to_json(version), written);
    }
    assert!(previous.missing_from(previous).is_empty());
    let chained = CniResult::chained(previous, previous);
    assert!(previous.missing_from(&chained).is_empty());
    assert_eq!(CniResult::from_json(&chained.to_json(SpecVersion::NEWEST)), Ok(chained));
}

fn answer_to_version(data: &[u8]) {
    match version_info(data) {
        Ok(info) => {
            let asked = serde_json::from_slice::<Value>(data).ok();
            let asked = asked.as_ref().and_then(|config| config["cniVersion"].as_str()).unwrap_or("1.1.0");
            assert_eq!(info["cniVersion"], asked);
            assert_eq!(info["supportedVersions"].as_array().map(Vec::len), Some(SpecVersion::ALL.len()));
        }
        Err(error) => {
            assert_eq!(error.code, Code::DECODING_FAILURE);
            refused(&error);
        }
    }
}

fn operation(verb: Verb, data: &[u8], config: &Result<NetworkConfig, Error>) {
    let raw = RawCall {
        verb,
        container_id: "0123456789ab",
        ifname: "eth0",
        netns: "/run/netns/pod1",
        args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
        config: data,
        ..RawCall::default()
    };
    let operation = Operation::parse(&raw);
    match (&operation, config) {
        (Ok(operation), Ok(config)) => {
            assert_eq!(operation.config(), config);
            assert!(verb != Verb::Version && config.cni_version >= verb.since());
        }
        (Ok(operation), Err(error)) => panic!("{operation:?} from what is refused: {error}"),
        (Err(error), Ok(config)) => {
            let told = config.cni_version < verb.since() || matches!(verb, Verb::Version | Verb::Gc);
            assert!(told, "{verb} is refused: {error}");
            assert!(verb == Verb::Version || !error.to_string().is_empty());
        }
        // The environment is complete, so it is the configuration that is complained about.
        (Err(error), Err(expected)) => assert!(verb == Verb::Version || error == expected, "{error}"),
    }
    match &operation {
        Ok(Operation::Gc(call)) => call.valid.iter().flatten().for_each(listed),
        Err(error) if verb == Verb::Gc => refused(error),
        Err(error) => crate::message::assert_readable(error),
        Ok(_) => {}
    }
    sent(&raw, &operation);
}

/// What GC is told to keep has the form of what ADD made.
fn listed(key: &AttachmentKey) {
    assert_eq!(AttachmentKey::from_alias(&key.alias()).as_ref(), Some(key));
    let [first, second] = key.host_interface_candidates();
    assert_ne!(first, second);
}

/// The agent understands what the plugin understands.
fn sent(raw: &RawCall<'_>, operation: &Result<Operation, Error>) {
    let Ok(request) = Request::new(raw) else { return assert!(operation.is_err()) };
    let bytes = frame::encode(&request).unwrap_or_else(|error| panic!("{error}"));
    let json = frame::read(bytes.as_slice()).unwrap_or_else(|error| panic!("{error}"));
    let received = Request::from_json(&json).unwrap_or_else(|error| panic!("{error}"));
    match (received.operation(), operation) {
        (Ok(received), Ok(operation)) => assert_eq!(&received, operation),
        // Messages may name columns, which white space moves.
        (Err(received), Err(error)) => assert_eq!(received.code, error.code),
        (received, operation) => panic!("{received:?} was sent as {operation:?}"),
    }
}
