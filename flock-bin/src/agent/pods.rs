//! Pods where there is nobody to ask.

use std::time::Instant;

use async_trait::async_trait;
use flock_core::pods::{PodChange, PodError, PodInfo, PodRef, PodSource};
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};

/// Where no directory of manifests is given: every pod is one without annotations, and ready; no
/// change is ever told.
#[derive(Debug)]
pub(super) struct PlainPods;

#[async_trait]
impl PodSource for PlainPods {
    async fn pod(&self, _: &PodRef, _: Instant) -> Result<PodInfo, PodError> {
        Ok(PodInfo::default())
    }

    fn changes(&self) -> BoxStream<'static, PodChange> {
        stream::pending().boxed()
    }
}

/// Where the agent is away: what pods ask for and whether they are ready stays as it was.
#[derive(Debug)]
pub(super) struct NobodyKnows;

#[async_trait]
impl PodSource for NobodyKnows {
    async fn pod(&self, wanted: &PodRef, _: Instant) -> Result<PodInfo, PodError> {
        Err(PodError::Backend(format!("nothing is known of {} while no agent runs", wanted.key)))
    }

    fn changes(&self) -> BoxStream<'static, PodChange> {
        stream::pending().boxed()
    }
}
