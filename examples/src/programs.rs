//! Where the programs under test are.

use std::env;
use std::path::PathBuf;

use crate::{LabError, Result};

/// The plugin: `$FLOCK_PLUGIN`, or `flock` beside the examples in the target directory.
pub fn plugin() -> Result<PathBuf> {
    find("FLOCK_PLUGIN", "flock")
}

/// The agent: `$FLOCK_AGENT`, or `flock-agent` beside the examples in the target directory.
pub fn agent() -> Result<PathBuf> {
    find("FLOCK_AGENT", "flock-agent")
}

/// The floor of the benchmark: `$FLOCK_FLOOR`, or `floor` beside the examples in the target directory.
pub fn floor() -> Result<PathBuf> {
    find("FLOCK_FLOOR", "floor")
}

/// An example of this package, built with the program that asks.
pub fn example(name: &str) -> Result<PathBuf> {
    built(&format!("examples/{name}"))
}

fn find(variable: &str, name: &str) -> Result<PathBuf> {
    let path = match env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => built(name)?,
    };
    let path = path.canonicalize().map_err(|error| {
        LabError::Unexpected(format!(
            "{} can't be used: {error}; build it with `cargo build -p flock-bin -p flock-examples`, or set {variable} to it",
            path.display()
        ))
    })?;
    Ok(path)
}

/// Examples and tests are in a directory below the one with the programs of the same profile.
fn built(name: &str) -> Result<PathBuf> {
    let this = env::current_exe().map_err(LabError::file("find", "this program"))?;
    this.ancestors()
        .nth(2)
        .map(|profile| profile.join(name))
        .ok_or_else(|| LabError::Unexpected(format!("{} is not in a target directory", this.display())))
}
