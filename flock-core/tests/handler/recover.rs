//! The start of an agent over what an earlier one left.

use flock_core::attachment::AttachmentState;
use flock_core::store::Store;

use crate::faults::Faults;
use crate::node::{World, key};

/// Whatever the records are made of, the addresses of a running pod stay its own.
#[tokio::test]
async fn a_running_pod_whose_record_is_unreadable_keeps_its_link_and_addresses() {
    let world = World::new();
    let first = world.node(Faults::failing([]));
    first.recover().await.unwrap();
    let before = first.add(1, &[("anycast", "2001:db8:a::1")]).await.unwrap();
    first.add(2, &[]).await.unwrap();
    // What a store does with a file that it can't read.
    world.store.delete(&key(1)).await.unwrap();

    let second = world.node(Faults::failing([]));
    let recovery = second.handler.recover(&[key(1)]).await.unwrap();
    assert_eq!((recovery.salvaged, recovery.committed, recovery.orphans), (1, 2, 0));
    assert!(world.dataplane.is_attached(&key(1)));
    let other = second.add(3, &[]).await.unwrap();
    assert!(other.ips.iter().all(|ip| !before.ips.contains(ip)));

    // It survives the next start too, which hears nothing of the file any more.
    let third = world.node(Faults::failing([]));
    third.recover().await.unwrap();
    assert!(world.dataplane.is_attached(&key(1)));
    third.delete_all().await;
    world.assert_empty(&third).await;
}

#[tokio::test]
async fn a_link_without_any_record_is_removed() {
    let world = World::new();
    let first = world.node(Faults::failing([]));
    first.recover().await.unwrap();
    first.add(1, &[]).await.unwrap();
    world.store.delete(&key(1)).await.unwrap();
    let second = world.node(Faults::failing([]));
    let recovery = second.recover().await.unwrap();
    assert_eq!((recovery.salvaged, recovery.orphans), (0, 1));
    world.assert_empty(&second).await;
}

/// The kernel that they describe is gone, and so are their links.
#[tokio::test]
async fn records_of_another_boot_are_dropped_and_their_addresses_free() {
    let world = World::new();
    let first = world.node(Faults::failing([]));
    first.recover().await.unwrap();
    let before = first.add(1, &[("ipv6", "2001:db8:1::7")]).await.unwrap();
    let mut record = world.store.get(&key(1)).await.unwrap().unwrap();
    record.boot_id = "boot-0".to_owned();
    world.store.put(&record).await.unwrap();

    let second = world.node(Faults::failing([]));
    let recovery = second.recover().await.unwrap();
    assert_eq!((recovery.other_boot, recovery.committed), (1, 0));
    let again = second.add(2, &[("ipv6", "2001:db8:1::7")]).await.unwrap();
    assert_eq!(again.ips[0].address, before.ips[0].address);
    second.del(1).await.unwrap();
    second.delete_all().await;
    world.assert_empty(&second).await;
}

/// Deleted before the agent died, and not reaped.
#[tokio::test]
async fn what_was_being_deleted_is_taken_away() {
    let world = World::new();
    let first = world.node(Faults::failing([]));
    first.recover().await.unwrap();
    first.add(1, &[]).await.unwrap();
    first.del(1).await.unwrap();
    let left = world.store.get(&key(1)).await.unwrap().unwrap();
    assert_eq!(left.state, AttachmentState::Deleting);
    let second = world.node(Faults::failing([]));
    assert_eq!(second.recover().await.unwrap().undone, 1);
    world.assert_empty(&second).await;
}
