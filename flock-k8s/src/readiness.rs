//! Whether something is ready, and why: [`Readiness`].

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// Whether something is ready, as a condition of a Kubernetes object says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it is.
    pub ready: bool,
    /// Why, in one word for programs, written `LikeThis`.
    pub reason: String,
    /// Why, in words for people.
    pub message: String,
}

/// When a condition came to be as it is. An API server keeps whole seconds.
pub(crate) fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}
