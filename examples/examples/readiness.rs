//! Measures how soon the network follows a pod that becomes unready, with 250 pods on its node; see
//! `flock_examples::readiness` and docs/bgp.md. `make readiness` runs it.
#![allow(clippy::print_stdout, reason = "the report is what this is for")]

use std::process::ExitCode;
use std::time::Duration;

use flock_examples::fabric::Fabric;
use flock_examples::readiness::served_twice;
use flock_examples::sandbox::{self, Entry};
use flock_examples::{LabError, Result};

/// How many pods each node has beside the one that serves.
const CROWD: usize = 250;
/// How long one change may take before the run is given up.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest that a withdrawal may take.
const TARGET: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    match readiness() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("readiness: {error}");
            ExitCode::FAILURE
        }
    }
}

fn readiness() -> Result<ExitCode> {
    let rounds = match std::env::args().nth(1) {
        None => 50,
        Some(number) => number.parse().ok().filter(|rounds| *rounds > 0).ok_or_else(|| {
            LabError::Unexpected(format!("{number} is no number of rounds, expected one of at least 1"))
        })?,
    };
    let _sandbox = match sandbox::enter()? {
        Entry::Left(code) => return Ok(code),
        Entry::Inside(sandbox) => sandbox,
    };
    let mut fabric = Fabric::build(2)?;
    let scene = served_twice(&mut fabric, CROWD, LIMIT)?;
    let (mut withdrawn, mut taken_over, mut sent, mut lost) = (Vec::new(), Vec::new(), 0, 0);
    for round in 0..rounds {
        let seen = scene.round(&fabric, round, LIMIT)?;
        withdrawn.push(seen.withdrawn);
        taken_over.push(seen.taken_over);
        sent += seen.sent;
        lost += seen.lost.len();
        if !seen.lost.is_empty() {
            println!(
                "change {round} of {}: lost packets {:?}, withdrawn after {:.1} ms, first packet to the other node \
                 after {:.1} ms",
                seen.target,
                seen.lost,
                ms(seen.withdrawn),
                ms(seen.taken_over)
            );
        }
    }
    println!("from the change of a pod's manifest, {rounds} times:");
    let (median, worst) = median_and_worst(withdrawn);
    println!(
        "  until the router has no route over its node: median {:.1} ms, worst {:.1} ms",
        ms(median),
        ms(worst)
    );
    let (first, slowest) = median_and_worst(taken_over);
    println!(
        "  until a packet goes to the other node: median {:.1} ms, worst {:.1} ms",
        ms(first),
        ms(slowest)
    );
    println!("  {lost} of {sent} packets lost, at least one each 10 ms");
    let mut code = ExitCode::SUCCESS;
    if worst > TARGET {
        println!("FAILED: the worst took {:.1} ms, expected at most {:.0} ms", ms(worst), ms(TARGET));
        code = ExitCode::FAILURE;
    }
    if lost > 0 {
        println!("FAILED: {lost} packets were lost, expected none");
        code = ExitCode::FAILURE;
    }
    Ok(code)
}

fn median_and_worst(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    (median, times.last().copied().unwrap_or_default())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
