//! `flock-agent` with a death of its own: it takes the same options, and kills itself
//! (SIGKILL) at a moment that the environment names. The tests of what a killed agent
//! leaves behind run it; it is also how an agent looks whose backends are wrapped.
//!
//! | variable | what it says |
//! |---|---|
//! | `MORTAL_TRIGGER` | a file: moments are counted once it is there; from the start where this is not set |
//! | `MORTAL_MOMENT` | at which moment to die, the first is 0; at none where this is not set |
//! | `MORTAL_DEAF` | set: what others change on the node is not noticed, and stays as it is |
//! | `MORTAL_UNAWARE` | set: changes of pods are not told: what follows from them has no place in the order of moments |
//! | `MORTAL_QUIET` | set: only the moment of death is written |
//!
//! A moment is just before a call of one of the five backends, just after one, or
//! between two steps of the file store. All are written to standard error, one line
//! each: `moment 3: after store.put`.

use std::process::ExitCode;
use std::sync::Arc;

use flock_bin::agent::options::{Options, ThisMachine};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

mod backends;
mod fate;

use backends::mortal;
use fate::{Fate, StoreSteps};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mortal: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::read(std::env::args_os(), &ThisMachine)?;
    let fate = Arc::new(Fate::from_environment()?);
    let said = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr);
    let steps = Targets::new().with_target("flock_core::directory", LevelFilter::TRACE);
    tracing_subscriber::registry()
        .with(said.with_filter(EnvFilter::new("info")))
        .with(StoreSteps(Arc::clone(&fate)).with_filter(steps))
        .try_init()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = async move {
            terminate.recv().await;
        };
        flock_bin::agent::run_with(options, |backends| mortal(backends, &fate), shutdown).await?;
        Ok(())
    })
}
