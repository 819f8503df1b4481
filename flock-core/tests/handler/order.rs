//! The order of calls, on mocks: what the handler promises to do before what.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_core::announcer::{AnnounceError, MockRouteAnnouncer};
use flock_core::attachment::{Addresses, Attachment, AttachmentState, Netns};
use flock_core::clock::ManualClock;
use flock_core::cni::{Call, Operation, RawCall, Verb};
use flock_core::dataplane::{DataplaneError, MockDataplane};
use flock_core::handler::{Backends, Handler, HandlerError, Settings};
use flock_core::ipam::MockIpam;
use flock_core::name::PodKey;
use flock_core::node_config::NodeConfig;
use flock_core::pods::{MockPodSource, PodInfo};
use flock_core::store::MockStore;
use mockall::Sequence;
use mockall::predicate::function;

/// Mocks that fail the test at any call that is not expected.
#[derive(Default)]
struct Mocks {
    ipam: MockIpam,
    store: MockStore,
    dataplane: MockDataplane,
    announcer: MockRouteAnnouncer,
    pods: MockPodSource,
}

impl Mocks {
    /// Expects what the start of an agent ends with.
    fn expect_publish(&mut self, step: &mut Sequence) {
        self.dataplane.expect_set_summaries().times(1).in_sequence(step).returning(|_| Ok(()));
        self.store.expect_list().times(1).in_sequence(step).returning(|| Ok(Vec::new()));
        self.dataplane.expect_set_anycast().times(1).in_sequence(step).returning(|_| Ok(()));
        self.announcer.expect_sync().times(1).in_sequence(step).returning(|_| Ok(()));
    }

    fn handler(self) -> Handler {
        let config = NodeConfig::from_yaml(
            "{apiVersion: flock.fritzlab.net/v1alpha1, kind: NodeConfig, metadata: {name: host001}, \
             spec: {cidr6: '2001:db8:1::/64', anycastPrefixes: ['2001:db8:a::/48'], bgp: {asn: 64512}}}",
            "test",
        );
        let backends = Backends {
            ipam: Arc::new(self.ipam),
            store: Arc::new(self.store),
            dataplane: Arc::new(self.dataplane),
            announcer: Arc::new(self.announcer),
            pods: Arc::new(self.pods),
            clock: Arc::new(ManualClock::new()),
        };
        Handler::new(backends, config.unwrap(), Settings::new("boot-1"))
    }
}

/// With the annotations in the request, so that no pod source is asked.
fn call(verb: Verb, annotations: &str) -> Call {
    let config = format!(
        r#"{{"cniVersion":"1.1.0","name":"flock","type":"flock",
            "runtimeConfig":{{"io.kubernetes.cri.pod-annotations":{{{annotations}}}}}}}"#
    );
    let raw = RawCall {
        verb,
        container_id: "container1",
        ifname: "eth0",
        netns: "/run/netns/pod1",
        config: config.as_bytes(),
        ..RawCall::default()
    };
    match Operation::parse(&raw).unwrap() {
        Operation::Attachment(call) => call,
        other => panic!("{other:?}"),
    }
}

fn netns() -> Netns {
    Netns { path: "/run/netns/pod1".into(), device: 4, inode: 4_026_532_000 }
}

fn addresses() -> Addresses {
    Addresses { ipv6: Some("2001:db8:1::1".parse().unwrap()), ipv4: None }
}

fn attachment() -> Attachment {
    let Call { key, .. } = call(Verb::Del, "");
    Attachment {
        host_interface: key.host_interface_candidates()[0].clone(),
        key,
        state: AttachmentState::Committed,
        network: "flock".parse().unwrap(),
        pod: None,
        pod_uid: None,
        netns: netns(),
        addresses: addresses(),
        anycast: Vec::new(),
        mtu: 1500,
        boot_id: "boot-1".to_owned(),
        created_ms: 0,
    }
}

fn in_state(state: AttachmentState) -> impl Fn(&Attachment) -> bool + Send + Sync {
    move |attachment| attachment.state == state
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

const ANYCAST: &str = r#""flock.fritzlab.net/anycast":"2001:db8:a::1""#;

#[tokio::test]
async fn add_holds_then_records_then_builds_then_commits_then_announces() {
    let (mut mocks, mut order) = (Mocks::default(), Sequence::new());
    let step = &mut order;
    mocks.expect_publish(step);
    mocks.dataplane.expect_identify().times(1).in_sequence(step).returning(|_| Ok(netns()));
    mocks.store.expect_get().times(1).in_sequence(step).returning(|_| Ok(None));
    mocks.ipam.expect_allocate().times(1).in_sequence(step).returning(|_, _| Ok(addresses()));
    let pending = function(in_state(AttachmentState::Pending));
    mocks.store.expect_put().with(pending).times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.dataplane.expect_attach().times(1).in_sequence(step).returning(|_| Ok(()));
    let committed = function(in_state(AttachmentState::Committed));
    mocks.store.expect_put().with(committed).times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.store.expect_list().times(1).in_sequence(step).returning(|| Ok(Vec::new()));
    mocks.dataplane.expect_set_anycast().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.announcer.expect_sync().times(1).in_sequence(step).returning(|_| Ok(()));

    let handler = mocks.handler();
    handler.publish().await.unwrap();
    let result = handler.add(&call(Verb::Add, ANYCAST), deadline()).await.unwrap();
    assert_eq!(result.ips[0].address.to_string(), "2001:db8:1::1/128");
}

/// What is found of a pod that has no record is forgotten at the next change of any pod; and nobody
/// may tell of that pod again.
#[tokio::test]
async fn readiness_is_found_once_there_is_a_record() {
    let (mut mocks, mut order) = (Mocks::default(), Sequence::new());
    let step = &mut order;
    mocks.dataplane.expect_identify().returning(|_| Ok(netns()));
    mocks.store.expect_get().returning(|_| Ok(None));
    mocks.ipam.expect_allocate().returning(|_, _| Ok(addresses()));
    mocks.store.expect_put().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.pods.expect_pod().times(1).in_sequence(step).returning(|_, _| Ok(PodInfo::default()));
    mocks.dataplane.expect_attach().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.store.expect_put().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.store.expect_list().returning(|| Ok(Vec::new()));
    mocks.dataplane.expect_set_anycast().returning(|_| Ok(()));
    mocks.announcer.expect_sync().returning(|_| Ok(()));
    let mut call = call(Verb::Add, ANYCAST);
    call.args.pod = Some(PodKey::new("default", "web").unwrap());
    mocks.handler().add(&call, deadline()).await.unwrap();
}

#[tokio::test]
async fn a_failed_attach_is_taken_away_in_reverse_before_add_answers() {
    let (mut mocks, mut order) = (Mocks::default(), Sequence::new());
    let step = &mut order;
    mocks.dataplane.expect_identify().times(1).in_sequence(step).returning(|_| Ok(netns()));
    mocks.store.expect_get().times(1).in_sequence(step).returning(|_| Ok(None));
    mocks.ipam.expect_allocate().times(1).in_sequence(step).returning(|_, _| Ok(addresses()));
    mocks.store.expect_put().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.dataplane.expect_attach().times(1).in_sequence(step).returning(|attachment| {
        Err(DataplaneError::InterfaceExists {
            interface: attachment.key.interface.clone(),
            netns: attachment.netns.path.clone(),
        })
    });
    mocks.dataplane.expect_reap().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.store.expect_delete().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.ipam.expect_release().times(1).in_sequence(step).returning(|_| Ok(()));

    let error = mocks.handler().add(&call(Verb::Add, ""), deadline()).await.unwrap_err();
    assert!(matches!(error, HandlerError::Dataplane(DataplaneError::InterfaceExists { .. })), "{error}");
}

#[tokio::test]
async fn del_withdraws_before_it_detaches_and_leaves_the_link_to_the_reaper() {
    let (mut mocks, mut order) = (Mocks::default(), Sequence::new());
    let step = &mut order;
    mocks.expect_publish(step);
    mocks.dataplane.expect_identify().returning(|_| Ok(netns()));
    let record = Arc::new(std::sync::Mutex::new(None::<Attachment>));
    let (kept, read) = (Arc::clone(&record), Arc::clone(&record));
    mocks.store.expect_get().returning(move |_| Ok(read.lock().unwrap().clone()));
    // The ADD that makes the record.
    mocks.ipam.expect_allocate().times(1).in_sequence(step).returning(|_, _| Ok(addresses()));
    mocks.store.expect_put().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.dataplane.expect_attach().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.store.expect_put().times(1).in_sequence(step).returning(move |attachment| {
        *kept.lock().unwrap() = Some(attachment.clone());
        Ok(())
    });
    mocks.store.expect_list().times(1).in_sequence(step).returning(|| Ok(Vec::new()));
    mocks.dataplane.expect_set_anycast().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.announcer.expect_sync().times(1).in_sequence(step).returning(|_| Ok(()));
    // The DEL.
    let deleting = function(in_state(AttachmentState::Deleting));
    mocks.store.expect_put().with(deleting).times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.store.expect_list().times(1).in_sequence(step).returning(|| Ok(Vec::new()));
    mocks.announcer.expect_sync().times(1).in_sequence(step).returning(|wanted| {
        assert!(wanted.anycast.is_empty());
        Ok(())
    });
    mocks.dataplane.expect_set_anycast().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.dataplane.expect_detach().times(1).in_sequence(step).returning(|_| Ok(()));
    // The reaper.
    mocks.dataplane.expect_reap().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.store.expect_delete().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.ipam.expect_release().times(1).in_sequence(step).returning(|_| Ok(()));

    let handler = mocks.handler();
    handler.publish().await.unwrap();
    handler.add(&call(Verb::Add, ANYCAST), deadline()).await.unwrap();
    handler.del(&call(Verb::Del, "")).await.unwrap();
    assert_eq!(handler.reap().await, 0);
}

/// Its routes go with the link, however often they could not be removed by themselves.
#[tokio::test]
async fn del_removes_the_link_at_once_where_detaching_is_refused() {
    let (mut mocks, mut order) = (Mocks::default(), Sequence::new());
    let step = &mut order;
    mocks.store.expect_get().returning(|_| Ok(Some(attachment())));
    mocks.dataplane.expect_detach().returning(|_| {
        Err(DataplaneError::Kernel {
            action: "removing routes".to_owned(),
            source: std::io::ErrorKind::PermissionDenied.into(),
        })
    });
    let deleting = function(in_state(AttachmentState::Deleting));
    mocks.store.expect_put().with(deleting).times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.dataplane.expect_reap().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.store.expect_delete().times(1).in_sequence(step).returning(|_| Ok(()));
    mocks.ipam.expect_release().times(1).in_sequence(step).returning(|_| Ok(()));

    mocks.handler().del(&call(Verb::Del, "")).await.unwrap();
}

/// A route within the node that leads to a pod that is gone is not kept for BIRD's sake.
#[tokio::test]
async fn del_of_an_anycast_pod_takes_its_route_away_though_nothing_can_be_announced() {
    let mut mocks = Mocks::default();
    let record = Attachment { anycast: vec!["2001:db8:a::1".parse().unwrap()], ..attachment() };
    mocks.store.expect_get().returning(move |_| Ok(Some(record.clone())));
    mocks.store.expect_put().returning(|_| Ok(()));
    mocks.store.expect_list().returning(|| Ok(Vec::new()));
    mocks.announcer.expect_sync().returning(|_| {
        Err(AnnounceError::Timeout { endpoint: "/run/flock/bird.ctl".to_owned(), seconds: 5 })
    });
    mocks.dataplane.expect_set_anycast().withf(<[_]>::is_empty).times(1).returning(|_| Ok(()));
    mocks.dataplane.expect_detach().returning(|_| Ok(()));

    mocks.handler().del(&call(Verb::Del, "")).await.unwrap();
}
