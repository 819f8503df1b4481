//! A list and a watch that goes on whatever happens: [`run`].
//!
//! kube-runtime has a watcher too. This one also knows whether the watch stands, which that
//! one does not tell (a watch that was resumed and has nothing to say is silent), gives up on
//! a server that accepts a connection and answers nothing, and decodes only the fields that
//! are needed.
//!
//! # What happens
//!
//! - The list comes first, then a watch from the list's version on.
//! - A watch that ends as asked for, after [`WATCH_SECONDS`], goes on from the last version
//!   that was seen, bookmarks included.
//! - So it does after an error, a dropped connection, or silence for longer than a watch can
//!   last; after a pause ([`Backoff`]) where it failed.
//! - Where the API server no longer has that version (410), everything is listed again and
//!   given to [`Sink::replace`], which knows what changed meanwhile.

mod link;

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use kube::Client;
use kube::api::{ListParams, VersionMatch, WatchEvent, WatchParams};
use kube::core::{ObjectList, Request};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::error::words;
pub use link::WatchHealth;
pub(crate) use link::{Link, State};

/// How long one watch lasts, in seconds. A connection whose other end is gone without a word
/// is noticed after this time, so it is short; resuming costs the API server a look into
/// its cache.
const WATCH_SECONDS: u32 = 60;
/// How much longer its end may take to arrive.
const GRACE: Duration = Duration::from_secs(5);
/// How long a request may take until its answer begins, and a list until it ends.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A watch that lasted for this long has shown that the API server works.
const STABLE: Duration = Duration::from_secs(1);

/// Who is told of the objects.
pub(crate) trait Sink: Send + 'static {
    /// As much of an object as is needed.
    type Object: Object;

    /// These are there, and no others.
    fn replace(&mut self, objects: Vec<Self::Object>);
    /// This one is new, or different from before.
    fn apply(&mut self, object: Self::Object);
    /// This one is gone.
    fn delete(&mut self, object: Self::Object);
}

/// What is watched.
pub(crate) trait Object: Clone + Debug + DeserializeOwned + Send + 'static {
    /// `metadata.resourceVersion`.
    fn version(&self) -> &str;
}

/// Which objects.
#[derive(Debug)]
pub(crate) struct Scope {
    /// For people: `pods of node host001`.
    pub(crate) what: String,
    /// `/api/v1/pods`
    pub(crate) path: String,
    /// `spec.nodeName=host001`
    pub(crate) fields: String,
    /// Where the first list comes from.
    pub(crate) first: Freshness,
}

/// How recent a list must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// As recent as the API server's cache happens to be: cheap, also if there are many
    /// objects that are not asked for. What it lags behind comes by the watch.
    Cached,
    /// Not older than what was seen already. Another API server may lag behind it.
    NotOlderThan(String),
    /// As recent as possible: the API server reads its database.
    Latest,
}

/// Tells `sink` of the objects in `scope`, for ever.
pub(crate) async fn run<S: Sink>(client: Client, scope: Scope, mut sink: S, link: Link) {
    let mut backoff = Backoff::new();
    let mut freshness = scope.first.clone();
    loop {
        match list::<S::Object>(&client, &scope, &freshness).await {
            Ok((objects, version)) => {
                sink.replace(objects);
                link.listed();
                let version = watch(&client, &scope, version, &mut sink, &link, &mut backoff).await;
                freshness = Freshness::NotOlderThan(version);
            }
            Err(failure) => {
                if failure.kind == Kind::VersionGone {
                    freshness = Freshness::Latest;
                }
                link.failed(&scope.what, failure.words);
                sleep(backoff.pause()).await;
            }
        }
    }
}

/// Watches for as long as it can be gone on with, and says how far it came.
async fn watch<S: Sink>(
    client: &Client,
    scope: &Scope,
    mut version: String,
    sink: &mut S,
    link: &Link,
    backoff: &mut Backoff,
) -> String {
    loop {
        let started = Instant::now();
        let outcome = watch_once(client, scope, &mut version, sink, link).await;
        if started.elapsed() >= STABLE {
            backoff.reset();
        }
        match outcome {
            Ok(()) if started.elapsed() >= STABLE => {}
            // A server that ends each watch at once is not asked in a circle.
            Ok(()) => sleep(backoff.pause()).await,
            Err(failure) => {
                link.failed(&scope.what, failure.words);
                sleep(backoff.pause()).await;
                if failure.kind == Kind::VersionGone {
                    return version;
                }
            }
        }
    }
}

/// One watch, until it ends. Ends well if the API server ended it.
async fn watch_once<S: Sink>(
    client: &Client,
    scope: &Scope,
    version: &mut String,
    sink: &mut S,
    link: &Link,
) -> Result<(), Failure> {
    let params = WatchParams::default().fields(&scope.fields).timeout(WATCH_SECONDS);
    let request = Request::new(&scope.path).watch(&params, version).map_err(Failure::request)?;
    let events = within(ANSWER_TIMEOUT, "a watch", client.request_events::<S::Object>(request)).await?;
    let mut events = pin!(events);
    link.established();
    let silence = Duration::from_secs(WATCH_SECONDS.into()) + GRACE;
    loop {
        let event = match timeout(silence, events.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(event)) => event.map_err(|error| Failure::of(&error))?,
            Err(_) => return Err(Failure::silence("a watch", silence)),
        };
        let seen = match &event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                object.version()
            }
            WatchEvent::Bookmark(bookmark) => &bookmark.metadata.resource_version,
            WatchEvent::Error(status) => return Err(Failure::of(&kube::Error::Api(status.clone()))),
        };
        seen.clone_into(version);
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => sink.apply(object),
            WatchEvent::Deleted(object) => sink.delete(object),
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {}
        }
    }
}

/// All objects, and the version of that list.
async fn list<T: Object>(
    client: &Client,
    scope: &Scope,
    freshness: &Freshness,
) -> Result<(Vec<T>, String), Failure> {
    // Without a limit: an API server answers pages from its database, not from its cache.
    let mut params = ListParams { limit: None, ..ListParams::default() }.fields(&scope.fields);
    params.resource_version = match freshness {
        Freshness::Cached => Some("0".to_owned()),
        Freshness::NotOlderThan(version) => Some(version.clone()),
        Freshness::Latest => None,
    };
    params.version_match = params.resource_version.as_ref().map(|_| VersionMatch::NotOlderThan);
    let request = Request::new(&scope.path).list(&params).map_err(Failure::request)?;
    let list: ObjectList<T> = within(ANSWER_TIMEOUT, "a list", client.request(request)).await?;
    match list.metadata.resource_version.filter(|version| !version.is_empty()) {
        Some(version) => Ok((list.items, version)),
        None => {
            Err(Failure { kind: Kind::Other, words: "a list came without its resourceVersion".to_owned() })
        }
    }
}

async fn within<T>(
    limit: Duration,
    what: &str,
    answer: impl Future<Output = kube::Result<T>>,
) -> Result<T, Failure> {
    match timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| Failure::of(&error)),
        Err(_) => Err(Failure::silence(what, limit)),
    }
}

/// The part of an object's metadata that each kind has.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
}

#[derive(Debug)]
struct Failure {
    kind: Kind,
    words: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// The API server does not have the version that was asked for any more, or not yet.
    VersionGone,
    Other,
}

impl Failure {
    fn of(error: &kube::Error) -> Self {
        let gone = match error {
            kube::Error::Api(status) => {
                let too_large = status.details.as_ref().is_some_and(|details| {
                    details.causes.iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
                });
                // Kubernetes 1.17 has it in the message only.
                status.code == 410 || too_large || status.message.contains("Too large resource version")
            }
            _ => false,
        };
        Self { kind: if gone { Kind::VersionGone } else { Kind::Other }, words: words(error) }
    }

    fn request(error: kube::core::request::Error) -> Self {
        Self::of(&kube::Error::BuildRequest(error))
    }

    fn silence(what: &str, limit: Duration) -> Self {
        let words = format!("the API server said nothing to {what} for {} s", limit.as_secs());
        Self { kind: Kind::Other, words }
    }
}
