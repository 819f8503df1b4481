//! What the start of an agent does with the records and links that it finds.

use std::path::Path;
use std::sync::Arc;

use flock_core::attachment::{Attachment, AttachmentState};
use flock_core::cni::CniResult;
use flock_core::dataplane::{Dataplane, Link};
use flock_core::handler::{HandlerError, Recovery};
use flock_core::ipam::{Ipam, IpamError};
use flock_core::store::{MemoryStore, Store};

use crate::faults::Faults;
use crate::node::{Node, World, key, link, namespace};

/// An agent that has not recovered yet, of a node that another one has left.
fn next(world: &World) -> Node {
    world.node(Faults::failing([]))
}

/// A node with one pod, and what the pod was given.
async fn with_a_pod() -> (World, CniResult) {
    let world = World::new();
    let node = next(&world);
    node.recover().await.unwrap();
    let given = node.add(1, &[]).await.unwrap();
    (world, given)
}

async fn record(world: &World, pod: u8) -> Attachment {
    world.store.get(&key(pod)).await.unwrap().unwrap()
}

async fn copy_of(world: &World) -> Arc<MemoryStore> {
    let copy = MemoryStore::new();
    for record in world.store.list().await.unwrap() {
        copy.put(&record).await.unwrap();
    }
    Arc::new(copy)
}

/// Asks for the very address that the pod has.
async fn ask_for_the_address_of(world: &World, node: &Node, pod: u8) -> Result<CniResult, HandlerError> {
    let held = record(world, pod).await.addresses.ipv6.unwrap().to_string();
    node.add(9, &[("ipv6", held.as_str())]).await
}

#[tokio::test]
async fn a_complete_attachment_stays_as_it_is() {
    let (world, given) = with_a_pod().await;
    let node = next(&world);
    let recovery = node.recover().await.unwrap();
    assert_eq!(recovery, Recovery { committed: 1, ..Recovery::default() });
    assert!(world.dataplane.is_attached(&key(1)));
    assert_eq!(node.add(1, &[]).await.unwrap(), given, "a repeated ADD is answered from the record");
}

#[tokio::test]
async fn addresses_of_complete_attachments_are_held() {
    let (world, _) = with_a_pod().await;
    let node = next(&world);
    node.recover().await.unwrap();
    let error = ask_for_the_address_of(&world, &node, 1).await.unwrap_err();
    assert!(
        matches!(&error, HandlerError::Ipam(IpamError::Taken { holder, .. }) if holder.key == key(1)),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_broken_of_a_complete_attachment_is_mended() {
    let (world, _) = with_a_pod().await;
    let broken = record(&world, 1).await;
    world.dataplane.detach(&broken).await.unwrap();
    assert!(!world.dataplane.is_attached(&key(1)));
    let recovery = next(&world).recover().await.unwrap();
    assert_eq!(recovery, Recovery { committed: 1, repaired: 1, ..Recovery::default() });
    assert!(world.dataplane.is_attached(&key(1)));
}

#[tokio::test]
async fn half_made_and_half_deleted_attachments_are_gone() {
    for state in [AttachmentState::Pending, AttachmentState::Deleting] {
        let (world, _) = with_a_pod().await;
        world.store.put(&Attachment { state, ..record(&world, 1).await }).await.unwrap();
        let node = next(&world);
        let recovery = node.recover().await.unwrap();
        assert_eq!(recovery, Recovery { undone: 1, ..Recovery::default() }, "{state:?}");
        world.assert_empty(&node).await;
    }
}

#[tokio::test]
async fn addresses_of_half_deleted_attachments_are_held_while_the_link_is_there() {
    let (world, _) = with_a_pod().await;
    let deleting = Attachment { state: AttachmentState::Deleting, ..record(&world, 1).await };
    world.store.put(&deleting).await.unwrap();
    // Where the start removes the link.
    let counting = Faults::failing([]);
    World { store: copy_of(&world).await, ..World::new() }.node(counting.clone()).recover().await.unwrap();
    let at = counting.log().iter().position(|call| *call == "dataplane.reap").unwrap();

    let node = world.node(Faults::failing([at]));
    node.recover().await.unwrap();
    assert_eq!(world.dataplane.links().len(), 1);
    for usage in node.ipam.usage().await.unwrap() {
        assert_eq!(usage.in_use, 1, "{}", usage.prefix);
    }
    assert_eq!(node.handler.reap().await, 0);
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn records_of_another_boot_are_dropped_with_their_addresses() {
    let (world, _) = with_a_pod().await;
    let of_another_boot = Attachment { boot_id: "boot-0".to_owned(), ..record(&world, 1).await };
    world.store.put(&of_another_boot).await.unwrap();
    world.dataplane.reap(&[Link::of(&of_another_boot)]).await.unwrap();
    let node = next(&world);
    let recovery = node.recover().await.unwrap();
    assert_eq!(recovery, Recovery { other_boot: 1, ..Recovery::default() });
    world.assert_empty(&node).await;
    let error = node.check(1).await.unwrap_err();
    assert!(matches!(error, HandlerError::Unknown(_)), "{error}");
}

#[tokio::test]
async fn links_without_a_record_are_removed() {
    let (world, _) = with_a_pod().await;
    world.store.delete(&key(1)).await.unwrap();
    let node = next(&world);
    let recovery = node.recover().await.unwrap();
    assert_eq!(recovery, Recovery { orphans: 1, ..Recovery::default() });
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn an_attachment_whose_namespace_is_gone_keeps_its_addresses_until_its_del() {
    let (world, _) = with_a_pod().await;
    world.dataplane.remove_namespace(Path::new(&namespace(1)));
    let node = next(&world);
    let recovery = node.recover().await.unwrap();
    assert_eq!(recovery, Recovery { committed: 1, ..Recovery::default() });
    ask_for_the_address_of(&world, &node, 1).await.unwrap_err();
    node.del(1).await.unwrap();
    assert_eq!(node.handler.reap().await, 0);
    world.assert_empty(&node).await;
}

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
    second.handler.publish().await.unwrap();
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

/// A node with a link that no record knows, and one that can't be removed.
async fn with_an_orphan_that_stays() -> (World, Node, String) {
    let (world, _) = with_a_pod().await;
    let held = record(&world, 1).await.addresses.ipv6.unwrap().to_string();
    let node = next(&world);
    node.recover().await.unwrap();
    node.add(2, &[]).await.unwrap();
    world.store.delete(&key(1)).await.unwrap();
    world.store.delete(&key(2)).await.unwrap();
    let node = next(&world);
    node.faults.refuse_to_remove(link(1));
    (world, node, held)
}

#[tokio::test]
async fn a_link_that_can_not_be_removed_keeps_no_agent_from_its_start() {
    let (world, node, held) = with_an_orphan_that_stays().await;
    let recovery = node.recover().await.unwrap();
    assert_eq!(recovery, Recovery { orphans: 2, ..Recovery::default() });
    assert_eq!(world.dataplane.links(), [link(1)], "the other one could be removed");

    // An address is not given out again until its link is gone; nor does another start lose it.
    node.add(9, &[("ipv6", &held)]).await.unwrap_err();
    assert_eq!(node.handler.reap().await, 1);
    let node = next(&world);
    node.faults.refuse_to_remove(link(1));
    node.recover().await.unwrap();
    node.add(9, &[("ipv6", &held)]).await.unwrap_err();

    node.faults.stop();
    assert_eq!(node.handler.reap().await, 0);
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn a_link_that_can_not_be_removed_holds_up_no_other_deletion() {
    let (world, _) = with_a_pod().await;
    let node = next(&world);
    node.recover().await.unwrap();
    node.add(2, &[]).await.unwrap();
    node.faults.refuse_to_remove(link(1));
    node.del(1).await.unwrap();
    node.del(2).await.unwrap();
    assert_eq!(node.handler.reap().await, 1);
    assert_eq!(world.dataplane.links(), [link(1)]);
    node.faults.stop();
    assert_eq!(node.handler.reap().await, 0);
    world.assert_empty(&node).await;
}
