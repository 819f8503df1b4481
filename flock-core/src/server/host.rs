//! One connection, from its admission to its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, send};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;
use tracing::{Instrument, Span, debug, info_span, warn};

use super::lobby::{Lobby, Seat};
use super::{Inspect, Limits, Service};
use crate::cni::{Args, Code, Error};
use crate::excerpt;
use crate::frame::{self, FrameError, HEADER_LEN, Incoming, Inquiry, MAX_LEN, Request, Response};

/// Nearly every request has fewer bytes: only larger ones are counted by
/// [`Limits::large_waiting`] and [`Limits::large_bytes`].
const LARGE: usize = 64 << 10;

/// Answers a client that nothing will be read of any more, and does not wait for it: the
/// buffer of a new connection takes a short answer at once.
pub(super) fn send_off(stream: &UnixStream, response: &Response) {
    if let Ok(bytes) = frame::encode(response) {
        // A client that left needs no answer.
        let _ = send(stream, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

/// The client would take a connection that just ends for an agent that died.
fn error_of_answer(error: &FrameError) -> Error {
    let details = "an answer holds what the request brought along: make prevResult smaller";
    Error::new(Code::INTERNAL, format!("the answer of flock-agent can't be sent: {error}"), details)
}

/// What the connections of a server share.
pub(super) struct Host {
    service: Arc<dyn Service>,
    inspected: Option<Arc<dyn Inspect>>,
    limits: Limits,
    admitted: Vec<u32>,
    closing: watch::Receiver<bool>,
    requests: Arc<Semaphore>,
    work: Arc<Semaphore>,
    views: Arc<Semaphore>,
    repairs: Arc<Semaphore>,
    large_waiting: Arc<Lobby>,
    large_bytes: Semaphore,
}

/// Why there is no request to be answered.
enum Unread {
    /// The client left without a word.
    Left,
    /// What came is no request, or did not come in time.
    Refused(Error),
    /// Another one needs its room.
    Dismissed,
    /// The server ends.
    Closing,
}

impl From<FrameError> for Unread {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Truncated { received } if received < HEADER_LEN => Self::Left,
            error => Self::Refused(error.into()),
        }
    }
}

impl Host {
    pub(super) fn new(
        service: Arc<dyn Service>,
        inspected: Option<Arc<dyn Inspect>>,
        limits: Limits,
        admitted: Vec<u32>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self {
            service,
            inspected,
            limits,
            admitted,
            closing,
            requests: Arc::new(Semaphore::new(limits.requests)),
            work: Arc::new(Semaphore::new(limits.work)),
            views: Arc::new(Semaphore::new(limits.views)),
            repairs: Arc::new(Semaphore::new(1)),
            large_waiting: Lobby::new(limits.large_waiting),
            // With less the largest request could never be served.
            large_bytes: Semaphore::new(limits.large_bytes.max(MAX_LEN)),
        }
    }

    pub(super) async fn serve(self: Arc<Self>, mut stream: UnixStream, seat: Seat) {
        let (request, seat, _large) = match self.read(&mut stream, seat).await {
            Ok(read) => read,
            Err(Unread::Left | Unread::Closing) => return,
            Err(Unread::Refused(error)) => return send_off(&stream, &error.into()),
            Err(Unread::Dismissed) => {
                debug!("a client that sent no complete request made room for another one");
                return send_off(&stream, &busy("too many clients sent no complete request yet").into());
            }
        };
        let Ok(_open) = Arc::clone(&self.requests).try_acquire_owned() else {
            warn!(limit = self.limits.requests, "a request was sent away: too many are here");
            return send_off(&stream, &busy("too many requests are at work").into());
        };
        drop(seat);
        let response = match request {
            Incoming::Request(request) => self.answer(request).await,
            Incoming::Inquiry(inquiry) => self.inspect(inquiry).await,
        };
        let Some(response) = response else { return };
        let written = timeout(self.limits.write, frame::write_async(&mut stream, &response)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error @ FrameError::TooLong { .. })) => {
                warn!(%error, "an answer fits into no frame");
                send_off(&stream, &error_of_answer(&error).into());
            }
            _ => debug!("the client did not wait for its answer"),
        }
    }

    pub(super) fn admit(&self, stream: &UnixStream) -> Result<(), Error> {
        let found = match stream.peer_cred() {
            Ok(peer) if self.admitted.contains(&peer.uid()) => return Ok(()),
            Ok(peer) => format!("user {}", peer.uid()),
            Err(error) => format!("a user that can't be told ({error})"),
        };
        warn!(from = found, "refused a connection");
        Err(Error::new(
            Code::DENIED,
            format!("the request comes from {found}, expected root or the agent's own user"),
            "run flock as root, as container runtimes do",
        ))
    }

    /// A request with its place, and the right to have it in memory if it is large.
    async fn read(
        &self,
        stream: &mut UnixStream,
        seat: Seat,
    ) -> Result<(Incoming, Seat, Option<SemaphorePermit<'_>>), Unread> {
        let mut closing = self.closing.clone();
        let (json, seat) = tokio::select! {
            biased;
            read = timeout(self.limits.read, self.frame(stream, seat)) => read.unwrap_or_else(|_| {
                Err(Unread::Refused(Error::new(
                    Code::IO_FAILURE,
                    format!("no complete request came within {:?}", self.limits.read),
                    "send the whole request at once",
                )))
            })?,
            _ = closing.wait_for(|closing| *closing) => return Err(Unread::Closing),
        };
        let large = self.large(json.len())?;
        let request = Incoming::from_json(&json).map_err(|error| Unread::Refused(error.into()))?;
        Ok((request, seat, large))
    }

    /// The JSON of one frame. A client that has sent more than a little of a large one takes a
    /// place among its like: those that only announce one keep it from nothing.
    async fn frame(&self, stream: &mut UnixStream, mut seat: Seat) -> Result<(Vec<u8>, Seat), Unread> {
        let mut json = Vec::new();
        let beginning = async {
            let len = frame::read_len_async(&mut *stream).await?;
            frame::read_to_async(&mut *stream, len.min(LARGE), &mut json).await?;
            Ok(len)
        };
        let len = seated(&mut seat, beginning).await?;
        if len > LARGE {
            // It is never closed, so it always gives a place in the end.
            if let Some(among_large) = self.large_waiting.seat().await {
                seat = among_large;
            }
            seated(&mut seat, frame::read_to_async(stream, len, &mut json)).await?;
        }
        Ok((json, seat))
    }

    /// The right to have a request of `len` bytes in memory until it is answered: the answer
    /// holds what it brought along.
    fn large(&self, len: usize) -> Result<Option<SemaphorePermit<'_>>, Unread> {
        if len <= LARGE {
            return Ok(None);
        }
        let permit = u32::try_from(len).ok().and_then(|len| self.large_bytes.try_acquire_many(len).ok());
        permit.map(Some).ok_or_else(|| {
            warn!(limit = self.limits.large_bytes, len, "a large request was sent away: too many are here");
            Unread::Refused(busy("too many large requests are at work"))
        })
    }

    /// None where the server ends before it was worked on: a connection that ends without
    /// an answer tells the client that there was no agent for it.
    async fn answer(&self, mut request: Request) -> Option<Response> {
        let span = span(&request);
        let start = Instant::now();
        let work = match self.turn(&request).await? {
            Ok(work) => work,
            Err(error) => {
                span.in_scope(|| warn!(elapsed = ?start.elapsed(), code = error.code.0, %error, "failed"));
                return Some(error.into());
            }
        };
        let waited = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        request.remaining_ms = request.remaining_ms.saturating_sub(waited);
        let service = Arc::clone(&self.service);
        let work = async move {
            let response = service.call(request).await;
            match &response {
                Response::Result(_) => debug!(elapsed = ?start.elapsed(), "done"),
                Response::Error(error) => {
                    warn!(elapsed = ?start.elapsed(), code = error.code.0, %error, "failed");
                }
            }
            drop(work);
            response
        };
        Some(finished(tokio::spawn(work.instrument(span)).await))
    }

    /// None where the server ends before, as for a request.
    async fn inspect(&self, inquiry: Inquiry) -> Option<Response> {
        let Some(inspected) = self.inspected.clone() else {
            return Some(Response::Error(Error::new(
                Code::INVALID_ENVIRONMENT,
                format!("this agent does not answer {}", inquiry.as_str()),
                "look at the records and the kernel with flock-agent check --offline",
            )));
        };
        let turn = match self.turn_of_inquiry(inquiry).await? {
            Ok(turn) => turn,
            Err(error) => return Some(error.into()),
        };
        let work = async move {
            let response = inspected.inspect(inquiry).await;
            drop(turn);
            response
        };
        let span = info_span!("inquiry", verb = inquiry.as_str());
        Some(finished(tokio::spawn(work.instrument(span)).await))
    }

    /// The right to be worked on; none of either where the server ends.
    async fn turn(&self, request: &Request) -> Option<Result<OwnedSemaphorePermit, Error>> {
        let mut closing = self.closing.clone();
        let remaining = Duration::from_millis(request.remaining_ms);
        tokio::select! {
            biased;
            turn = timeout(remaining, Arc::clone(&self.work).acquire_owned()) => match turn {
                Ok(Ok(turn)) => Some(Ok(turn)),
                _ => Some(Err(busy(&format!(
                    "{} other requests were at work for all of the {} ms that this one had",
                    self.limits.work, request.remaining_ms
                )))),
            },
            _ = closing.wait_for(|closing| *closing) => None,
        }
    }

    /// The right to be answered beside the requests; none of either where the server ends.
    async fn turn_of_inquiry(&self, inquiry: Inquiry) -> Option<Result<OwnedSemaphorePermit, Error>> {
        let turns = match inquiry {
            Inquiry::View => &self.views,
            Inquiry::Repair => &self.repairs,
        };
        let mut closing = self.closing.clone();
        tokio::select! {
            biased;
            turn = timeout(self.limits.inquiry, Arc::clone(turns).acquire_owned()) => match turn {
                Ok(Ok(turn)) => Some(Ok(turn)),
                _ => Some(Err(Error::new(
                    Code::TRY_AGAIN_LATER,
                    format!(
                        "flock-agent is busy: it was answering {} for all of {:?}",
                        inquiry.as_str(), self.limits.inquiry
                    ),
                    "ask again when whoever asked before has the answer; if it stays so, look at the log of flock-agent",
                ))),
            },
            _ = closing.wait_for(|closing| *closing) => None,
        }
    }
}

/// What is read, unless the place is needed before it is there.
async fn seated<T>(
    seat: &mut Seat,
    reading: impl Future<Output = Result<T, FrameError>>,
) -> Result<T, Unread> {
    tokio::select! {
        // What is there already is read, also of who is told to go.
        biased;
        read = reading => Ok(read?),
        () = seat.dismissed() => Err(Unread::Dismissed),
    }
}

fn finished(response: Result<Response, tokio::task::JoinError>) -> Response {
    response.unwrap_or_else(|error| {
        Response::Error(Error::new(
            Code::INTERNAL,
            format!("flock-agent failed in the middle of the request: {}", excerpt::line(&error)),
            "this is a defect of flock-agent: please report it with its log",
        ))
    })
}

fn busy(why: &str) -> Error {
    Error::new(
        Code::TRY_AGAIN_LATER,
        format!("flock-agent is busy: {why}"),
        "runtimes try again by themselves; if it stays so, look at the log of flock-agent and at who connects to its socket",
    )
}

fn span(request: &Request) -> Span {
    let pod = Args::parse(&request.args).ok().and_then(|args| args.pod);
    info_span!(
        "request",
        verb = request.verb.as_str(),
        // Nothing of this was looked at yet.
        container = excerpt::line(&request.container_id).to_string(),
        ifname = excerpt::line(&request.ifname).to_string(),
        pod = pod.map(tracing::field::display),
    )
}
