//! Kills the agent again and again while callers add and delete pods; see
//! `flock_examples::storm` and docs/reliability.md. `make storm KILLS=1000` runs it.
#![allow(clippy::print_stdout, reason = "the report is what this is for")]

use std::process::ExitCode;
use std::time::Duration;

use flock_examples::sandbox::{self, Entry};
use flock_examples::storm::{self, Plan};
use flock_examples::{LabError, Result, programs};

const USAGE: &str = "expected [--kills NUMBER] [--callers NUMBER] [--seed NUMBER]";

fn main() -> ExitCode {
    match storm() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("storm: {error}");
            ExitCode::FAILURE
        }
    }
}

fn storm() -> Result<ExitCode> {
    let plan = plan()?;
    match sandbox::enter()? {
        Entry::Left(code) => Ok(code),
        Entry::Inside(_) => {
            println!("{} kills under {} callers, seed {}", plan.kills, plan.callers, plan.seed);
            println!("{}", storm::run(&plan)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn plan() -> Result<Plan> {
    let mut plan = Plan {
        kills: 1000,
        callers: 32,
        seed: 1,
        limit: Duration::ZERO,
        mortal: programs::example("mortal")?,
        verbose: true,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        let wrong = || LabError::Unexpected(format!("{name} {value} makes no sense, {USAGE}"));
        let number: u32 = value.parse().map_err(|_| wrong())?;
        match name.as_str() {
            "--kills" => plan.kills = number as usize,
            "--callers" => plan.callers = number as usize,
            "--seed" => plan.seed = u64::from(number),
            _ => return Err(wrong()),
        }
    }
    // A machine that is busy with other things takes some times as long as one that is not.
    plan.limit = Duration::from_secs(60 + 2 * plan.kills as u64);
    Ok(plan)
}
