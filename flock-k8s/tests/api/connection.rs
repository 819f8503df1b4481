//! The client as it is made for an agent, over real connections.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use flock_core::name::NodeName;
use flock_core::pods::PodSource;
use flock_k8s::Cluster;
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::fake::{FakeApi, Mode, Recorded};
use crate::pods::{PODS, named, pod};

/// The fake behind a port of this machine.
struct Served {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Served {
    async fn start(api: &FakeApi, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, task: tokio::spawn(serve(listener, api.clone())) }
    }

    /// Closes the port and all connections.
    async fn stop(self) -> SocketAddr {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        self.address
    }

    /// As a kubeconfig says it that names a file with a token.
    async fn cluster(&self, token: &Path) -> Cluster {
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: c,
              contexts: [{{name: c, context: {{cluster: c, user: u}}}}],
              clusters: [{{name: c, cluster: {{server: 'http://{}'}}}}],
              users: [{{name: u, user: {{tokenFile: '{}'}}}}]}}",
            self.address,
            token.display()
        );
        let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Cluster::configured(config, NodeName::new("host001").unwrap()).unwrap()
    }
}

async fn serve(listener: TcpListener, api: FakeApi) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let api = api.clone();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes().to_vec();
                api.answer(hyper::Request::from_parts(parts, body.into())).await
            }
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn token(directory: &tempfile::TempDir) -> std::path::PathBuf {
    let path = directory.path().join("token");
    fs::write(&path, "first").unwrap();
    path
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let api = FakeApi::new();
    let served = Served::start(&api, "127.0.0.1:0").await;
    let pods = served.cluster(&token(&directory)).await.pods();
    pods.synced().await;
    let address = served.stop().await;

    let error =
        pods.pod(&named("web"), Instant::now() + Duration::from_secs(2)).await.unwrap_err().to_string();
    assert!(error.contains("not been heard for") && error.contains("Connection refused"), "{error}");

    api.put(PODS, pod("web", "1", false));
    let _served = Served::start(&api, &address.to_string()).await;
    assert!(pods.pod(&named("web"), Instant::now() + Duration::from_secs(30)).await.is_ok());
    api.see(|state| assert!(state.requests.iter().all(|request| request.authorization == "Bearer first")));
}

#[tokio::test]
async fn an_overloaded_server_is_said_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let api = FakeApi::new();
    api.set_mode(Mode::Failing(503));
    let served = Served::start(&api, "127.0.0.1:0").await;
    let pods = served.cluster(&token(&directory)).await.pods();
    let error =
        pods.pod(&named("web"), Instant::now() + Duration::from_secs(2)).await.unwrap_err().to_string();
    assert!(error.ends_with(r#"the API server answers 503 "it is broken""#), "{error}");
}

#[tokio::test]
#[ignore = "the token is read again after most of a minute"]
async fn a_token_that_rotates_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let token = token(&directory);
    let api = FakeApi::new();
    let served = Served::start(&api, "127.0.0.1:0").await;
    let pods = served.cluster(&token).await.pods();
    api.until("the watch stands", |state| state.watches.count(PODS) == 1).await;

    // The first one is no longer good for anything, and the connection is lost.
    fs::write(&token, "second").unwrap();
    api.refuse_all(|request: &Recorded| request.authorization == "Bearer first", 401, "Unauthorized");
    api.break_watches();
    api.put(PODS, pod("web", "1", false));
    assert!(pods.pod(&named("web"), Instant::now() + Duration::from_secs(90)).await.is_ok());
    assert!(pods.health().restarts > 1);
}
