//! [`MemoryIpam`] keeps the contract of `Ipam`.

use std::sync::Arc;
use std::time::Duration;

use flock_core::clock::ManualClock;
use flock_core::ipam::MemoryIpam;
use flock_core::ipam::conformance::Subject;

fn subject() -> Subject {
    let clock = Arc::new(ManualClock::new());
    let rest = Duration::from_secs(60);
    let ipam = Arc::new(MemoryIpam::new(clock.clone(), rest, 7));
    Subject::new(ipam, rest, move |by| clock.advance(by))
}

flock_core::ipam_conformance!(subject());
