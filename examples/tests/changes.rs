//! Thousands of changes of anycast addresses through a real agent.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::time::Duration;

use flock_examples::changes;
use flock_examples::fabric::Fabric;
use flock_examples::{Result, sandbox};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn two_thousand_changes_in_ten_seconds_end_with_the_last_state() -> Result<()> {
    sandbox::within("two_thousand_changes_in_ten_seconds_end_with_the_last_state", |_| {
        let mut fabric = Fabric::build(1)?;
        let mut servers = changes::servers(&mut fabric, LIMIT)?;
        // At this pace each can be followed; without a pause they can not.
        for (during, at_most) in [(Duration::from_secs(10), 4), (Duration::ZERO, 2)] {
            let seen = servers.change(&mut fabric, 2_000, during, LIMIT)?;
            eprintln!("{seen:?}");
            // Each one is two routes in place of two others.
            assert!(seen.kernel_writes > 0 && seen.kernel_writes <= at_most * seen.changes, "{seen:?}");
            assert_eq!(seen.configurations, 0, "{seen:?}");
            assert!(seen.caught_up < Duration::from_secs(5), "{seen:?}");
        }
        Ok(())
    })
}
