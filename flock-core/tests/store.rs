//! The contract of the record, held by the reference backends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use flock_core::attachment::{Attachment, AttachmentKey};
use flock_core::store::conformance::{StoreHarness, attachment, key};
use flock_core::store::{FileStore, MemoryStore, Store};
use proptest::prelude::*;
use tempfile::TempDir;

mod memory {
    use super::*;

    #[derive(Default)]
    struct Harness(MemoryStore);

    #[async_trait]
    impl StoreHarness for Harness {
        async fn open(&self) -> Arc<dyn Store> {
            Arc::new(self.0.clone())
        }
    }

    flock_core::store_conformance!(Harness::default());
}

mod file {
    use super::*;

    struct Harness(TempDir);

    impl Harness {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }
    }

    #[async_trait]
    impl StoreHarness for Harness {
        async fn open(&self) -> Arc<dyn Store> {
            let (store, set_aside) = FileStore::open(self.0.path()).await.unwrap();
            assert_eq!(set_aside, []);
            Arc::new(store)
        }
    }

    flock_core::store_conformance!(Harness::new());
}

#[derive(Debug, Clone)]
enum Step {
    Put(Box<Attachment>),
    Delete(AttachmentKey),
    Restart,
}

/// Few keys, so that steps meet.
fn step() -> impl Strategy<Value = Step> {
    let names = (prop_oneof!["a", "b", "a\\.b"], prop_oneof!["eth0", "e@0", "e#0"]);
    prop_oneof![
        4 => (names.clone(), 0..100_u32).prop_map(|((c, i), number)| Step::Put(Box::new(attachment(&c, &i, number)))),
        2 => names.prop_map(|(c, i)| Step::Delete(key(&c, &i))),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Against a plain map, compared after each step.
    #[test]
    fn the_file_store_behaves_like_a_map(steps in proptest::collection::vec(step(), 1..24)) {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut model = BTreeMap::new();
            let (mut store, _) = FileStore::open(directory.path()).await.unwrap();
            for step in steps {
                match step {
                    Step::Put(record) => {
                        store.put(&record).await.unwrap();
                        model.insert(record.key.clone(), *record);
                    }
                    Step::Delete(key) => {
                        store.delete(&key).await.unwrap();
                        model.remove(&key);
                    }
                    Step::Restart => {
                        drop(store);
                        let (reopened, set_aside) = FileStore::open(directory.path()).await.unwrap();
                        assert_eq!(set_aside, []);
                        store = reopened;
                    }
                }
                assert_eq!(store.list().await.unwrap(), model.values().cloned().collect::<Vec<_>>());
            }
        });
    }
}

mod record {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use flock_core::attachment::{Addresses, AttachmentState, Netns};
    use flock_core::name::{InterfaceName, NetworkName, PodKey};

    use super::*;

    prop_compose! {
        fn any_key()(
            container in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,30}",
            interface in "[^/:\\s\\x00]{1,3}".prop_filter("a valid name", |name| InterfaceName::new(name).is_ok()),
        ) -> AttachmentKey {
            key(&container, &interface)
        }
    }

    prop_compose! {
        fn any_attachment()(
            key in any_key(),
            state in prop_oneof![
                Just(AttachmentState::Pending),
                Just(AttachmentState::Committed),
                Just(AttachmentState::Deleting),
            ],
            pod in proptest::option::of(("[a-z0-9]{1,5}", "[a-z0-9]{1,5}")),
            pod_uid: Option<String>,
            path: String,
            device: u64,
            inode: u64,
            created_ms: u64,
            ipv6: Option<Ipv6Addr>,
            ipv4: Option<Ipv4Addr>,
            anycast: Vec<IpAddr>,
            mtu: u32,
            boot_id: String,
        ) -> Attachment {
            let [_, host_interface] = key.host_interface_candidates();
            Attachment {
                key,
                state,
                network: NetworkName::new("flock").unwrap(),
                pod: pod.map(|(namespace, name)| PodKey::new(namespace, name).unwrap()),
                pod_uid,
                netns: Netns { path: path.into(), device, inode },
                host_interface,
                addresses: Addresses { ipv6, ipv4 },
                anycast,
                mtu,
                boot_id,
                created_ms,
            }
        }
    }

    proptest! {
        #[test]
        fn every_attachment_is_read_back_from_its_json(attachment in any_attachment()) {
            let json = serde_json::to_string(&attachment).unwrap();
            prop_assert_eq!(serde_json::from_str::<Attachment>(&json).unwrap(), attachment);
        }
    }

    #[test]
    fn a_wrong_field_is_told_with_its_place() {
        let json = serde_json::to_string_pretty(&attachment("a", "eth0", 1)).unwrap();
        for (from, to, expected) in [
            (
                "\"ipv6\": \"2001:db8:1::102\"",
                "\"ipv6\": \"10.0.0.1\"",
                "invalid IPv6 address syntax at line ",
            ),
            ("\"mtu\": 1500", "\"mtu\": \"1500\"", "invalid type: string \"1500\", expected u32 at line "),
            (
                "\"committed\"",
                "\"lost\"",
                "unknown variant `lost`, expected one of `pending`, `committed`, `deleting`",
            ),
            ("\"container\": \"a\"", "\"container\": \"../a\"", "\"../a\" is not a valid container id"),
            ("\"container\": \"a\",", "", "missing field `container`"),
        ] {
            let broken = json.replace(from, to);
            assert_ne!(broken, json, "{from}");
            let error = serde_json::from_str::<Attachment>(&broken).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\nexpected: {expected}");
        }
    }
}
