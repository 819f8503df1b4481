//! Blocking input and output that ends by a deadline.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The moment by which all of something must be done.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// `limit` from now.
    pub fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// The same start with another limit.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// How long the whole may take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// How long it may take from now; zero when the time is up.
    pub fn remaining(&self) -> Duration {
        self.limit.saturating_sub(self.start.elapsed())
    }
}

/// Reads and writes a file descriptor, blocking or not, until a deadline; then
/// each call fails with [`io::ErrorKind::TimedOut`].
#[derive(Debug)]
pub struct Bounded<F> {
    fd: F,
    deadline: Deadline,
}

/// A pipe that poll calls writable takes this much without blocking (`PIPE_BUF`).
const CHUNK: usize = 4096;

impl<F: AsFd> Bounded<F> {
    /// Bounds all input and output on `fd`.
    pub fn new(fd: F, deadline: Deadline) -> Self {
        Self { fd, deadline }
    }

    /// Repeats `attempt` whenever the descriptor is ready, until it does not ask to wait.
    fn when<T>(&self, ready: PollFlags, mut attempt: impl FnMut(&F) -> Result<T, Errno>) -> io::Result<T> {
        loop {
            let remaining = self.deadline.remaining();
            // Checked here too: a peer that is always ready must not outlast the deadline.
            if remaining.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let remaining =
                Timespec::try_from(remaining).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            match poll(&mut [PollFd::new(&self.fd, ready)], Some(&remaining)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            match attempt(&self.fd) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                done => return Ok(done?),
            }
        }
    }
}

impl<F: AsFd> Read for Bounded<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.when(PollFlags::IN, |fd| rustix::io::read(fd, &mut *buffer))
    }
}

impl<F: AsFd> Write for Bounded<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = bytes.get(..CHUNK).unwrap_or(bytes);
        self.when(PollFlags::OUT, |fd| rustix::io::write(fd, chunk))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
