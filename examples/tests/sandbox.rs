//! What a sandbox promises about the machine outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it should be"
)]

use std::fs;
use std::path::Path;

use flock_examples::netns::Netns;
use flock_examples::{Result, sandbox};

#[test]
fn names_and_files_stay_inside() -> Result<()> {
    let outside = std::process::id() != 1;
    sandbox::within("names_and_files_stay_inside", |sandbox| {
        assert_eq!(fs::read_dir("/run").unwrap().count(), 0, "an empty tmpfs was expected on /run");
        Netns::create("flock-sandbox-test")?;
        fs::write("/run/flock-sandbox-test", "").unwrap();
        assert!(sandbox.nsenter().starts_with("nsenter --target "), "{}", sandbox.nsenter());
        Ok(())
    })?;
    if outside {
        for path in ["/run/flock-sandbox-test", "/run/netns/flock-sandbox-test"] {
            assert!(!Path::new(path).exists(), "{path}");
        }
    }
    Ok(())
}

#[test]
fn a_failure_inside_is_a_failure_outside() {
    let outside = std::process::id() != 1;
    let result = sandbox::within("a_failure_inside_is_a_failure_outside", |_| {
        std::process::exit(7);
    });
    assert!(outside);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("a_failure_inside_is_a_failure_outside failed in its sandbox"), "{error}");
}
