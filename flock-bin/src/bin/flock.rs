//! The CNI plugin. All of it is in [`flock_bin::plugin`].

use std::process::ExitCode;

fn main() -> ExitCode {
    flock_bin::plugin::main()
}
