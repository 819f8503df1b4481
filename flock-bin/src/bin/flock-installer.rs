//! `flock-installer`: see `flock-installer --help`.

use std::io::Write as _;
use std::process::ExitCode;

use flock_bin::installer::files::HostFiles;
use flock_bin::installer::options::{Action, Options};
use flock_bin::installer::{install, uninstall};

fn main() -> ExitCode {
    let options = match Options::read(std::env::args_os()) {
        Ok(options) => options,
        Err(error) => error.exit(),
    };
    // What is done does not depend on whether somebody reads about it.
    let mut tell = |line: &str| drop(writeln!(std::io::stdout(), "{line}"));
    let done = match options.action {
        Action::Install => install(&options, &HostFiles, &mut tell),
        Action::Uninstall => uninstall(&options, &HostFiles, &mut tell),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flock-installer: {error}");
            ExitCode::FAILURE
        }
    }
}
