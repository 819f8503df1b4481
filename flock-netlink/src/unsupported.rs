//! Where there is no netlink.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use async_trait::async_trait;
use flock_core::attachment::{Attachment, Netns};
use flock_core::dataplane::{
    AnycastRoute, Dataplane, DataplaneError, Disturbance, Drift, FoundLink, Link, NodeDrift, NodeFacts,
    NodeWanted, Stray,
};
use flock_core::name::InterfaceName;
use ipnet::IpNet;

/// There can be none on this platform.
#[derive(Debug)]
pub enum NetlinkDataplane {}

impl NetlinkDataplane {
    /// Says that this needs Linux.
    pub fn new() -> Result<Self, DataplaneError> {
        Err(DataplaneError::Unsupported("netlink"))
    }

    /// Says that this needs Linux.
    pub fn with_proc(_proc: &Path) -> Result<Self, DataplaneError> {
        Self::new()
    }
}

#[async_trait]
impl Dataplane for NetlinkDataplane {
    async fn prepare(&self) -> Result<NodeFacts, DataplaneError> {
        match *self {}
    }

    async fn identify(&self, _path: &Path) -> Result<Netns, DataplaneError> {
        match *self {}
    }

    async fn attach(&self, _attachment: &Attachment) -> Result<(), DataplaneError> {
        match *self {}
    }

    async fn detach(&self, _attachment: &Attachment) -> Result<(), DataplaneError> {
        match *self {}
    }

    async fn reap(&self, _links: &[Link]) -> Result<(), DataplaneError> {
        match *self {}
    }

    async fn check(&self, _attachments: &[Attachment]) -> Result<Vec<Vec<Drift>>, DataplaneError> {
        match *self {}
    }

    async fn list(&self) -> Result<Vec<FoundLink>, DataplaneError> {
        match *self {}
    }

    async fn set_summaries(&self, _prefixes: &BTreeSet<IpNet>) -> Result<(), DataplaneError> {
        match *self {}
    }

    async fn set_anycast(&self, _routes: &[AnycastRoute]) -> Result<(), DataplaneError> {
        match *self {}
    }

    async fn announced_anycast(&self) -> Result<Vec<(IpAddr, InterfaceName)>, DataplaneError> {
        match *self {}
    }

    async fn disturbed(&self) -> Result<Disturbance, DataplaneError> {}

    async fn check_node(&self, _wanted: &NodeWanted) -> Result<Vec<NodeDrift>, DataplaneError> {
        match *self {}
    }

    async fn remove_strays(&self, _strays: &[Stray]) -> Result<(), DataplaneError> {
        match *self {}
    }
}
