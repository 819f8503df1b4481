//! Where BIRD is and how it is driven, [`BirdConfig`].

use std::path::PathBuf;
use std::time::Duration;

/// What a [`BirdAnnouncer`](crate::BirdAnnouncer) needs to know of its BIRD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BirdConfig {
    /// The file that BIRD was, or will be, started with (`bird -c`). It is seen by BIRD under
    /// the same path. Its directory must exist; a set-group-id directory hands its group
    /// to the file, for a BIRD that runs as another user.
    pub config_path: PathBuf,
    /// BIRD's control socket (`bird -s`).
    pub socket_path: PathBuf,
    /// How long one exchange with BIRD may take.
    pub timeout: Duration,
    /// How long changes are collected after one was applied.
    pub debounce: Duration,
    /// The number that Flock's own routes carry in the kernel (`rtm_protocol` of rtnetlink).
    /// It must be that of the Dataplane: routes with another number are not announced.
    pub route_protocol: u8,
    /// The metrics of those that are not announced, if the Dataplane makes such.
    pub unannounced_metrics: Vec<u32>,
}

impl BirdConfig {
    /// The usual places and times, for a Dataplane that marks its routes with `route_protocol`.
    pub fn new(route_protocol: u8) -> Self {
        Self {
            config_path: PathBuf::from("/etc/flock/bird/bird.conf"),
            socket_path: PathBuf::from("/run/flock/bird.ctl"),
            timeout: Duration::from_secs(5),
            debounce: Duration::from_millis(500),
            route_protocol,
            unannounced_metrics: Vec::new(),
        }
    }
}
