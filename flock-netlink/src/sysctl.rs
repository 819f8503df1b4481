//! Settings under `sys` of a proc file system, written only where they differ.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flock_core::dataplane::DataplaneError;

/// The settings that can be reached through one mount of proc. Whichever mount it is, every
/// thread sees those of its own network namespace.
#[derive(Debug, Clone)]
pub(crate) struct Sysctls {
    /// Where the names begin, `/proc/sys` for one.
    root: Arc<Path>,
}

impl Sysctls {
    /// Those of the proc file system that is mounted on `proc`.
    pub(crate) fn of(proc: &Path) -> Self {
        Self { root: Arc::from(proc.join("sys")) }
    }

    /// The value of a setting, `net/ipv4/ip_forward` for one.
    pub(crate) fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.path(name)).map(|value| value.trim().to_owned())
    }

    /// Writes without looking first.
    pub(crate) fn write(&self, name: &str, value: &str) -> io::Result<()> {
        fs::write(self.path(name), value)
    }

    /// Makes a setting what it should be, and makes sure that it is.
    pub(crate) fn ensure(&self, name: &str, value: &str) -> Result<(), DataplaneError> {
        let failed = |source| not_set(name, value, source);
        if self.read(name).map_err(failed)? == value {
            return Ok(());
        }
        self.write(name, value).map_err(failed)?;
        let found = self.read(name).map_err(failed)?;
        if found == value {
            return Ok(());
        }
        Err(failed(io::Error::other(format!("it was written, and is still {found}"))))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

/// Why the node or the pod can't be routed for.
pub(crate) fn not_set(name: &str, value: &str, source: io::Error) -> DataplaneError {
    DataplaneError::Setting { name: dotted(name), value: value.to_owned(), source }
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
