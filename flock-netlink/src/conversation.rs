//! One netlink socket and the way we talk over it: many requests in one
//! datagram, one acknowledgement for all of them.
//!
//! The kernel works off a datagram of requests in order, inside `sendmsg`, and
//! answers each error at once. So only the last request of a datagram asks for
//! an acknowledgement: when that arrives, every earlier error has arrived too.

use std::fmt;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL,
    NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;

/// A reply to `RTM_GETLINK` takes some kilobytes of the socket's receive
/// buffer; this many fit into the smallest default with room to spare.
const REQUESTS_PER_DATAGRAM: usize = 16;

/// Far more than the kernel puts into one datagram of a dump (32 KiB).
const RECEIVE_BUFFER: usize = 64 * 1024;

/// A dump that others' changes interrupt again and again is taken as it is after this many.
const DUMP_ATTEMPTS: usize = 4;

/// A socket of one network namespace.
pub(crate) struct Conversation {
    socket: Socket,
    /// The socket's number, by which the kernel says who asked for a change.
    port: u32,
    sequence: u32,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

/// One thing to ask of the kernel.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) message: RouteNetlinkMessage,
    flags: u16,
}

/// The kernel's refusal of one request.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// A positive errno.
    pub(crate) code: i32,
    /// The extended acknowledgement's text, where the kernel gives one.
    text: Option<String>,
}

/// What came back for each request: nothing for a change, a message for a question.
pub(crate) type Answer = Result<Option<RouteNetlinkMessage>, Refusal>;

impl Request {
    /// Makes what is not there, and fails on what is.
    pub(crate) fn create(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: NLM_F_CREATE | NLM_F_EXCL }
    }

    /// Makes what is not there, and adjusts what is.
    pub(crate) fn replace(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: NLM_F_CREATE | NLM_F_REPLACE }
    }

    /// Changes, removes or asks for what is there.
    pub(crate) fn plain(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: 0 }
    }
}

impl Conversation {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without these two everything works as well, with poorer messages and larger errors.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        // Filters of dumps by protocol or interface are only obeyed in strict mode (Linux 4.20).
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self {
            socket,
            port,
            sequence: 0,
            outgoing: Vec::with_capacity(4096),
            incoming: Vec::with_capacity(RECEIVE_BUFFER),
        })
    }

    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends all requests and gives all answers, in the same order. Later
    /// requests are carried out even if earlier ones are refused.
    pub(crate) fn ask(&mut self, requests: &[Request]) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(requests.len());
        for datagram in requests.chunks(REQUESTS_PER_DATAGRAM) {
            self.ask_at_once(datagram, &mut answers)?;
        }
        Ok(answers)
    }

    /// What `keep` takes of every object of the kind that `message` asks for.
    ///
    /// Each is looked at as it comes: a link's message is ten times what is kept of it, and
    /// a busy node has a thousand.
    pub(crate) fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        mut keep: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut attempt = 1;
        loop {
            let (found, interrupted) = self.dump_once(message, &mut keep)?;
            if !interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(found);
            }
            attempt += 1;
        }
    }

    fn ask_at_once(&mut self, requests: &[Request], answers: &mut Vec<Answer>) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        self.outgoing.clear();
        for (index, request) in requests.iter().enumerate() {
            let acknowledge = if index + 1 == requests.len() { NLM_F_ACK } else { 0 };
            self.append(&request.message, request.flags | acknowledge);
        }
        self.socket.send(&self.outgoing, 0)?;

        let base = answers.len();
        answers.extend(requests.iter().map(|_| Ok(None)));
        let last = self.sequence;
        loop {
            let done = self.receive(|header, payload| {
                let offset = header.sequence_number.wrapping_sub(first) as usize;
                let Some(answer) = answers.get_mut(base + offset) else { return false };
                match payload {
                    NetlinkPayload::InnerMessage(message) => {
                        *answer = Ok(Some(message));
                        false
                    }
                    NetlinkPayload::Error(error) => {
                        if error.code.is_some() {
                            *answer = Err(Refusal::read(header.flags, error.raw_code(), &error.header));
                        }
                        header.sequence_number == last
                    }
                    _ => false,
                }
            })?;
            if done {
                return Ok(());
            }
        }
    }

    fn dump_once<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        keep: &mut impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<(Vec<T>, bool)> {
        self.outgoing.clear();
        self.append(message, NLM_F_DUMP);
        self.socket.send(&self.outgoing, 0)?;
        let expected = self.sequence;
        let (mut found, mut interrupted, mut refused) = (Vec::new(), false, None);
        loop {
            let done = self.receive(|header, payload| {
                if header.sequence_number != expected {
                    return false;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match payload {
                    NetlinkPayload::InnerMessage(message) => {
                        found.extend(keep(message));
                        false
                    }
                    NetlinkPayload::Error(error) => {
                        refused = Some(error.to_io());
                        true
                    }
                    NetlinkPayload::Done(_) => true,
                    _ => false,
                }
            })?;
            if let Some(error) = refused {
                return Err(error);
            }
            if done {
                return Ok((found, interrupted));
            }
        }
    }

    fn append(&mut self, message: &RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut framed = NetlinkMessage::new(header, NetlinkPayload::from(message.clone()));
        framed.finalize();
        let start = self.outgoing.len();
        let length = framed.buffer_len().next_multiple_of(4);
        self.outgoing.resize(start + length, 0);
        if let Some(space) = self.outgoing.get_mut(start..) {
            framed.serialize(space);
        }
    }

    /// Reads one datagram; true when `see` said so of a message in it.
    fn receive(
        &mut self,
        mut see: impl FnMut(NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>) -> bool,
    ) -> io::Result<bool> {
        self.incoming.clear();
        self.socket.recv(&mut self.incoming, 0)?;
        let mut rest = self.incoming.as_slice();
        let mut done = false;
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let length = (message.header.length as usize).next_multiple_of(4).max(4);
            let (header, payload) = message.into_parts();
            done |= see(header, payload);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(done)
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// Attribute of an extended acknowledgement: a text (`NLMSGERR_ATTR_MSG`).
const EXTENDED_ACK_TEXT: u16 = 1;

/// `struct nlmsghdr`, in bytes.
const NETLINK_HEADER: usize = 16;

impl Refusal {
    pub(crate) fn is(&self, code: Errno) -> bool {
        self.code == code.raw_os_error()
    }

    /// Reads the error's payload: the request's header, the request itself
    /// unless it was cut off, then attributes.
    fn read(flags: u16, code: i32, payload: &[u8]) -> Self {
        Self { code: code.saturating_abs(), text: extended_text(flags, payload) }
    }
}

fn extended_text(flags: u16, payload: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = if flags & NLM_F_CAPPED == 0 {
        u32::from_ne_bytes(payload.get(..4)?.try_into().ok()?) as usize
    } else {
        NETLINK_HEADER
    };
    let mut rest = payload.get(request.next_multiple_of(4)..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        if kind & 0x3fff == EXTENDED_ACK_TEXT {
            let text = String::from_utf8_lossy(rest.get(4..length)?);
            return Some(text.trim_end_matches('\0').to_owned());
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        let plain = io::Error::from_raw_os_error(refusal.code);
        match refusal.text {
            None => plain,
            Some(text) => io::Error::new(plain.kind(), format!("{plain}: {text}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout of a capped extended acknowledgement (netlink(7),
    /// NETLINK_EXT_ACK): the request's header, then attributes.
    #[test]
    fn the_kernels_own_words_are_read() {
        let mut payload = vec![0; NETLINK_HEADER];
        for (kind, value) in [(2_u16, &[7_u8, 0, 0, 0][..]), (EXTENDED_ACK_TEXT, &b"No such thing\0"[..])] {
            payload.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            payload.extend(kind.to_ne_bytes());
            payload.extend(value);
            payload.resize(payload.len().next_multiple_of(4), 0);
        }
        let flags = NLM_F_CAPPED | NLM_F_ACK_TLVS;
        let error = io::Error::from(Refusal::read(flags, -2, &payload));
        assert_eq!(error.to_string(), "No such file or directory (os error 2): No such thing");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        for cut in 0..payload.len() {
            let _ = Refusal::read(flags, -2, &payload[..cut]);
        }
        assert_eq!(Refusal::read(0, -2, &payload).text, None);
    }
}
