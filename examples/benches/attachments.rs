//! Measures ADD and DEL of Flock, of other plugins and of the floor, prints one
//! table and what of the targets is reached.
//!
//! `make bench` builds what is measured as it is shipped and runs this; see
//! docs/performance.md. `--quick` takes few samples, to see that it works.

#![allow(clippy::print_stdout, reason = "the table is what this is for")]

use std::process::ExitCode;

use flock_examples::bench::{self, Scale};
use flock_examples::sandbox::{self, Entry};
use flock_examples::{LabError, Result};

fn main() -> ExitCode {
    match measure() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<ExitCode> {
    let scale = scale()?;
    match sandbox::enter()? {
        Entry::Left(code) => Ok(code),
        Entry::Inside(_) => {
            println!("{}", bench::run(&scale)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn scale() -> Result<Scale> {
    let mut scale = Scale::full();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            // Cargo says this to every benchmark.
            "--bench" => {}
            "--quick" => scale = Scale::quick(),
            other => {
                return Err(LabError::Unexpected(format!(
                    "{other} is no argument, expected --quick or none"
                )));
            }
        }
    }
    Ok(scale)
}
