//! An API server in the process: it lists, watches and patches as the real one does, and
//! fails as it is told. Below the client's connections, so what is tested is all of the
//! client but TLS.

pub mod store;
mod watches;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use flock_core::name::NodeName;
use flock_k8s::Cluster;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use kube::{Client, client};
use serde_json::{Value, json};
use tokio::sync::watch;

use self::store::Store;
use self::watches::Watches;

/// The API server. A clone is another handle to the same one.
#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    // Counts up whenever something happened that a test may wait for.
    happened: Arc<watch::Sender<u64>>,
}

/// What can be seen of it, by [`FakeApi::until`].
pub struct State {
    /// All requests, in order.
    pub requests: Vec<Recorded>,
    pub store: Store,
    pub watches: Watches,
    mode: Mode,
    interventions: Vec<Intervention>,
    refused: Option<Refusal>,
    ignored: Option<fn(&Recorded) -> bool>,
}

/// Which requests are answered with which code and message.
type Refusal = (fn(&Recorded) -> bool, u16, &'static str);

/// What happens just before the next request that it is for, once.
struct Intervention {
    is_for: fn(&Recorded) -> bool,
    act: Act,
}

/// Changes what is there, or has the request answered with a code and a message.
type Act = Box<dyn FnOnce(&mut State) -> Option<(u16, &'static str)> + Send>;

/// A request.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub method: Method,
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub content_type: String,
    pub authorization: String,
    pub body: Value,
}

impl Recorded {
    pub fn is_patch(&self) -> bool {
        self.method == Method::PATCH
    }

    pub fn is_secret(&self) -> bool {
        self.path.contains("/secrets/")
    }

    pub fn is_watch(&self) -> bool {
        self.query.contains_key("watch")
    }

    pub fn is_list(&self) -> bool {
        self.method == Method::GET && self.query.contains_key("fieldSelector") && !self.is_watch()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Up,
    /// Nobody listens.
    Away,
    /// Connections are accepted, nothing is answered.
    Silent,
    /// Everything is answered with this code.
    Failing(u16),
    /// Everything is answered with this code, and a body that begins and does not end.
    Unfinished(u16),
}

pub type Answer = Response<StreamBody<BoxStream<'static, io::Result<Frame<Bytes>>>>>;

impl FakeApi {
    pub fn new() -> Self {
        let state = State {
            requests: Vec::new(),
            store: Store::default(),
            watches: Watches::default(),
            mode: Mode::Up,
            interventions: Vec::new(),
            refused: None,
            ignored: None,
        };
        Self { state: Arc::new(Mutex::new(state)), happened: Arc::default() }
    }

    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<client::Body>| {
            let api = api.clone();
            async move { api.answer(request).await }
        });
        Client::new(service, "default")
    }

    /// As the agent of node host001.
    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.client(), NodeName::new("host001").unwrap())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.happened.send_modify(|count| *count += 1);
        result
    }

    pub fn see<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state())
    }

    /// How many requests of a kind there were.
    pub fn count(&self, is_of_kind: impl Fn(&Recorded) -> bool) -> usize {
        self.see(|state| state.requests.iter().filter(|request| is_of_kind(request)).count())
    }

    /// The object whose own path this is.
    pub fn at(&self, path: &str) -> Value {
        self.see(|state| state.store.at(path).cloned()).unwrap_or_default()
    }

    /// Waits until it holds.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&State) -> bool) {
        let mut happened = self.happened.subscribe();
        let waiting = happened.wait_for(|_| holds(&self.state()));
        let waited = tokio::time::timeout(Duration::from_secs(600), waiting).await;
        assert!(waited.is_ok(), "never happened: {what}; requests: {:#?}", self.state().requests);
    }

    /// Makes or changes an object; `collection` is the path of its kind, without a namespace.
    pub fn put(&self, collection: &str, object: Value) {
        self.change(|state| {
            let event = state.store.put(collection, object);
            state.watches.tell(&event);
        });
    }

    pub fn delete(&self, collection: &str, namespace: &str, name: &str) {
        self.change(|state| {
            let event = state.store.delete(collection, namespace, name);
            state.watches.tell(&event);
        });
    }

    /// What is sent next to all watches arrives in pieces that make no sense.
    pub fn garble_next(&self) {
        self.change(|state| state.watches.garble_next());
    }

    /// Sends the current version to all watches.
    pub fn bookmark(&self) {
        self.change(|state| state.watches.bookmark(state.store.version()));
    }

    /// Forgets what led to the present: a watch from an older version is answered with 410.
    pub fn compact(&self) {
        self.change(|state| state.store.compact());
    }

    /// From now on. Going away breaks the connections that there are.
    pub fn set_mode(&self, mode: Mode) {
        self.change(|state| {
            state.mode = mode;
            if mode == Mode::Away {
                state.watches.break_off();
            }
        });
    }

    /// Breaks the connections of all watches.
    pub fn break_watches(&self) {
        self.change(|state| state.watches.break_off());
    }

    /// Ends all watches as after their time.
    pub fn end_watches(&self) {
        self.change(|state| state.watches.end());
    }

    /// The connections of all watches go dead without a word.
    pub fn mute_watches(&self) {
        self.change(|state| state.watches.mute());
    }

    /// The next request that this is for is answered with an error.
    pub fn refuse_next(&self, is_for: fn(&Recorded) -> bool, code: u16, message: &'static str) {
        let act = Box::new(move |_: &mut State| Some((code, message)));
        self.change(|state| state.interventions.push(Intervention { is_for, act }));
    }

    /// From now on all requests that this is for are answered with an error.
    pub fn refuse_all(&self, is_for: fn(&Recorded) -> bool, code: u16, message: &'static str) {
        self.change(|state| state.refused = Some((is_for, code, message)));
    }

    /// Nothing is said to these requests from now on.
    pub fn ignore_all(&self, is_for: fn(&Recorded) -> bool) {
        self.change(|state| state.ignored = Some(is_for));
    }

    /// No more.
    pub fn refuse_none(&self) {
        self.change(|state| state.refused = None);
    }

    /// Somebody else does this just before the next request that this is for.
    pub fn before_next(&self, is_for: fn(&Recorded) -> bool, act: impl FnOnce(&mut Store) + Send + 'static) {
        let act = Box::new(|state: &mut State| {
            act(&mut state.store);
            None
        });
        self.change(|state| state.interventions.push(Intervention { is_for, act }));
    }

    pub async fn answer(self, request: Request<Body>) -> io::Result<Answer> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let query = parts.uri.query().unwrap_or_default();
        let header = |name| {
            parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let request = Recorded {
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            content_type: header("content-type"),
            authorization: header("authorization"),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        let answer = self.change(|state| state.answer(&request));
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

impl State {
    /// None is silence.
    fn answer(&mut self, request: &Recorded) -> Option<io::Result<Answer>> {
        self.requests.push(request.clone());
        if let Some(index) = self.interventions.iter().position(|it| (it.is_for)(request))
            && let Some((code, message)) = (self.interventions.remove(index).act)(self)
        {
            return Some(Ok(failure(code, message)));
        }
        if let Some((is_for, code, message)) = self.refused
            && is_for(request)
        {
            return Some(Ok(failure(code, message)));
        }
        if self.ignored.is_some_and(|is_for| is_for(request)) {
            return None;
        }
        match self.mode {
            Mode::Up => Some(Ok(self.serve(request))),
            Mode::Away => Some(Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"))),
            Mode::Silent => None,
            Mode::Failing(code) => Some(Ok(failure(code, "it is broken"))),
            Mode::Unfinished(code) => {
                let begun = stream::iter([Ok(Frame::data("{".into()))]).chain(stream::pending());
                Some(Ok(answer(code, begun.boxed())))
            }
        }
    }

    fn serve(&mut self, request: &Recorded) -> Answer {
        if request.is_watch() {
            return self.watch(request);
        }
        match (request.method.as_str(), request.is_list()) {
            ("GET", true) => {
                let items = self.store.list(&request.path, &request.query["fieldSelector"]);
                let version = self.store.version().to_string();
                json_answer(
                    200,
                    &json!({
                        "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items,
                    }),
                )
            }
            ("GET", false) => match self.store.at(&request.path) {
                Some(object) => json_answer(200, object),
                None => failure(404, &format!("{} not found", request.path)),
            },
            ("POST", _) => {
                let event = self.store.create(&request.path, request.body.clone());
                self.watches.tell(&event);
                json_answer(201, &event.object)
            }
            ("PATCH", _) => match self.store.patch(&request.path, &request.content_type, &request.body) {
                Ok(event) => {
                    self.watches.tell(&event);
                    json_answer(200, &event.object)
                }
                Err((code, message)) => failure(code, &message),
            },
            (method, _) => panic!("the fake has no {method}"),
        }
    }

    fn watch(&mut self, request: &Recorded) -> Answer {
        let from: u64 = request.query["resourceVersion"].parse().unwrap();
        let fields = &request.query["fieldSelector"];
        let Some(past) = self.store.since(&request.path, fields, from) else {
            let status = status(410, &format!("too old resource version: {from}"));
            let event = json!({"type": "ERROR", "object": status});
            return answer(200, stream::iter([Ok(line(&event))]).boxed());
        };
        let seconds = request.query["timeoutSeconds"].parse().unwrap();
        let events = self.watches.open(&request.path, fields, Duration::from_secs(seconds));
        let past = stream::iter(past.into_iter().map(|event| Ok(line(&event.json()))));
        answer(200, past.chain(events).boxed())
    }
}

fn line(event: &Value) -> Frame<Bytes> {
    Frame::data(format!("{event}\n").into())
}

fn status(code: u16, message: &str) -> Value {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        410 => "Expired",
        422 => "Invalid",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => panic!("the fake has no reason for {code}"),
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "message": message, "reason": reason,
    })
}

fn failure(code: u16, message: &str) -> Answer {
    json_answer(code, &status(code, message))
}

fn json_answer(code: u16, body: &Value) -> Answer {
    let body = Frame::data(body.to_string().into());
    answer(code, async { Ok(body) }.into_stream().boxed())
}

fn answer(code: u16, body: BoxStream<'static, io::Result<Frame<Bytes>>>) -> Answer {
    Response::builder().status(code).body(StreamBody::new(body)).unwrap()
}
