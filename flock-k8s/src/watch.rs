//! A list and a watch that goes on whatever happens: [`run`].
//!
//! The protocol is that of kube's watcher: a list, a watch from its version on, bookmarks, the
//! next watch where the last one ended or failed, an end of connections that have gone dead. What
//! is added here:
//!
//! - Pauses: after a failure ([`Backoff`]), and before a watch where the last one ended at once.
//! - A list that is as recent as can be, where the API server no longer has the version
//!   that a watch would go on from (410): kube's watcher would list as it did the first time, which
//!   here may be older than what was seen already.
//! - How it is, for others ([`Link`]).

mod link;
mod opening;

use std::fmt::Debug;
use std::time::Duration;

use futures_util::StreamExt;
use kube::core::{ApiResource, Status};
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::error::words;
pub use link::WatchHealth;
pub(crate) use link::{Link, State};
use opening::opener;

/// How long one watch lasts, in seconds. A connection whose other end is gone without a word
/// is noticed after this time, so it is short; resuming costs the API server a look into
/// its cache.
const WATCH_SECONDS: u32 = 60;
/// A watch that stood for so long has shown that the API server works.
const STABLE: Duration = Duration::from_secs(1);

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
    let api = Api::<S::Object>::all_with(opener(client, link.clone()), &scope.resource);
    // Without pages: those come from the API server's database, where a whole list may come from its
    // cache; from Kubernetes 1.31 on also one that is as recent as can be.
    let recent = Config { page_size: None, ..Config::default().fields(&scope.fields).timeout(WATCH_SECONDS) };
    let first = if scope.first_from_cache { recent.clone().any_semantic() } else { recent.clone() };
    let mut events = watcher(api.clone(), first).boxed();
    let mut listed = Vec::new();
    let mut backoff = Backoff::new();
    // It has no end.
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.push(object),
            Ok(Event::InitDone) => {
                sink.replace(std::mem::take(&mut listed));
                link.listed();
            }
            Ok(Event::Apply(object)) => sink.apply(object),
            Ok(Event::Delete(object)) => sink.delete(object),
            Err(error) => {
                if link.failed(&scope.what, failure(&error)) >= STABLE {
                    backoff.reset();
                }
                if is_out_of_place(&error) {
                    events = watcher(api.clone(), recent.clone()).boxed();
                }
                sleep(backoff.pause()).await;
            }
        }
    }
}

/// Whether a watch can't go on from where it was without passing something over.
fn is_out_of_place(error: &watcher::Error) -> bool {
    use watcher::Error;
    match error {
        // What could not be read is not sent again.
        Error::WatchFailed(kube::Error::SerdeError(_)) | Error::NoResourceVersion => true,
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status))
        | Error::WatchError(status) => is_version_gone(status),
        _ => false,
    }
}

/// Whether the API server does not have the version that was asked for any more, or not yet.
fn is_version_gone(status: &Status) -> bool {
    let too_large = status
        .details
        .as_ref()
        .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "ResourceVersionTooLarge"));
    // Kubernetes 1.17 has it in the message only.
    status.code == 410 || too_large || status.message.contains("Too large resource version")
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
