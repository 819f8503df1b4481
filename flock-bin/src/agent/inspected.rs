//! What the agent answers to `flock-agent check`.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use flock_bird::BirdAnnouncer;
use flock_core::cni;
use flock_core::frame::{Inquiry, MAX_LEN, Response};
use flock_core::handler::Handler;
use flock_core::server::Inspect;

use crate::agent::service::AgentService;

/// What an answer has around its content, in bytes; no more than this.
const ENVELOPE: usize = 64;

/// The agent as one that is inspected.
#[derive(Debug)]
pub(super) struct Inspected {
    service: Arc<AgentService>,
    bird: Option<(Arc<BirdAnnouncer>, PathBuf)>,
}

impl Inspected {
    /// `bird` comes with its control socket.
    pub(super) fn new(service: Arc<AgentService>, bird: Option<(Arc<BirdAnnouncer>, PathBuf)>) -> Self {
        Self { service, bird }
    }

    async fn view(&self, handler: &Handler) -> Result<Response, cni::Error> {
        let mut view = handler.view().await?;
        view.speaker = self.bird.as_ref().map(|(_, socket)| socket.clone());
        let value = serde_json::to_value(&view)
            .map_err(|error| cni::Error::new(cni::Code::INTERNAL, error.to_string(), ""))?;
        let len = value.to_string().len();
        if len >= MAX_LEN - ENVELOPE {
            return Err(cni::Error::new(
                cni::Code::INTERNAL,
                format!("what the agent holds takes {len} bytes, more than the {MAX_LEN} of an answer"),
                "compare records, kernel and BIRD without the agent: flock-agent check --offline",
            ));
        }
        Ok(Response::result(&value))
    }

    async fn repair(&self, handler: &Handler) -> Result<Response, cni::Error> {
        tracing::info!("repairing, because somebody asked for it");
        handler.repair().await?;
        if let Some((bird, _)) = &self.bird
            && let Err(error) = bird.reapply().await
        {
            // What BIRD does not have then is left over, and is told so.
            tracing::warn!(%error, "BIRD has not taken its configuration once more");
        }
        Ok(Response::EMPTY)
    }
}

#[async_trait]
impl Inspect for Inspected {
    async fn inspect(&self, inquiry: Inquiry) -> Response {
        let Some(handler) = self.service.current() else {
            return Response::Error(self.service.starting(cni::Code::TRY_AGAIN_LATER));
        };
        let answer = match inquiry {
            Inquiry::View => self.view(&handler).await,
            Inquiry::Repair => self.repair(&handler).await,
        };
        answer.unwrap_or_else(Response::Error)
    }
}
