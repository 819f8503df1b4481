//! Pods where no directory of manifests is given.

use std::time::Instant;

use async_trait::async_trait;
use flock_core::pods::{PodChange, PodError, PodInfo, PodRef, PodSource};
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};

/// Every pod is one without annotations, and ready; no change is ever told.
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
