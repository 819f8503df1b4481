//! A short churn: see `flock_examples::churn`. `make churn` is the long one.

use flock_examples::churn::{self, Scale};
use flock_examples::{Result, sandbox};

#[test]
fn pods_that_come_and_go_leave_nothing_and_a_prefix_is_used_to_its_last_address() -> Result<()> {
    sandbox::within("pods_that_come_and_go_leave_nothing_and_a_prefix_is_used_to_its_last_address", |_| {
        let scale = Scale { pairs: 200, at_once: 40, prefix_length: 27, verbose: false };
        let report = churn::run(&scale)?;
        let complaints = report.complaints();
        assert!(complaints.is_empty(), "{complaints:?}\n{report}");
        // What is measured is really there.
        let before = &report.before;
        assert_eq!(report.loaded.links, before.links + 40, "{report}");
        assert!(report.loaded.files >= before.files + 40, "{report}");
        assert_eq!(report.usable, 30);
        let said = "10.0.2.0/27 is exhausted: 30 addresses in all, 30 in use, 0 resting";
        assert!(report.exhausted.contains(said), "{report}");
        println!("{report}");
        Ok(())
    })
}
