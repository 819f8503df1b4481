//! Files of which the n-th step fails.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::Path;

use flock_bin::installer::files::{Entry, Files, HostFiles};

/// What happens at the step that fails, and after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The step fails, later ones do not.
    Error,
    /// The process is killed: the step, if it writes, is done by half; nothing comes after it.
    Kill,
    /// The process is killed right after the step.
    KillAfter,
}

impl Failure {
    pub(crate) const ALL: [Self; 3] = [Self::Error, Self::Kill, Self::KillAfter];
}

pub(crate) struct FailingFiles {
    at: usize,
    failure: Failure,
    steps: Cell<usize>,
}

impl FailingFiles {
    pub(crate) fn new(at: usize, failure: Failure) -> Self {
        Self { at, failure, steps: Cell::new(0) }
    }

    /// How many steps were tried.
    pub(crate) fn steps(&self) -> usize {
        self.steps.get()
    }

    fn step<T>(&self, work: impl FnOnce() -> io::Result<T>, half: impl FnOnce()) -> io::Result<T> {
        let step = self.steps.get();
        self.steps.set(step + 1);
        let failed = || Err(io::Error::other(format!("step {step} fails")));
        match self.failure {
            Failure::Error if step == self.at => failed(),
            Failure::Kill if step == self.at => {
                half();
                failed()
            }
            Failure::KillAfter if step == self.at => work().and_then(|_| failed()),
            Failure::Kill | Failure::KillAfter if step > self.at => failed(),
            _ => work(),
        }
    }
}

impl Files for FailingFiles {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.step(|| HostFiles.create_dir_all(dir), || {})
    }
    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.step(|| HostFiles.names(dir), || {})
    }
    fn read(&self, path: &Path) -> io::Result<Option<Entry>> {
        self.step(|| HostFiles.read(path), || {})
    }
    fn write_new(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let half = || fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        self.step(|| HostFiles.write_new(path, bytes, mode), half)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(|| HostFiles.rename(from, to), || {})
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step(|| HostFiles.sync_dir(dir), || {})
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(|| HostFiles.remove(path), || {})
    }
}
