//! The plugin as a process.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::panic;
use std::process;
use std::time::Duration;

use flock_core::client::{Bounded, Deadline};
use flock_core::cni::{Code, Error, SpecVersion};

use super::{Environment, Outcome, run};

/// This process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process;

impl Environment for Process {
    fn arguments(&self) -> Vec<OsString> {
        std::env::args_os().skip(1).collect()
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn input(&self, limit: usize, deadline: Deadline) -> io::Result<Vec<u8>> {
        // Most configurations fit: one read instead of many small ones.
        let mut input = Vec::with_capacity(limit.min(4096));
        Bounded::new(io::stdin(), deadline).take(limit as u64).read_to_end(&mut input)?;
        Ok(input)
    }

    fn input_is_terminal(&self) -> bool {
        io::stdin().is_terminal()
    }

    fn output_is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }
}

/// Runs the plugin in this process and returns its exit status.
pub fn main() -> process::ExitCode {
    panic::set_hook(Box::new(|panic| {
        let error = Error::new(
            Code::INTERNAL,
            format!("flock failed: {panic}"),
            "this is a defect of flock: please report it with this message",
        );
        // The plugin is built to abort, which would say nothing to the runtime.
        process::exit(leave(&Outcome::failure(&error, SpecVersion::NEWEST)).into());
    }));
    leave(&run(&Process)).into()
}

/// Prints what there is to print. Returns the exit status.
fn leave(outcome: &Outcome) -> u8 {
    /// For a reader that does not read: the outcome is small enough for any pipe.
    const LIMIT: Duration = Duration::from_secs(2);
    let print = |to: &dyn AsFd, text: &str| {
        Bounded::new(to.as_fd(), Deadline::after(LIMIT)).write_all(text.as_bytes())
    };
    let noticed = print(&io::stderr(), &outcome.notice);
    match print(&io::stdout(), &outcome.output) {
        Ok(()) => outcome.status,
        Err(error) => {
            if noticed.is_ok() {
                // The last one left to tell.
                let _ = print(&io::stderr(), &format!("flock: can't write to standard output: {error}\n"));
            }
            1
        }
    }
}
