//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

use crate::{LabError, Result};

/// What one look at a condition found.
#[derive(Debug)]
pub enum Probe<T> {
    /// The condition is true.
    Done(T),
    /// Not yet; the text says what was seen instead.
    Waiting(String),
}

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `probe` is done, and fails when `limit` has passed; `what` names
/// the condition in the error. An error of the probe ends the wait at once.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Probe<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        match probe()? {
            Probe::Done(value) => return Ok(value),
            Probe::Waiting(seen) if start.elapsed() >= limit => {
                let last = if seen.is_empty() { seen } else { format!("; the last look found: {seen}") };
                return Err(LabError::Timeout { what: what.to_owned(), limit, last });
            }
            Probe::Waiting(_) => thread::sleep(INTERVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let found = until("three looks", Duration::from_secs(10), || {
            looks += 1;
            Ok(if looks == 3 { Probe::Done(looks) } else { Probe::Waiting(String::new()) })
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn a_timeout_names_the_condition_and_what_was_seen() {
        let error = until::<()>("the sky", Duration::ZERO, || Ok(Probe::Waiting("clouds".into())));
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "the sky was expected within 0ns but did not happen; the last look found: clouds");
    }

    #[test]
    fn an_error_is_not_waited_for() {
        let error = until::<()>("x", Duration::MAX, || Err(LabError::Unexpected("broken".into())));
        assert_eq!(error.unwrap_err().to_string(), "broken");
    }
}
