//! The agent's request server.

use std::fmt;

use async_trait::async_trait;

use crate::frame::{Request, Response};

/// Answers the plugin's requests.
#[async_trait]
pub trait Service: fmt::Debug + Send + Sync + 'static {
    /// Answers one request. It runs on a task of its own: a runtime that hangs up
    /// does not cancel it.
    async fn call(&self, request: Request) -> Response;
}
