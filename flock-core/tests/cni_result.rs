//! Results against golden files, which were written by hand after the specification.
//! `UPDATE_GOLDEN=1` rewrites them; read the difference before committing it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::fs;
use std::path::PathBuf;

use flock_core::attachment::{Addresses, Attachment, AttachmentKey, AttachmentState, Netns};
use flock_core::cni::{CniResult, SpecVersion};
use flock_core::name::{ContainerId, InterfaceName, NetworkName};
use serde_json::Value;

fn attachment() -> Attachment {
    Attachment {
        key: AttachmentKey::new(
            ContainerId::new("0123456789ab").unwrap(),
            InterfaceName::new("eth0").unwrap(),
        ),
        state: AttachmentState::Committed,
        network: NetworkName::new("flock").unwrap(),
        pod: None,
        pod_uid: None,
        netns: Netns { path: PathBuf::from("/run/netns/pod1"), device: 4, inode: 4_026_532_000 },
        host_interface: InterfaceName::new("flock2d4c5d51").unwrap(),
        addresses: Addresses {
            ipv6: Some("2001:db8:1::7".parse().unwrap()),
            ipv4: Some("10.0.1.7".parse().unwrap()),
        },
        anycast: vec!["2001:db8:a::1".parse().unwrap()],
        mtu: 1500,
        boot_id: "00000000-0000-0000-0000-000000000000".to_owned(),
        created_ms: 0,
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cni").join(name)
}

fn golden(name: &str) -> Value {
    let text = fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[track_caller]
fn assert_golden(name: &str, found: &Value) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path(name), format!("{found:#}\n")).unwrap();
    }
    assert_eq!(found, &golden(name), "{name}; UPDATE_GOLDEN=1 rewrites it");
}

#[test]
fn a_dual_stack_pod_in_every_version() {
    let result = CniResult::of(&attachment());
    for version in SpecVersion::ALL {
        assert_golden(&format!("result-{version}.json"), &result.to_json(version));
    }
}

#[test]
fn after_another_plugin_its_result_is_passed_on() {
    for version in [SpecVersion::V0_4_0, SpecVersion::V1_1_0] {
        let previous = CniResult::from_json(&golden(&format!("previous-{version}.json"))).unwrap();
        assert_eq!(previous.to_json(version), golden(&format!("previous-{version}.json")));
        let chained = CniResult::chained(&previous, &CniResult::of(&attachment()));
        assert_golden(&format!("chained-{version}.json"), &chained.to_json(version));
    }
}

#[test]
fn a_chain_that_begins_with_nothing_is_the_result_itself() {
    let own = CniResult::of(&attachment());
    assert_eq!(CniResult::chained(&CniResult::default(), &own), own);
}

#[test]
fn one_family_alone_has_one_address_and_one_route() {
    let v4 = Addresses { ipv6: None, ..attachment().addresses };
    let result = CniResult::of(&Attachment { addresses: v4, ..attachment() });
    assert_eq!(result.ips.iter().map(|ip| ip.address.to_string()).collect::<Vec<_>>(), ["10.0.1.7/32"]);
    assert_eq!(result.routes.iter().map(|route| route.dst.to_string()).collect::<Vec<_>>(), ["0.0.0.0/0"]);
    let v6 = Addresses { ipv4: None, ..attachment().addresses };
    let result = CniResult::of(&Attachment { addresses: v6, ..attachment() });
    assert_eq!(result.ips.iter().map(|ip| ip.address.to_string()).collect::<Vec<_>>(), ["2001:db8:1::7/128"]);
    assert_eq!(result.routes.iter().map(|route| route.dst.to_string()).collect::<Vec<_>>(), ["::/0"]);
}

#[test]
fn what_other_plugins_leave_out_or_write_empty_is_accepted() {
    let value = serde_json::json!({
        "cniVersion": "0.3.1",
        "interfaces": null,
        "ips": [{"version": "4", "interface": null, "address": "192.0.2.9/24", "gateway": ""}],
        "dns": {},
        "unheardOf": 1,
    });
    let result = CniResult::from_json(&value).unwrap();
    assert_eq!(result.ips[0].gateway, None);
    assert_eq!((result.interfaces.len(), result.routes.len()), (0, 0));
    let written = result.to_json(SpecVersion::V1_0_0);
    assert_eq!(written, serde_json::json!({"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.9/24"}]}));
}

#[test]
fn check_tolerates_what_later_plugins_added_and_names_what_is_gone() {
    let own = CniResult::of(&attachment());
    let mut later = CniResult::chained(&own, &own);
    later.interfaces[1].mtu = Some(1400);
    later.interfaces[1].mac = Some("00:00:5e:00:53:01".to_owned());
    later.interfaces[3].name = "ifb0".to_owned();
    assert_eq!(own.missing_from(&later), Vec::<String>::new());
    let mut less = own.clone();
    less.interfaces.remove(1);
    less.ips.remove(0);
    less.routes.remove(1);
    assert_eq!(own.missing_from(&less), ["interface eth0", "address 2001:db8:1::7/128", "route 0.0.0.0/0"]);
}
