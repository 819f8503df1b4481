//! flock-k8s against an API server that does as it is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(missing_docs, unreachable_pub, missing_debug_implementations, reason = "nobody else sees it")]

mod conformance;
mod fake;
