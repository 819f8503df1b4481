//! What GC deletes, and what it leaves alone.

use std::pin::pin;
use std::time::{Duration, Instant};

use flock_core::attachment::{Attachment, AttachmentState};
use flock_core::cni::{self, Code, RawCall, Verb};
use flock_core::frame::{Request, Response};
use flock_core::handler::HandlerError;
use flock_core::name::NetworkName;
use flock_core::server::Service;
use flock_core::store::Store;
use futures_util::FutureExt;

use crate::faults::Faults;
use crate::node::{Node, World, call, gc_call, key};

/// A node with pods 1 to 3.
async fn with_three_pods(world: &World) -> Node {
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    for pod in 1..=3 {
        node.add(pod, &[]).await.unwrap();
    }
    node
}

/// Which of the pods 1 to 3 are attached.
fn attached(world: &World) -> Vec<u8> {
    (1..=3).filter(|pod| world.dataplane.is_attached(&key(*pod))).collect()
}

#[tokio::test]
async fn without_a_list_nothing_is_deleted() {
    let world = World::new();
    let node = with_three_pods(&world).await;
    assert_eq!(node.handler.gc(&gc_call("flock", None)).await.unwrap(), 0);
    assert_eq!(attached(&world), [1, 2, 3]);
}

#[tokio::test]
async fn what_is_not_valid_is_deleted_as_by_del() {
    let world = World::new();
    let node = with_three_pods(&world).await;
    assert_eq!(node.gc(&[2, 9]).await.unwrap(), 2);
    assert_eq!(attached(&world), [2]);
    assert_eq!(world.dataplane.links().len(), 3, "links are left to the reaper");
    assert_eq!(node.gc(&[2]).await.unwrap(), 0, "what is being deleted is not deleted again");
    assert_eq!(node.handler.reap().await, 0);
    assert_eq!(world.store.list().await.unwrap().len(), 1);
    assert_eq!(node.gc(&[]).await.unwrap(), 1);
    assert_eq!(node.handler.reap().await, 0);
    world.assert_empty(&node).await;
}

/// Two networks on one node, as a meta plugin makes them.
#[tokio::test]
async fn attachments_of_another_network_are_left_alone() {
    let world = World::new();
    let node = with_three_pods(&world).await;
    let record = world.store.get(&key(1)).await.unwrap().unwrap();
    let network = NetworkName::new("other").unwrap();
    world.store.put(&Attachment { network, ..record }).await.unwrap();
    assert_eq!(node.gc(&[3]).await.unwrap(), 1);
    assert_eq!(attached(&world), [1, 3]);
    assert_eq!(node.handler.gc(&gc_call("other", Some(&[]))).await.unwrap(), 1);
    assert_eq!(attached(&world), [3]);
}

/// Which network it was is lost with the record.
#[tokio::test]
async fn an_attachment_with_a_salvaged_record_is_left_alone() {
    let world = World::new();
    with_three_pods(&world).await;
    world.store.delete(&key(1)).await.unwrap();
    let node = world.node(Faults::failing([]));
    assert_eq!(node.handler.recover(&[key(1)]).await.unwrap().salvaged, 1);
    assert_eq!(node.gc(&[]).await.unwrap(), 2);
    assert_eq!(attached(&world), [1]);
}

#[tokio::test]
async fn an_attachment_whose_add_is_at_work_is_left_alone() {
    let world = World::new();
    let node = with_three_pods(&world).await;
    let held = node.faults.attaching.lock().await;
    let arguments = call(Verb::Add, 4, &[]);
    let mut add = pin!(node.handler.add(&arguments, Instant::now() + Duration::from_secs(60)));
    assert!(add.as_mut().now_or_never().is_none(), "not held up");
    let state = world.store.get(&key(4)).await.unwrap().unwrap().state;
    assert_eq!(state, AttachmentState::Pending);
    assert_eq!(node.gc(&[1, 2]).await.unwrap(), 1);
    drop(held);
    add.await.unwrap();
    assert!(world.dataplane.is_attached(&key(4)));
    assert_eq!(attached(&world), [1, 2]);
}

/// The list is older than it.
#[tokio::test]
async fn an_attachment_that_was_made_meanwhile_is_left_alone() {
    let world = World::new();
    let node = with_three_pods(&world).await;
    let held = node.faults.detaching.lock().await;
    let nothing_is_valid = gc_call("flock", Some(&[]));
    let mut gc = pin!(node.handler.gc(&nothing_is_valid));
    assert!(gc.as_mut().now_or_never().is_none(), "not held up at the first one");
    // As if the third one had been deleted and made again; and another one is new.
    let third = world.store.get(&key(3)).await.unwrap().unwrap();
    world.store.put(&Attachment { created_ms: third.created_ms + 1, ..third }).await.unwrap();
    node.add(4, &[]).await.unwrap();
    drop(held);
    assert_eq!(gc.await.unwrap(), 2);
    assert_eq!(node.handler.reap().await, 0);
    assert_eq!(attached(&world), [3]);
    assert!(world.dataplane.is_attached(&key(4)));
}

/// What an ADD that was cut off left behind is nobody's.
#[tokio::test]
async fn an_attachment_whose_add_was_cut_off_is_deleted() {
    let world = World::new();
    let node = with_three_pods(&world).await;
    let held = node.faults.attaching.lock().await;
    let arguments = call(Verb::Add, 4, &[]);
    assert!(node.handler.add(&arguments, Instant::now()).now_or_never().is_none(), "not cut off");
    drop(held);
    assert_eq!(node.gc(&[]).await.unwrap(), 4);
    assert_eq!(node.handler.reap().await, 0);
    world.assert_empty(&node).await;
}

/// Every call of a GC fails once: all others are deleted, and what is left over is named.
#[tokio::test]
async fn a_failure_in_the_middle_stops_nothing_and_is_named() {
    let counting = Faults::failing([]);
    let counted = World::new().node(counting.clone());
    counted.recover().await.unwrap();
    for pod in 1..=3 {
        counted.add(pod, &[]).await.unwrap();
    }
    let before = counting.calls();
    counted.gc(&[]).await.unwrap();
    let calls: Vec<&str> = counting.log().split_off(before);
    let of_one = ["store.get", "store.put", "dataplane.detach"];
    assert_eq!(calls, [&["store.list"][..], &of_one, &of_one, &of_one].concat());

    let mut named = 0;
    for (failing, call) in calls.iter().enumerate().skip(1) {
        let world = World::new();
        let node = with_three_pods(&world).await;
        node.faults.fail_later(failing);
        match node.gc(&[]).await {
            // Where a record can't be marked or a route not be removed, the link goes at once.
            Ok(deleted) => assert_eq!(deleted, 3, "{call}"),
            Err(HandlerError::Gc { deleted, left }) => {
                assert_eq!((deleted, left.len()), (2, 1), "{call}");
                let pod = u8::try_from((failing - 1) / 3 + 1).unwrap();
                assert_eq!(left[0].0, key(pod), "{call}");
                let error = cni::Error::from(HandlerError::Gc { deleted, left });
                let expected = format!("GC deleted 2 attachments and could not delete 1: {}: ", key(pod));
                assert!(error.msg.starts_with(&expected), "{}", error.msg);
                assert!(error.details.contains("by the next GC, or with DEL"), "{}", error.details);
                named += 1;
            }
            Err(other) => panic!("{call}: {other}"),
        }
        node.gc(&[]).await.unwrap();
        assert_eq!(node.handler.reap().await, 0);
        world.assert_empty(&node).await;
    }
    assert!(named >= 3, "only {named} failed");
}

#[tokio::test]
async fn all_that_are_left_over_are_in_one_error() {
    let world = World::new();
    let node = with_three_pods(&world).await;
    // The records of the first and the third one can't be read.
    for get in [1, 5] {
        node.faults.fail_later(get);
    }
    let config =
        br#"{"cniVersion": "1.1.0", "name": "flock", "type": "flock", "cni.dev/valid-attachments": []}"#;
    let raw = RawCall { verb: Verb::Gc, config, ..RawCall::default() };
    let Response::Error(error) = node.handler.call(Request::new(&raw).unwrap()).await else {
        panic!("success")
    };
    assert_eq!(error.code, Code::TRY_AGAIN_LATER);
    let (first, third) = (key(1), key(3));
    assert!(
        error.msg.contains(&format!("{first}: ")) && error.msg.contains(&format!("{third}: ")),
        "{error}"
    );
    assert!(error.msg.contains("GC deleted 1 attachments and could not delete 2"), "{error}");
    assert_eq!(attached(&world), [1, 3]);
}

/// Whatever stands in its record for the network's name may be the name of one.
#[tokio::test]
async fn a_record_that_was_made_anew_is_of_no_network() {
    let world = World::new();
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    node.add(1, &[]).await.unwrap();
    world.store.delete(&key(1)).await.unwrap();
    let node = world.node(Faults::failing([]));
    assert_eq!(node.handler.recover(&[key(1)]).await.unwrap().salvaged, 1);
    let network = world.store.get(&key(1)).await.unwrap().unwrap().network;
    assert_eq!(node.handler.gc(&gc_call(network.as_str(), Some(&[]))).await.unwrap(), 0);
    assert!(world.dataplane.is_attached(&key(1)));
}
