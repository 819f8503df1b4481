//! A list and a watch that goes on whatever happens: [`run`].
//!
//! The protocol is that of kube's watcher: a list, a watch from its version on, bookmarks, a
//! new list where the API server no longer knows that version (410), an end of connections that
//! have gone dead. What is added here is when to begin anew, and that others can see how it
//! is ([`Link`]): after any failure everything is listed again, which tells at once that
//! the API server is heard again, also where nothing has changed.

mod link;

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use kube::core::ApiResource;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::error::words;
pub use link::WatchHealth;
pub(crate) use link::{Link, State};

/// How long one watch lasts, in seconds. A connection whose other end is gone without a word
/// is noticed after this time, so it is short; resuming costs the API server a look into
/// its cache.
const WATCH_SECONDS: u32 = 60;
/// How long a list may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(15);

/// Who is told of the objects.
pub(crate) trait Sink: Send + 'static {
    /// As much of an object as is needed.
    type Object: Resource<DynamicType = ApiResource> + Clone + Debug + DeserializeOwned + Send + 'static;

    /// These are there, and no others.
    fn replace(&mut self, objects: Vec<Self::Object>);
    /// This one is new, or different from before.
    fn apply(&mut self, object: Self::Object);
    /// This one is gone.
    fn delete(&mut self, object: Self::Object);
}

/// What is watched.
#[derive(Debug)]
pub(crate) struct Scope {
    /// For people: `pods of node host001`.
    pub(crate) what: String,
    /// The kind.
    pub(crate) resource: ApiResource,
    /// `spec.nodeName=host001`
    pub(crate) fields: String,
    /// Whether the first list may be as old as the API server's cache happens to be: cheap, also
    /// if there are many objects that are not asked for. What it lags behind comes by the watch.
    /// Later lists are as recent as possible, so that nothing goes back in time.
    pub(crate) first_from_cache: bool,
}

/// Tells `sink` of the objects in `scope`, for ever.
pub(crate) async fn run<S: Sink>(client: Client, scope: Scope, mut sink: S, link: Link) {
    let api = Api::<S::Object>::all_with(client, &scope.resource);
    let recent = Config::default().fields(&scope.fields).timeout(WATCH_SECONDS);
    // Without pages: the API server makes those from its database, not from its cache.
    let cached = Config { page_size: None, ..recent.clone() }.any_semantic();
    let mut config = if scope.first_from_cache { cached } else { recent.clone() };
    let mut backoff = Backoff::new();
    loop {
        let failure = follow(api.clone(), config.clone(), &mut sink, &link, &mut backoff).await;
        if link.health().synced {
            config = recent.clone();
        }
        link.failed(&scope.what, failure);
        sleep(backoff.pause()).await;
    }
}

/// Lists and watches until something fails, and says what, in words.
async fn follow<S: Sink>(
    api: Api<S::Object>,
    config: Config,
    sink: &mut S,
    link: &Link,
    backoff: &mut Backoff,
) -> String {
    let mut events = pin!(watcher(api, config));
    let mut listed = Vec::new();
    let mut listing = true;
    loop {
        let event = if listing {
            let Ok(event) = timeout(LIST_TIMEOUT, events.next()).await else {
                return format!("the API server has not answered a list within {} s", LIST_TIMEOUT.as_secs());
            };
            event
        } else {
            events.next().await
        };
        match event {
            Some(Ok(Event::Init)) => {
                listed.clear();
                listing = true;
            }
            Some(Ok(Event::InitApply(object))) => listed.push(object),
            Some(Ok(Event::InitDone)) => {
                sink.replace(std::mem::take(&mut listed));
                listing = false;
                backoff.reset();
                link.established();
            }
            Some(Ok(Event::Apply(object))) => sink.apply(object),
            Some(Ok(Event::Delete(object))) => sink.delete(object),
            Some(Err(error)) => return failure(&error),
            None => return "the watch has come to its end".to_owned(),
        }
    }
}

fn failure(error: &watcher::Error) -> String {
    use watcher::Error;
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
            words(error)
        }
        Error::WatchError(status) => words(&kube::Error::Api(status.clone())),
        Error::NoResourceVersion => error.to_string(),
    }
}
