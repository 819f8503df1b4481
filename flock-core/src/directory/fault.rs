//! Where tests make the n-th step of the work on files fail.

#[cfg(test)]
use std::cell::Cell;
use std::io;

#[cfg(test)]
thread_local! {
    static STEPS: Cell<usize> = const { Cell::new(0) };
    static FAILING: Cell<Option<usize>> = const { Cell::new(None) };
}

/// From now on the steps of this thread are counted from zero, and that one fails.
#[cfg(test)]
pub(crate) fn inject(failing: Option<usize>) {
    STEPS.set(0);
    FAILING.set(failing);
}

/// How many steps there were since.
#[cfg(test)]
pub(crate) fn steps() -> usize {
    STEPS.get()
}

/// Comes before every step that changes something on the medium.
#[cfg(test)]
pub(super) fn step() -> io::Result<()> {
    let number = STEPS.replace(STEPS.get() + 1);
    if FAILING.get() == Some(number) { Err(io::Error::other("it is broken")) } else { Ok(()) }
}

/// Comes before every step that changes something on the medium.
#[cfg(not(test))]
#[allow(clippy::unnecessary_wraps, reason = "it fails where a test says so")]
pub(super) const fn step() -> io::Result<()> {
    Ok(())
}
