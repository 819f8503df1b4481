//! Frames of the agent's socket, in pieces.
//!
//! The first byte says how long the pieces are; the rest is what comes over the socket.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use flock_core::cni;
use flock_core::frame::{self, FrameError, HEADER_LEN, Incoming, InquiryFrame, MAX_LEN, PROTOCOL, Response};
use futures_util::FutureExt as _;
use serde::Serialize;
use tokio::io::{AsyncRead, ReadBuf};

use crate::message::assert_readable;

/// Reads `data` as the length of pieces and what comes in them.
pub fn check(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else { return };
    match received(stream, usize::from(piece).max(1)) {
        Ok(json) => message(&json),
        Err(error) => refused(error),
    }
    // Without a header that fits, which is rarely met by chance.
    message(stream);
}

/// Whatever reads it, and in whatever pieces it comes, it is the same.
fn received(stream: &[u8], piece: usize) -> Result<Vec<u8>, FrameError> {
    let blocking = frame::read(Pieces { rest: stream, piece });
    let other = frame::read_async(Pieces { rest: stream, piece }).now_or_never();
    let other = other.unwrap_or_else(|| panic!("nothing is waited for where all is there"));
    match (&blocking, &other) {
        (Ok(blocking), Ok(other)) => assert_eq!(blocking, other),
        (Err(blocking), Err(other)) => assert_eq!(blocking.to_string(), other.to_string()),
        _ => panic!("{blocking:?} blocking, {other:?} otherwise"),
    }
    match (frame::decode(stream), &blocking) {
        (Ok(Some(json)), Ok(read)) => {
            assert_eq!(json, read);
            assert!(json.len() <= MAX_LEN && json.len() + HEADER_LEN <= stream.len());
        }
        (Ok(None), Err(FrameError::Truncated { received })) => assert!(*received <= stream.len()),
        (Err(FrameError::TooLong { len }), Err(FrameError::TooLong { .. })) => assert!(len > MAX_LEN),
        (decoded, read) => panic!("{decoded:?} in memory, {read:?} from a reader"),
    }
    blocking
}

fn message(json: &[u8]) {
    match Incoming::from_json(json) {
        Ok(Incoming::Request(request)) => {
            assert_eq!(request.protocol, PROTOCOL);
            let again = match Incoming::from_json(&sent(&request)) {
                Ok(Incoming::Request(again)) => again,
                other => panic!("a request is read as {other:?}"),
            };
            assert_eq!(sent(&again), sent(&request));
            if let Err(error) = request.operation() {
                assert_readable(&error);
                sent(&Response::from(error));
            }
        }
        Ok(Incoming::Inquiry(inquiry)) => {
            let again = Incoming::from_json(&sent(&InquiryFrame::new(inquiry)));
            assert!(matches!(again, Ok(Incoming::Inquiry(again)) if again == inquiry), "{again:?}");
        }
        Err(FrameError::Protocol { found }) => assert_ne!(found, PROTOCOL),
        Err(error) => refused(error),
    }
    match Response::from_json(json) {
        Ok(response) => {
            let again = sent(&response);
            let again = Response::from_json(&again).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(sent(&again), sent(&response));
        }
        Err(error) => refused(error),
    }
}

fn sent(message: &impl Serialize) -> Vec<u8> {
    let bytes = frame::encode(message).unwrap_or_else(|error| panic!("{error}"));
    let Ok(Some(json)) = frame::decode(&bytes) else { panic!("it is not complete: {bytes:?}") };
    assert_eq!(json.len() + HEADER_LEN, bytes.len());
    json.to_vec()
}

fn refused(error: FrameError) {
    assert_readable(&error);
    let error = cni::Error::from(error);
    assert_readable(&error);
    assert!(!error.details.is_empty(), "what to do is not said: {error}");
}

/// Bytes that arrive in pieces.
#[derive(Debug)]
struct Pieces<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.piece.min(buffer.len());
        self.rest.read(&mut buffer[..len])
    }
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let len = self.piece.min(buffer.remaining()).min(self.rest.len());
        let (piece, rest) = self.rest.split_at(len);
        buffer.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}
