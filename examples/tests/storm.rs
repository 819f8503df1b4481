//! A short storm: see `flock_examples::storm`. `make storm` is the long one.

use std::time::Duration;

use flock_examples::storm::{self, Plan};
use flock_examples::{Result, programs, sandbox};

#[test]
fn an_agent_killed_under_callers_loses_nothing() -> Result<()> {
    sandbox::within("an_agent_killed_under_callers_loses_nothing", |_| {
        let plan = Plan {
            kills: 30,
            callers: 16,
            seed: 7,
            limit: Duration::from_secs(90),
            mortal: programs::example("mortal")?,
            verbose: false,
        };
        let report = storm::run(&plan)?;
        assert_eq!(report.kills, plan.kills);
        // That it was a storm: deaths of both kinds, work in between, and calls that were cut off.
        assert!(report.kills_at_moments > 0 && report.kills_at_moments < report.kills, "{report:?}");
        assert!(report.lives >= plan.callers && report.again > 0 && report.pings > 0, "{report:?}");
        assert!(report.served_after.len() >= plan.kills / 4, "{report:?}");
        Ok(())
    })
}
