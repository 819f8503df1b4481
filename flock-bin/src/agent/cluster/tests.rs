//! What a node does with its NodeConfig, and what is said of it, whatever the API server has.

use std::convert::Infallible;
use std::sync::Mutex;

use flock_bird::announcer::Status as BirdStatus;
use flock_bird::peers::Peers;
use flock_core::announcer::AnnounceError;
use flock_core::clock::SystemClock;
use flock_core::dataplane::MemoryDataplane;
use flock_core::handler::{Backends, Settings};
use flock_core::node_config::{Manifest, NodeConfig};
use futures_util::FutureExt;
use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use super::*;
use crate::agent::in_memory;

mod leaving;
mod passwords;
mod sessions;

/// An API server with one NodeConfig, with none, or that is away.
#[derive(Clone)]
struct Api {
    /// With its version.
    has: watch::Sender<(u64, Has)>,
    written: Arc<Mutex<Vec<(String, Value)>>>,
    secrets: Arc<Mutex<passwords::Answers>>,
    /// Its Node, where that is told of.
    node: Arc<Mutex<Option<Value>>>,
}

#[derive(Clone)]
enum Has {
    Nothing,
    NodeConfig(Value),
    /// It answers nothing.
    Away,
}

impl Api {
    fn with(has: Has) -> Self {
        Self {
            has: watch::Sender::new((1, has)),
            written: Arc::default(),
            secrets: Arc::default(),
            node: Arc::default(),
        }
    }

    fn now_has(&self, has: Has) {
        self.has.send_modify(|current| *current = (current.0 + 1, has));
    }

    fn now_has_node(&self, node: Value) {
        *self.node.lock().unwrap() = Some(node);
        self.has.send_modify(|current| current.0 += 1);
    }

    fn member(&self, run_dir: &TempDir) -> Membership {
        let (_, readiness) = watch::channel(Readiness::Ready);
        self.member_counted_by(&Metrics::new(readiness), run_dir)
    }

    fn member_counted_by(&self, metrics: &Metrics, run_dir: &TempDir) -> Membership {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        let cluster = Cluster::new(kube::Client::new(service, "flock-system"), node());
        Membership::of(&cluster, run_dir.path(), None, metrics)
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let mut has = self.has.subscribe();
        let (version, there) = has.borrow().clone();
        if matches!(there, Has::Away) {
            return std::future::pending().await;
        }
        let (head, body) = request.into_parts();
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        if head.method != Method::GET {
            let body = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap();
            self.written.lock().unwrap().push((path.to_owned(), body));
            return json_body(&json!({"metadata": {"name": "written"}}));
        }
        if query.contains("watch=true") {
            // Nothing until there is something else than was listed, and then: list anew.
            let listed = format!("resourceVersion={version}");
            let is_news = |(now, _): &(u64, Has)| *now != version || !query.ends_with(&listed);
            has.wait_for(is_news).await.unwrap();
            let gone = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "", "status": "Failure"});
            return json_body(&json!({"type": "ERROR", "object": gone}));
        }
        if path.ends_with("/nodes/host001") {
            return json_body(&json!({"metadata": {"name": "host001"}, "spec": {}, "status": {}}));
        }
        if let Some(name) = path.strip_prefix("/api/v1/namespaces/flock-system/secrets/") {
            let answer = self.secrets.lock().unwrap().to(name);
            return match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            };
        }
        let items = match there {
            Has::NodeConfig(object) if path.ends_with("/nodeconfigs") => vec![object],
            _ if path.ends_with("/nodes") => self.node.lock().unwrap().iter().cloned().collect(),
            _ => Vec::new(),
        };
        json_body(
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}, "items": items}),
        )
    }

    /// The last that was written to where `path` ends, once there is one for which `holds`.
    async fn wrote(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let written = self.written.lock().unwrap().clone();
            let last = written.iter().rfind(|(to, _)| to.ends_with(path)).map(|(_, body)| body.clone());
            if let Some(last) = last.filter(&holds) {
                return last;
            }
            assert!(Instant::now() < deadline, "never written to {path}: {written:#?}");
            // The time is paused: it goes on when nothing else does.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn count(&self, path: &str) -> usize {
        self.written.lock().unwrap().iter().filter(|(to, _)| to.ends_with(path)).count()
    }
}

fn json_body(value: &Value) -> Response<Body> {
    Response::new(Body::from(format!("{value}\n").into_bytes()))
}

fn node() -> NodeName {
    NodeName::new("host001").unwrap()
}

fn object(spec: &Value) -> Value {
    json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1", "kind": "NodeConfig",
        "metadata": {"name": "host001", "uid": "u1", "generation": 1, "resourceVersion": "1"},
        "spec": spec,
    })
}

fn valid(cidr4: &str) -> Has {
    Has::NodeConfig(object(&json!({"cidr4": cidr4})))
}

/// Good enough for the schema.
fn invalid() -> Has {
    Has::NodeConfig(object(&json!({"cidr4": "10.0.9.1/24"})))
}

fn config(cidr4: &str) -> NodeConfig {
    let manifest = json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1", "kind": "NodeConfig",
        "metadata": {"name": "host001"}, "spec": {"cidr4": cidr4},
    });
    NodeConfig::from_manifest(&serde_json::from_value::<Manifest>(manifest).unwrap()).unwrap()
}

/// A run directory in which a NodeConfig was in force.
async fn remembering(cidr4: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    Remembered::new(directory.path()).write(&config(cidr4)).await;
    directory
}

fn unready() -> watch::Sender<Readiness> {
    watch::Sender::new(Readiness::waiting_for("the start"))
}

fn waited_for(readiness: &watch::Sender<Readiness>) -> String {
    match &*readiness.borrow() {
        Readiness::Starting { waiting_for } => waiting_for.clone(),
        other => panic!("{other:?}"),
    }
}

/// A handler that `config` is in force in.
async fn handler(config: NodeConfig) -> (Arc<Handler>, Arc<MemoryDataplane>) {
    let dataplane = Arc::new(MemoryDataplane::new());
    let backends =
        Backends { dataplane: Arc::clone(&dataplane) as _, ..in_memory::backends(Arc::new(SystemClock)) };
    let handler = Handler::new(backends, config, Settings::new("boot-1"));
    handler.recover(&[]).await.unwrap();
    handler.publish().await.unwrap();
    (Arc::new(handler), dataplane)
}

/// Runs `member.follow` beside `work`.
async fn following<T>(
    member: Membership,
    handler: &Arc<Handler>,
    sessions: Option<Sessions>,
    work: impl Future<Output = T>,
) -> T {
    tokio::select! {
        () = member.follow(Arc::clone(handler), sessions) => unreachable!("it goes on for ever"),
        done = work => done,
    }
}

fn condition_of(status: &Value) -> &Value {
    &status[1]["value"]["conditions"][0]
}

#[tokio::test(start_paused = true)]
async fn the_nodeconfig_of_the_api_server_comes_before_the_remembered_one() {
    let directory = remembering("10.0.9.0/24").await;
    let mut member = Api::with(valid("10.0.1.0/24")).member(&directory);
    assert_eq!(member.node_config(&unready()).await, config("10.0.1.0/24"));
}

#[tokio::test(start_paused = true)]
async fn what_was_in_force_has_to_do_where_there_is_nothing_better() {
    for has in [Has::Away, Has::Nothing, invalid()] {
        let directory = remembering("10.0.9.0/24").await;
        let mut member = Api::with(has).member(&directory);
        let started = Instant::now();
        assert_eq!(member.node_config(&unready()).await, config("10.0.9.0/24"));
        assert!(started.elapsed() <= ANSWER_WAIT, "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_nodeconfig_is_waited_for_as_long_as_it_takes() {
    let directory = tempfile::tempdir().unwrap();
    let api = Api::with(Has::Nothing);
    let (mut member, readiness) = (api.member(&directory), unready());
    {
        let mut waiting = std::pin::pin!(member.node_config(&readiness));
        tokio::select! {
            config = &mut waiting => panic!("{config:?}"),
            node = api.wrote("/nodes/host001/status", |_| true) => {
                assert_eq!(node["status"]["conditions"][0]["status"], "True");
                assert_eq!(node["status"]["conditions"][0]["reason"], "NodeConfigMissing");
            }
        }
        assert!(waited_for(&readiness).contains("there is none in the cluster; apply one"), "{readiness:?}");
        // An hour later it is still taken up at once.
        assert!(tokio::time::timeout(Duration::from_secs(3600), &mut waiting).await.is_err());
        api.now_has(valid("10.0.1.0/24"));
        assert_eq!(waiting.await, config("10.0.1.0/24"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_first_one_is_said_in_its_status() {
    let directory = tempfile::tempdir().unwrap();
    let api = Api::with(invalid());
    let (mut member, readiness) = (api.member(&directory), unready());
    let status = tokio::select! {
        config = member.node_config(&readiness) => panic!("{config:?}"),
        status = api.wrote("/nodeconfigs/host001/status", |_| true) => status,
    };
    assert_eq!(condition_of(&status)["reason"], "Invalid");
    assert!(waited_for(&readiness).contains("expected 10.0.9.0/24"), "{readiness:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_api_server_is_named_once_it_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let (mut member, readiness) = (Api::with(Has::Away).member(&directory), unready());
    let minute = Duration::from_secs(60);
    assert!(tokio::time::timeout(minute, member.node_config(&readiness)).await.is_err());
    let expected =
        "NodeConfig host001: the API server has not answered: the API server has not answered within 15 s";
    assert_eq!(waited_for(&readiness), expected);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_put_in_force_and_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let api = Api::with(valid("10.0.1.0/24"));
    let mut member = api.member(&directory);
    let (handler, _) = handler(member.node_config(&unready()).await).await;
    following(member, &handler, None, async {
        let status = api.wrote("/nodeconfigs/host001/status", |_| true).await;
        assert_eq!(condition_of(&status)["status"], "True");
        let node = api.wrote("/nodes/host001/status", |_| true).await;
        assert_eq!(node["status"]["conditions"][0]["status"], "False");
        api.now_has(valid("10.0.2.0/24"));
        api.wrote("/nodeconfigs/host001/status", |status| {
            status[1]["value"]["addresses"]["ipv4"]["prefix"] == "10.0.2.0/24"
        })
        .await;
    })
    .await;
    assert_eq!(handler.node_config(), config("10.0.2.0/24"));
    let remembered = Remembered::new(directory.path()).read(&node()).await;
    assert_eq!(remembered.unwrap().0, config("10.0.2.0/24"));
}

#[tokio::test(start_paused = true)]
async fn one_that_becomes_invalid_or_goes_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let api = Api::with(valid("10.0.1.0/24"));
    let mut member = api.member(&directory);
    let (handler, _) = handler(member.node_config(&unready()).await).await;
    following(member, &handler, None, async {
        api.now_has(invalid());
        api.wrote("/nodeconfigs/host001/status", |status| condition_of(status)["reason"] == "Invalid").await;
        // Told once, however long it lasts.
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(api.count("/events"), 1);
        api.now_has(Has::Nothing);
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    assert_eq!(handler.node_config(), config("10.0.1.0/24"));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_fails_halfway_is_done_though_the_nodeconfig_is_invalid_by_then() {
    let directory = tempfile::tempdir().unwrap();
    let api = Api::with(valid("10.0.1.0/24"));
    let mut member = api.member(&directory);
    let (handler, dataplane) = handler(member.node_config(&unready()).await).await;
    following(member, &handler, None, async {
        api.wrote("/nodeconfigs/host001/status", |_| true).await;
        // The node is prepared, and then the summaries can't be set.
        dataplane.fail_call(2);
        api.now_has(valid("10.0.2.0/24"));
        api.wrote("/nodeconfigs/host001/status", |status| condition_of(status)["reason"] == "NotInForce")
            .await;
        assert_ne!(dataplane.summaries(), config("10.0.2.0/24").cidrs.iter().collect());
        api.now_has(invalid());
        tokio::time::sleep(ROUND * 3).await;
    })
    .await;
    assert_eq!(dataplane.summaries(), config("10.0.2.0/24").cidrs.iter().collect());
}

#[tokio::test(start_paused = true)]
async fn what_bird_does_not_take_is_said_in_the_status() {
    let directory = tempfile::tempdir().unwrap();
    let api = Api::with(valid("10.0.1.0/24"));
    let mut member = api.member(&directory);
    let (handler, _) = handler(member.node_config(&unready()).await).await;
    let error = AnnounceError::Refused { message: "bird.conf:7:1 no".to_owned() };
    let bird = watch::Sender::new(BirdStatus::Failed { generation: 1, error });
    let sessions = Sessions::new(bird.subscribe(), watch::channel(Peers::Unknown).1);
    following(member, &handler, Some(sessions), async {
        let status = api.wrote("/nodeconfigs/host001/status", |_| true).await;
        assert_eq!(condition_of(&status)["reason"], "NotAnnounced");
        assert!(condition_of(&status)["message"].as_str().unwrap().contains("bird.conf:7:1 no"), "{status}");
        bird.send_replace(BirdStatus::Applied { generation: 2 });
        api.wrote("/nodeconfigs/host001/status", |status| condition_of(status)["reason"] == "InForce").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_fails_says_why_before_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let api = Api::with(valid("10.0.1.0/24"));
    let mut member = api.member(&directory);
    member.node_config(&unready()).await;
    let error = AgentError::BootId(std::io::Error::other("no proc"));
    let mut ending = Box::pin(member.last_words(&error));
    assert!(ending.as_mut().now_or_never().is_none());
    ending.await;
    let status = api.wrote("/nodeconfigs/host001/status", |_| true).await;
    assert!(condition_of(&status)["message"].as_str().unwrap().contains("no proc"), "{status}");
    let node = api.wrote("/nodes/host001/status", |_| true).await;
    assert_eq!(node["status"]["conditions"][0]["reason"], "AgentFailed");
}
