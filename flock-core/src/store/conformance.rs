//! Contract tests of [`Store`], one public function per case.
//!
//! A backend implements [`StoreHarness`] and runs all cases with
//! [`store_conformance!`](crate::store_conformance):
//!
//! ```
//! use std::sync::Arc;
//!
//! use async_trait::async_trait;
//! use flock_core::store::conformance::StoreHarness;
//! use flock_core::store::{MemoryStore, Store};
//!
//! #[derive(Default)]
//! struct Harness(MemoryStore);
//!
//! #[async_trait]
//! impl StoreHarness for Harness {
//!     async fn open(&self) -> Arc<dyn Store> {
//!         Arc::new(self.0.clone())
//!     }
//! }
//!
//! flock_core::store_conformance!(Harness::default());
//! ```
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "these are tests, they fail by panicking")]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::join_all;

use super::Store;
use crate::attachment::{Addresses, Attachment, AttachmentKey, AttachmentState, Netns};
use crate::name::{ContainerId, InterfaceName, NetworkName, PodKey};

/// What a backend supplies to be tested.
#[async_trait]
pub trait StoreHarness: Send + Sync {
    /// Opens the store, the first time without any record, later as after a
    /// restart. Stores that it gave earlier have been dropped by then.
    async fn open(&self) -> Arc<dyn Store>;
}

/// Makes one `#[tokio::test]` of each case of [`store::conformance`](crate::store::conformance).
///
/// Takes an expression for a [`StoreHarness`](crate::store::conformance::StoreHarness),
/// which is evaluated anew in each test. The crate that uses it needs tokio with
/// `macros` and `rt`.
#[macro_export]
macro_rules! store_conformance {
    (@cases $harness:expr; $($case:ident)*) => {
        $(
            #[::tokio::test]
            async fn $case() {
                let harness = $harness;
                $crate::store::conformance::$case(&harness).await;
            }
        )*
    };
    ($harness:expr) => {
        $crate::store_conformance! { @cases $harness;
            a_new_store_is_empty
            what_was_put_is_found
            a_put_replaces_the_record_of_its_key_only
            a_deleted_record_is_gone
            deleting_what_is_not_there_is_success
            the_list_is_ordered_by_key
            records_survive_a_restart
            odd_names_are_kept_apart
            calls_for_different_keys_do_not_disturb_each_other
            concurrent_calls_for_one_key_leave_one_answer
            a_dropped_call_does_not_overtake_a_later_one
        }
    };
}

/// Nothing is there that nobody put.
pub async fn a_new_store_is_empty(harness: &dyn StoreHarness) {
    let store = harness.open().await;
    assert_eq!(store.list().await.unwrap(), []);
    assert_eq!(store.get(&key("a", "eth0")).await.unwrap(), None);
}

/// Every field of a record comes back.
pub async fn what_was_put_is_found(harness: &dyn StoreHarness) {
    let full = attachment("a", "eth0", 1);
    let bare = Attachment {
        pod: None,
        pod_uid: None,
        addresses: Addresses::default(),
        anycast: Vec::new(),
        ..attachment("b", "eth0", 2)
    };
    let store = harness.open().await;
    for record in [&full, &bare] {
        store.put(record).await.unwrap();
        assert_eq!(store.get(&record.key).await.unwrap().as_ref(), Some(record));
    }
    drop(store);
    assert_eq!(harness.open().await.list().await.unwrap(), [full, bare]);
}

/// Another interface of the same container is another key.
pub async fn a_put_replaces_the_record_of_its_key_only(harness: &dyn StoreHarness) {
    let (old, other) = (attachment("a", "eth0", 1), attachment("a", "net1", 2));
    let new = Attachment { state: AttachmentState::Deleting, ..old.clone() };
    let store = harness.open().await;
    for record in [&old, &other, &new] {
        store.put(record).await.unwrap();
    }
    assert_eq!(store.get(&old.key).await.unwrap().as_ref(), Some(&new));
    assert_eq!(store.list().await.unwrap(), [new, other]);
}

/// And the others are not.
pub async fn a_deleted_record_is_gone(harness: &dyn StoreHarness) {
    let (gone, stays) = (attachment("a", "eth0", 1), attachment("b", "eth0", 2));
    let store = harness.open().await;
    store.put(&gone).await.unwrap();
    store.put(&stays).await.unwrap();
    store.delete(&gone.key).await.unwrap();
    assert_eq!(store.get(&gone.key).await.unwrap(), None);
    assert_eq!(store.list().await.unwrap(), [stays]);
}

/// Never there, or no longer.
pub async fn deleting_what_is_not_there_is_success(harness: &dyn StoreHarness) {
    let record = attachment("a", "eth0", 1);
    let store = harness.open().await;
    store.delete(&record.key).await.unwrap();
    store.put(&record).await.unwrap();
    store.delete(&record.key).await.unwrap();
    store.delete(&record.key).await.unwrap();
    assert_eq!(store.list().await.unwrap(), []);
}

/// Whatever order they were put in.
pub async fn the_list_is_ordered_by_key(harness: &dyn StoreHarness) {
    let store = harness.open().await;
    for (container, interface) in [("b", "eth0"), ("a.b", "eth0"), ("a", "net1"), ("a", "eth0")] {
        store.put(&attachment(container, interface, 1)).await.unwrap();
    }
    let keys: Vec<_> = store.list().await.unwrap().into_iter().map(|record| record.key.to_string()).collect();
    assert_eq!(keys, ["a/eth0", "a/net1", "a.b/eth0", "b/eth0"]);
}

/// Puts, replacements and deletions alike.
pub async fn records_survive_a_restart(harness: &dyn StoreHarness) {
    let (kept, gone) = (attachment("a", "eth0", 1), attachment("b", "eth0", 2));
    let store = harness.open().await;
    store.put(&Attachment { state: AttachmentState::Pending, ..kept.clone() }).await.unwrap();
    store.put(&gone).await.unwrap();
    store.put(&kept).await.unwrap();
    store.delete(&gone.key).await.unwrap();
    drop(store);

    let store = harness.open().await;
    assert_eq!(store.list().await.unwrap(), std::slice::from_ref(&kept));
    store.delete(&kept.key).await.unwrap();
    drop(store);
    assert_eq!(harness.open().await.list().await.unwrap(), []);
}

/// What a backend escapes, cuts or joins must not make two keys one.
pub async fn odd_names_are_kept_apart(harness: &dyn StoreHarness) {
    let (long_a, long_b) = ("x".repeat(190), format!("{}y", "x".repeat(189)));
    let names = [
        ("a", "b"),
        ("a", "b@c"),
        ("a", "..."),
        ("a", "b.json"),
        ("a", "b.json.tmp"),
        ("a", "\\"),
        ("a.b", "c"),
        ("a-b", "c"),
        (&long_a, "@@@@@@@@@@@@@@@"),
        (&long_b, "@@@@@@@@@@@@@@@"),
    ];
    let store = harness.open().await;
    let mut records = Vec::new();
    for (number, (container, interface)) in (1..).zip(names) {
        let record = attachment(container, interface, number);
        store.put(&record).await.unwrap();
        records.push(record);
    }
    records.sort_by(|a, b| a.key.cmp(&b.key));
    drop(store);
    assert_eq!(harness.open().await.list().await.unwrap(), records);
}

/// Many at once, as when a node starts.
pub async fn calls_for_different_keys_do_not_disturb_each_other(harness: &dyn StoreHarness) {
    let store = harness.open().await;
    let records: Vec<_> =
        (0..64).map(|number| attachment(&format!("c{number:02}"), "eth0", number)).collect();
    join_all(records.iter().map(|record| {
        let store = &store;
        async move {
            store.put(record).await.unwrap();
            assert_eq!(store.get(&record.key).await.unwrap().as_ref(), Some(record));
        }
    }))
    .await;
    assert_eq!(store.list().await.unwrap(), records);
    drop(store);
    assert_eq!(harness.open().await.list().await.unwrap(), records);
}

/// What is answered before the restart is what is found after it.
pub async fn concurrent_calls_for_one_key_leave_one_answer(harness: &dyn StoreHarness) {
    let record = attachment("a", "eth0", 0);
    for round in 0..8 {
        let store = harness.open().await;
        join_all((0..16).map(|number| {
            let (store, record) = (&store, &record);
            async move {
                if number % 4 == 3 {
                    store.delete(&record.key).await.unwrap();
                } else {
                    let created_ms = round * 16 + number;
                    store.put(&Attachment { created_ms, ..record.clone() }).await.unwrap();
                }
            }
        }))
        .await;
        let before = store.get(&record.key).await.unwrap();
        drop(store);
        assert_eq!(harness.open().await.get(&record.key).await.unwrap(), before, "round {round}");
    }
}

/// A caller that gives up and calls again gets what it asked for last.
pub async fn a_dropped_call_does_not_overtake_a_later_one(harness: &dyn StoreHarness) {
    let first = attachment("a", "eth0", 1);
    let second = attachment("a", "eth0", 2);
    for round in 0..16 {
        let store = harness.open().await;
        {
            let mut given_up = Box::pin(store.put(&first));
            let _ = given_up.as_mut().now_or_never();
        }
        store.put(&second).await.unwrap();
        assert_eq!(store.list().await.unwrap(), std::slice::from_ref(&second), "round {round}");
        drop(store);
        let store = harness.open().await;
        assert_eq!(
            store.list().await.unwrap(),
            std::slice::from_ref(&second),
            "round {round}, after a restart"
        );
        store.delete(&second.key).await.unwrap();
    }
}

/// A record with every field filled in; `number` tells it from others of the same key.
pub fn attachment(container: &str, interface: &str, number: u32) -> Attachment {
    let key = key(container, interface);
    let [host_interface, _] = key.host_interface_candidates();
    let [high, low] = [number / 200, number % 200].map(|part| u8::try_from(part).unwrap() + 1);
    Attachment {
        state: AttachmentState::Committed,
        network: NetworkName::new("flock").unwrap(),
        pod: Some(PodKey::new("default", format!("web-{number}")).unwrap()),
        pod_uid: Some(format!("5f0f6c1e-0000-4000-8000-{number:012}")),
        netns: Netns { path: "/run/netns/web".into(), device: 4, inode: u64::MAX - u64::from(number) },
        host_interface,
        addresses: Addresses {
            ipv6: Some(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from_be_bytes([high, low]))),
            ipv4: Some(Ipv4Addr::new(10, 0, high, low)),
        },
        anycast: vec![
            Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x53).into(),
            Ipv4Addr::new(192, 0, 2, 53).into(),
        ],
        mtu: 1500,
        boot_id: "0f9c3f5e-0000-4000-8000-000000000001".to_owned(),
        created_ms: 1_700_000_000_000 + u64::from(number),
        key,
    }
}

/// A key from two valid names.
pub fn key(container: &str, interface: &str) -> AttachmentKey {
    AttachmentKey::new(ContainerId::new(container).unwrap(), InterfaceName::new(interface).unwrap())
}
