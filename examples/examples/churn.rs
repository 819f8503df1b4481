//! Lets 20,000 pods come and go, has 1,000 at once, and fills a /24; see
//! `flock_examples::churn` and docs/reliability.md. `make churn` runs it.
#![allow(clippy::print_stdout, reason = "the report is what this is for")]

use std::process::ExitCode;

use flock_examples::churn::{self, Scale};
use flock_examples::sandbox::{self, Entry};
use flock_examples::{LabError, Result};

fn main() -> ExitCode {
    match churn() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("churn: {error}");
            ExitCode::FAILURE
        }
    }
}

fn churn() -> Result<ExitCode> {
    let mut scale = Scale { pairs: 20_000, at_once: 1_000, prefix_length: 24, verbose: true };
    if let Some(number) = std::env::args().nth(1) {
        scale.pairs = number.parse().map_err(|_| {
            LabError::Unexpected(format!(
                "{number} is no number of pods, expected one of at least 10, or nothing"
            ))
        })?;
    }
    match sandbox::enter()? {
        Entry::Left(code) => Ok(code),
        Entry::Inside(_) => {
            let report = churn::run(&scale)?;
            println!("{report}");
            let complaints = report.complaints();
            for line in &complaints {
                println!("FAILED: {line}");
            }
            Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
