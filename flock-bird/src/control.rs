//! BIRD's control protocol over its Unix socket, spoken without a `birdc` process.
//!
//! BIRD greets whoever connects, reads commands line by line and answers each with a
//! [`Reply`] of numbered lines. [`ReplyParser`] reads replies from bytes and knows nothing of
//! sockets; [`Client`] connects for each command, so that there is no connection to keep
//! alive over BIRD's restarts.
//!
//! ```no_run
//! # async fn example() -> Result<(), flock_bird::control::ControlError> {
//! use std::time::Duration;
//! use flock_bird::control::Client;
//!
//! let client = Client::new("/run/flock/bird.ctl", Duration::from_secs(5));
//! let reply = client.ask("show status").await?;
//! assert!(reply.is_success());
//! # Ok(()) }
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flock_core::excerpt::quoted;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::sleep;

mod reply;

pub use reply::{Code, Limits, Line, Reply, ReplyError, ReplyParser};

/// The reply that `text` holds, for tests.
#[cfg(test)]
pub(crate) fn reply(text: &str) -> Reply {
    let mut parser = ReplyParser::new();
    parser.push(text.as_bytes());
    parser.next_reply().unwrap().unwrap()
}

/// The longest command that BIRD reads, in bytes.
const MAX_COMMAND: usize = 4_000;

/// Between two looks whether the queue of connections has room.
const ROOM: Duration = Duration::from_millis(20);

/// Asks one BIRD.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens, or the connection broke.
    #[error("BIRD can't be reached at {}: {reason}; is it running with this control socket?", .socket.display())]
    Unreachable {
        /// Where it was looked for.
        socket: PathBuf,
        /// The system's answer.
        reason: String,
    },
    /// The exchange did not end in time.
    #[error("BIRD at {} did not answer within {after:?}", .socket.display())]
    Timeout {
        /// Where it was asked.
        socket: PathBuf,
        /// How long the exchange might take.
        after: Duration,
    },
    /// What answered does not speak BIRD's protocol.
    #[error("what answers at {} is not BIRD's control socket: {source}", .socket.display())]
    Protocol {
        /// Where it was asked.
        socket: PathBuf,
        /// What is wrong with the answer.
        source: ReplyError,
    },
    /// The command is not one line of text that BIRD can read.
    #[error(
        "{} can't be a command to BIRD: expected one line without control characters, of at most {MAX_COMMAND} bytes",
        quoted(.command)
    )]
    Command {
        /// The command.
        command: String,
    },
}

impl Client {
    /// A client of the BIRD that listens on `socket`. No exchange takes longer than `timeout`.
    pub fn new(socket: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { socket: socket.into(), timeout }
    }

    /// Where BIRD is asked.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends `command` over a connection of its own and returns the reply, also where that is
    /// an error by BIRD.
    ///
    /// A BIRD that hangs is [`ControlError::Timeout`], however many wait for it already.
    ///
    /// Dropping the future closes the connection; BIRD may still execute the command.
    pub async fn ask(&self, command: &str) -> Result<Reply, ControlError> {
        if command.len() > MAX_COMMAND || command.chars().any(char::is_control) {
            return Err(ControlError::Command { command: command.to_owned() });
        }
        match tokio::time::timeout(self.timeout, self.exchange(command)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ControlError::Timeout { socket: self.socket.clone(), after: self.timeout }),
        }
    }

    async fn exchange(&self, command: &str) -> Result<Reply, ControlError> {
        let mut stream = self.connect().await.map_err(|error| self.unreachable(&error))?;
        let mut parser = ReplyParser::new();
        let greeting = self.next_reply(&mut stream, &mut parser).await?;
        if greeting.code() != Code::WELCOME {
            let source = ReplyError::Greeting(greeting.text().to_owned());
            return Err(ControlError::Protocol { socket: self.socket.clone(), source });
        }
        stream
            .write_all(format!("{command}\n").as_bytes())
            .await
            .map_err(|error| self.unreachable(&error))?;
        self.next_reply(&mut stream, &mut parser).await
    }

    /// Behind a BIRD that hangs connections queue up, until the kernel takes no more of them for it
    /// (EAGAIN of connect(2)): it is waited for as for one that does not answer.
    async fn connect(&self) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.socket).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(ROOM).await,
                outcome => return outcome,
            }
        }
    }

    async fn next_reply(
        &self,
        stream: &mut UnixStream,
        parser: &mut ReplyParser,
    ) -> Result<Reply, ControlError> {
        let mut buffer = [0; 4096];
        loop {
            match parser.next_reply() {
                Some(Ok(reply)) => return Ok(reply),
                Some(Err(source)) => {
                    return Err(ControlError::Protocol { socket: self.socket.clone(), source });
                }
                None => {}
            }
            let count = stream.read(&mut buffer).await.map_err(|error| self.unreachable(&error))?;
            if count == 0 {
                return Err(self.unreachable(&io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection was closed before the answer ended",
                )));
            }
            parser.push(buffer.get(..count).unwrap_or_default());
        }
    }

    fn unreachable(&self, error: &io::Error) -> ControlError {
        ControlError::Unreachable { socket: self.socket.clone(), reason: error.to_string() }
    }
}
