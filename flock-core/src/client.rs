//! The plugin's side of the conversation with the agent: one blocking [`call`]
//! that ends by its deadline, whatever the agent does or does not do.
//!
//! ```no_run
//! # fn request() -> flock_core::frame::Request { unimplemented!() }
//! use std::{path::Path, time::Duration};
//! use flock_core::client::{self, Deadline};
//!
//! let answer = client::call(
//!     Path::new("/run/flock/flock.sock"),
//!     request(),
//!     Deadline::after(Duration::from_secs(60)),
//! )?;
//! # Ok::<(), client::ClientError>(())
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};
use serde::Serialize;

use crate::cni::{self, Code};
use crate::frame::{self, FrameError, Inquiry, InquiryFrame, Request, Response};

mod deadline;

pub use deadline::{Bounded, Deadline};

/// The socket's name in the run directory.
pub const SOCKET_NAME: &str = "flock.sock";

/// Sends `request` to the agent behind `socket` and returns its answer.
///
/// `remaining_ms` of the request is set to what is left when it is sent.
pub fn call(socket: &Path, mut request: Request, deadline: Deadline) -> Result<Response, ClientError> {
    exchange(socket, deadline, || {
        request.remaining_ms = u64::try_from(deadline.remaining().as_millis()).unwrap_or(u64::MAX);
        request
    })
}

/// Asks the agent behind `socket` about itself and returns its answer.
pub fn ask(socket: &Path, inquiry: Inquiry, deadline: Deadline) -> Result<Response, ClientError> {
    exchange(socket, deadline, || InquiryFrame::new(inquiry))
}

fn exchange<T: Serialize>(
    socket: &Path,
    deadline: Deadline,
    message: impl FnOnce() -> T,
) -> Result<Response, ClientError> {
    let stream = connect(socket, deadline)?;
    let failed = |step: Step| move |error| ClientError::of_frame(socket, step, deadline, error);
    let mut stream = Bounded::new(stream, deadline);
    let sent = match frame::write(&mut stream, &message()) {
        // An agent that refuses may answer and close before it has read everything.
        Err(FrameError::Io(error)) if is_closed(&error) => Err(FrameError::Io(error)),
        other => other.map(Ok).map_err(failed(Step::Request))?,
    };
    match (frame::read(&mut stream), sent) {
        (Ok(json), _) => Response::from_json(&json).map_err(failed(Step::Answer)),
        (Err(_), Err(error)) => Err(failed(Step::Request)(error)),
        (Err(error), Ok(())) => Err(failed(Step::Answer)(error)),
    }
}

/// Connects, waiting while the agent's queue of connections is full.
pub fn connect(socket: &Path, deadline: Deadline) -> Result<UnixStream, ClientError> {
    let io = |source: Errno| ClientError::Io { socket: socket.to_owned(), source: source.into() };
    let (fd, address) = unconnected(socket).map_err(io)?;
    loop {
        let remaining = deadline.remaining();
        // A send timeout of zero means none at all.
        if remaining.is_zero() {
            return Err(ClientError::deadline(socket, Step::Connection, deadline));
        }
        // The send timeout bounds connect(2) too (socket(7)). Poll can't: a
        // non-blocking connect to a full queue fails at once instead of queueing.
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(remaining)).map_err(io)?;
        match rustix::net::connect(&fd, &address) {
            Ok(()) => break,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(ClientError::of_connect(socket, error)),
        }
    }
    let stream = UnixStream::from(fd);
    match stream.set_nonblocking(true) {
        Ok(()) => Ok(stream),
        Err(source) => Err(ClientError::Io { socket: socket.to_owned(), source }),
    }
}

/// Whether somebody listens, without waiting for a connection.
pub fn is_listening(socket: &Path) -> Result<bool, ClientError> {
    let io = |source: Errno| ClientError::Io { socket: socket.to_owned(), source: source.into() };
    let (fd, address) = unconnected(socket).map_err(io)?;
    rustix::io::ioctl_fionbio(&fd, true).map_err(io)?;
    match rustix::net::connect(&fd, &address) {
        // A full queue of connections has somebody behind it.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => Ok(true),
        Err(error) => match ClientError::of_connect(socket, error) {
            ClientError::NotRunning { .. } => Ok(false),
            error => Err(error),
        },
    }
}

fn unconnected(socket: &Path) -> Result<(OwnedFd, SocketAddrUnix), Errno> {
    let address = SocketAddrUnix::new(socket)?;
    let fd = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok((fd, address))
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// A step of the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The agent accepts the connection.
    Connection,
    /// The agent takes the request.
    Request,
    /// The agent answers.
    Answer,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "accept a connection",
            Self::Request => "take the request",
            Self::Answer => "answer",
        }
    }

    fn direction(self) -> &'static str {
        match self {
            Self::Connection | Self::Request => "the request to",
            Self::Answer => "the answer of",
        }
    }
}

/// Why the agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("flock-agent is not running: nothing listens on {} ({source})", .socket.display())]
    NotRunning {
        /// Where it should.
        socket: PathBuf,
        /// What connecting said.
        source: io::Error,
    },
    /// This process may not talk to the agent.
    #[error("no permission to connect to flock-agent on {}, expected to run as root or as the agent's user", .socket.display())]
    Denied {
        /// Where it listens.
        socket: PathBuf,
    },
    /// The time is up.
    #[error("flock-agent did not {} on {} within {}", .step.as_str(), .socket.display(), text(*.limit))]
    Deadline {
        /// Where it listens.
        socket: PathBuf,
        /// What was waited for.
        step: Step,
        /// How long the whole call could take.
        limit: Duration,
    },
    /// The agent went away in the middle.
    #[error("flock-agent closed the connection on {} and did not {}: it was stopped, or it died", .socket.display(), .step.as_str())]
    Closed {
        /// Where it listened.
        socket: PathBuf,
        /// What was waited for.
        step: Step,
    },
    /// The request is too large, or the answer is none.
    #[error("{} flock-agent on {}: {source}", .step.direction(), .socket.display())]
    Frame {
        /// Where it listens.
        socket: PathBuf,
        /// The request or the answer.
        step: Step,
        /// What is wrong with it.
        source: FrameError,
    },
    /// The socket failed.
    #[error("the connection to flock-agent on {} failed: {source}", .socket.display())]
    Io {
        /// Where it should listen.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ClientError {
    fn deadline(socket: &Path, step: Step, deadline: Deadline) -> Self {
        Self::Deadline { socket: socket.to_owned(), step, limit: deadline.limit() }
    }

    fn of_connect(socket: &Path, error: Errno) -> Self {
        let socket = socket.to_owned();
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::CONNREFUSED => {
                Self::NotRunning { socket, source: error.into() }
            }
            Errno::ACCESS | Errno::PERM => Self::Denied { socket },
            error => Self::Io { socket, source: error.into() },
        }
    }

    fn of_frame(socket: &Path, step: Step, deadline: Deadline, error: FrameError) -> Self {
        let socket = socket.to_owned();
        match error {
            FrameError::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
                Self::deadline(&socket, step, deadline)
            }
            FrameError::Io(error) if is_closed(&error) => Self::Closed { socket, step },
            FrameError::Truncated { .. } => Self::Closed { socket, step },
            FrameError::Io(source) => Self::Io { socket, source },
            source => Self::Frame { socket, step, source },
        }
    }
}

impl From<ClientError> for cni::Error {
    fn from(error: ClientError) -> Self {
        let (code, details) = match &error {
            ClientError::NotRunning { .. } => (
                Code::TRY_AGAIN_LATER,
                "look at this node's pod of the DaemonSet flock-agent and its log (kubectl -n flock-system logs; \
                 without a cluster, at the service that runs flock-agent), and whether \"runDir\" is the agent's --run-dir",
            ),
            ClientError::Denied { .. } => {
                (Code::IO_FAILURE, "look at the owner and the mode of the socket and of its directory")
            }
            ClientError::Deadline { .. } | ClientError::Closed { .. } => (
                Code::TRY_AGAIN_LATER,
                "look at the log of the flock-agent DaemonSet pod or of the flock-agent service of this node",
            ),
            ClientError::Frame { step: Step::Request, source: FrameError::TooLong { .. }, .. } => (
                Code::INVALID_CONFIG,
                "the network configuration with prevResult and capability arguments is too large: make it smaller",
            ),
            ClientError::Frame { .. } => (
                Code::DECODING_FAILURE,
                "are the plugin and the agent from one release, and is the socket the agent's?",
            ),
            ClientError::Io { .. } => (Code::IO_FAILURE, "check \"runDir\" in the network configuration"),
        };
        Self::new(code, error.to_string(), details)
    }
}

/// `60 s`, or `250 ms` where it is no whole number of seconds.
fn text(limit: Duration) -> String {
    if limit.subsec_millis() == 0 {
        format!("{} s", limit.as_secs())
    } else {
        format!("{} ms", limit.as_millis())
    }
}
