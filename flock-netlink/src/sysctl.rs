//! Settings under `/proc/sys`, written only where they differ.

use std::fs;
use std::io;
use std::path::PathBuf;

use flock_core::dataplane::DataplaneError;

/// The value of a setting, `net/ipv4/ip_forward` for one. Every thread sees
/// those of its own network namespace.
pub(crate) fn read(name: &str) -> io::Result<String> {
    fs::read_to_string(path(name)).map(|value| value.trim().to_owned())
}

/// Writes without looking first.
pub(crate) fn write(name: &str, value: &str) -> io::Result<()> {
    fs::write(path(name), value)
}

/// Makes a setting what it should be, and makes sure that it is.
pub(crate) fn ensure(name: &str, value: &str) -> Result<(), DataplaneError> {
    let failed = |source| DataplaneError::Setting { name: dotted(name), value: value.to_owned(), source };
    if read(name).map_err(failed)? == value {
        return Ok(());
    }
    write(name, value).map_err(failed)?;
    let found = read(name).map_err(failed)?;
    if found == value {
        return Ok(());
    }
    Err(failed(io::Error::other(format!("it was written, and is still {found}"))))
}

/// As sysctl(8) writes it, with the dots of an interface name as slashes.
pub(crate) fn dotted(name: &str) -> String {
    name.chars()
        .map(|letter| match letter {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}
