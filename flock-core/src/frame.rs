//! The wire format between the plugin and the agent: one request and one response
//! per connection, each four bytes of length (big-endian) and that many bytes of JSON.
//!
//! ```text
//! {"protocol":1,"verb":"ADD","containerId":"…","ifname":"eth0","netns":"/run/netns/…",
//!  "args":"IgnoreUnknown=1;…","config":{"cniVersion":"1.1.0",…},"remainingMs":59990}
//! {"result":{"cniVersion":"1.1.0",…}}    or {"result":null}
//! {"error":{"code":11,"msg":"…","details":"…"}}
//! ```
//!
//! `flock-agent check` asks over the same socket, with verbs that CNI does not have
//! ([`Inquiry`]). An agent that does not know them answers that it can't decode the verb, and
//! which ones it knows:
//!
//! ```text
//! {"protocol":1,"verb":"VIEW"}      the agent's state, a View of the module inspection
//! {"protocol":1,"verb":"REPAIR"}    mends what it can, then {"result":null}
//! ```
//!
//! [`encode`] and [`decode`] do no I/O. The agent trusts nobody: a [`Request`] holds
//! what the plugin was told, and [`Request::operation`] validates it.

use std::io::{self, Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::cni::{self, Code, Operation, RawCall, Verb};
use crate::excerpt;

/// The version of this format. Raised when an older peer would misread a frame;
/// further fields alone do not raise it.
pub const PROTOCOL: u32 = 1;

/// The most bytes of JSON in a frame, in either direction.
pub const MAX_LEN: usize = 1 << 20;

/// The bytes in front of the JSON.
pub const HEADER_LEN: usize = 4;

/// Nearly every message has fewer bytes: one read takes it.
const USUAL_LEN: usize = 4096;

/// What the plugin was told, as it was told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// `CNI_COMMAND`.
    pub verb: Verb,
    /// `CNI_CONTAINERID`, empty where absent, like the next three.
    #[serde(default)]
    pub container_id: String,
    /// `CNI_IFNAME`.
    #[serde(default)]
    pub ifname: String,
    /// `CNI_NETNS`.
    #[serde(default)]
    pub netns: String,
    /// `CNI_ARGS`.
    #[serde(default)]
    pub args: String,
    /// Standard input.
    pub config: Box<RawValue>,
    /// How many milliseconds the plugin still waits for the answer.
    pub remaining_ms: u64,
}

impl Request {
    /// What `raw` says, to be sent. Fails if the configuration is not JSON.
    pub fn new(raw: &RawCall<'_>) -> Result<Self, FrameError> {
        Ok(Self {
            protocol: PROTOCOL,
            verb: raw.verb,
            container_id: raw.container_id.to_owned(),
            ifname: raw.ifname.to_owned(),
            netns: raw.netns.to_owned(),
            args: raw.args.to_owned(),
            config: serde_json::from_slice(raw.config).map_err(FrameError::Json)?,
            remaining_ms: u64::try_from(raw.remaining.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Reads the JSON of a frame. Another protocol version is told from garbage.
    pub fn from_json(json: &[u8]) -> Result<Self, FrameError> {
        #[derive(Deserialize)]
        struct Probe {
            protocol: u32,
        }
        let Probe { protocol } = serde_json::from_slice(json).map_err(FrameError::Json)?;
        if protocol != PROTOCOL {
            return Err(FrameError::Protocol { found: protocol });
        }
        serde_json::from_slice(json).map_err(FrameError::Json)
    }

    /// Validates what the plugin was told.
    pub fn operation(&self) -> Result<Operation, cni::Error> {
        Operation::parse(&RawCall {
            verb: self.verb,
            container_id: &self.container_id,
            ifname: &self.ifname,
            netns: &self.netns,
            args: &self.args,
            config: self.config.get().as_bytes(),
            remaining: Duration::from_millis(self.remaining_ms),
        })
    }
}

impl TryFrom<&Request> for Operation {
    type Error = cni::Error;

    fn try_from(request: &Request) -> Result<Self, cni::Error> {
        request.operation()
    }
}

/// What `flock-agent check` asks of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Inquiry {
    /// What is in force, who holds what, what is worked on: a [`View`](crate::inspection::View).
    View,
    /// Mend what is not as it should be, as far as the agent can.
    Repair,
}

impl Inquiry {
    /// As it stands in the frame.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::View => "VIEW",
            Self::Repair => "REPAIR",
        }
    }
}

/// An [`Inquiry`] as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InquiryFrame {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// What is asked.
    pub verb: Inquiry,
}

impl InquiryFrame {
    /// `verb` in this version of the format.
    pub fn new(verb: Inquiry) -> Self {
        Self { protocol: PROTOCOL, verb }
    }
}

/// What comes in at the agent's socket.
#[derive(Debug, Clone)]
pub enum Incoming {
    /// From the plugin.
    Request(Request),
    /// From `flock-agent check`.
    Inquiry(Inquiry),
}

impl Incoming {
    /// Reads the JSON of a frame. What is no inquiry is read as a request.
    pub fn from_json(json: &[u8]) -> Result<Self, FrameError> {
        match serde_json::from_slice(json) {
            Ok(InquiryFrame { protocol: PROTOCOL, verb }) => Ok(Self::Inquiry(verb)),
            _ => Request::from_json(json).map(Self::Request),
        }
    }
}

/// What the plugin is to print.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// Success, and what to print: nothing for DEL, CHECK, GC and STATUS.
    Result(Option<Box<RawValue>>),
    /// Failure. The plugin adds the `cniVersion`.
    Error(cni::Error),
}

impl Response {
    /// Success with nothing to print.
    pub const EMPTY: Self = Self::Result(None);

    /// Success with `value` to print.
    pub fn result(value: &Value) -> Self {
        match serde_json::value::to_raw_value(value) {
            Ok(raw) => Self::Result(Some(raw)),
            Err(error) => Self::Error(cni::Error::new(Code::INTERNAL, error.to_string(), "")),
        }
    }

    /// Reads the JSON of a frame.
    pub fn from_json(json: &[u8]) -> Result<Self, FrameError> {
        serde_json::from_slice(json).map_err(FrameError::Json)
    }
}

impl From<cni::Error> for Response {
    fn from(error: cni::Error) -> Self {
        Self::Error(error)
    }
}

/// Why a frame can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It is longer than [`MAX_LEN`].
    #[error("the message has {len} bytes, expected at most {MAX_LEN}")]
    TooLong {
        /// The length that was announced or would be.
        len: usize,
    },
    /// The other side ended it before it was complete.
    #[error("the connection ended after {received} bytes of the message")]
    Truncated {
        /// How many bytes came, the length in front included.
        received: usize,
    },
    /// It is not the JSON that was expected.
    #[error("the message can't be decoded: {}", excerpt::line(.0))]
    Json(#[source] serde_json::Error),
    /// It is of another version of this format.
    #[error(
        "the message has protocol version {found}, expected {PROTOCOL}: the plugin and the agent are of different releases"
    )]
    Protocol {
        /// The version that it names.
        found: u32,
    },
    /// The medium failed.
    #[error("{0}")]
    Io(#[source] io::Error),
}

impl From<FrameError> for cni::Error {
    fn from(error: FrameError) -> Self {
        let (code, details) = match &error {
            FrameError::TooLong { .. } => (
                Code::INVALID_CONFIG,
                "the network configuration with prevResult and capability arguments is too large: make it smaller",
            ),
            FrameError::Protocol { .. } => {
                (Code::INCOMPATIBLE_VERSION, "install the plugin and the agent from one release")
            }
            FrameError::Json(_) => (
                Code::DECODING_FAILURE,
                "are the plugin and the agent from one release, and is the socket the agent's?",
            ),
            FrameError::Truncated { .. } | FrameError::Io(_) => {
                (Code::IO_FAILURE, "look at the log of flock-agent on this node")
            }
        };
        Self::new(code, format!("between flock and flock-agent: {error}"), details)
    }
}

/// The bytes of a frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER_LEN];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Json)?;
    let len = frame.len() - HEADER_LEN;
    let header = u32::try_from(len).ok().filter(|_| len <= MAX_LEN).ok_or(FrameError::TooLong { len })?;
    frame[..HEADER_LEN].copy_from_slice(&header.to_be_bytes());
    Ok(frame)
}

/// The JSON of the frame that `bytes` begins with; `None` while it is not complete.
pub fn decode(bytes: &[u8]) -> Result<Option<&[u8]>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let len = announced(*header)?;
    Ok(rest.get(..len))
}

/// Reads one frame and returns its JSON.
pub fn read(mut from: impl Read) -> Result<Vec<u8>, FrameError> {
    let mut header = [0; HEADER_LEN];
    from.read_exact(&mut header).map_err(|error| ended(error, 0))?;
    let len = announced(header)?;
    // `take` and not a buffer of the announced size: memory grows with what really comes.
    let mut json = Vec::with_capacity(len.min(USUAL_LEN));
    let received = from.take(len as u64).read_to_end(&mut json).map_err(FrameError::Io)?;
    complete(received, len).map(|()| json)
}

/// Writes one frame.
pub fn write(mut to: impl Write, message: &impl Serialize) -> Result<(), FrameError> {
    to.write_all(&encode(message)?).and_then(|()| to.flush()).map_err(FrameError::Io)
}

/// Reads one frame and returns its JSON. Not cancel safe: what was read is lost.
pub async fn read_async(mut from: impl AsyncRead + Unpin) -> Result<Vec<u8>, FrameError> {
    let len = read_len_async(&mut from).await?;
    let mut json = Vec::with_capacity(len.min(USUAL_LEN));
    read_to_async(&mut from, len, &mut json).await?;
    Ok(json)
}

/// Reads how long the JSON of a frame is. Not cancel safe.
pub(crate) async fn read_len_async(mut from: impl AsyncRead + Unpin) -> Result<usize, FrameError> {
    let mut header = [0; HEADER_LEN];
    from.read_exact(&mut header).await.map_err(|error| ended(error, 0))?;
    announced(header)
}

/// Reads until `json` has `len` bytes of a frame's JSON.
pub(crate) async fn read_to_async(
    from: impl AsyncRead + Unpin,
    len: usize,
    json: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let missing = len.saturating_sub(json.len());
    from.take(missing as u64).read_to_end(json).await.map_err(FrameError::Io)?;
    complete(json.len(), len)
}

/// Writes one frame. Not cancel safe: a part of it may have been written.
pub async fn write_async(
    mut to: impl AsyncWrite + Unpin,
    message: &impl Serialize,
) -> Result<(), FrameError> {
    to.write_all(&encode(message)?).await.map_err(FrameError::Io)?;
    to.flush().await.map_err(FrameError::Io)
}

fn announced(header: [u8; HEADER_LEN]) -> Result<usize, FrameError> {
    // A usize of 16 bits can't hold every u32; such a length is too long in any case.
    let len = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
    if len <= MAX_LEN { Ok(len) } else { Err(FrameError::TooLong { len }) }
}

fn complete(received: usize, len: usize) -> Result<(), FrameError> {
    if received == len { Ok(()) } else { Err(FrameError::Truncated { received: received + HEADER_LEN }) }
}

fn ended(error: io::Error, received: usize) -> FrameError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::Truncated { received },
        _ => FrameError::Io(error),
    }
}
