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
        let mut dump = Dump::default();
        while !self.receive(|header, payload| {
            header.sequence_number == expected && dump.see(header, payload, keep)
        })? {}
        match dump.refusal {
            None => Ok((dump.found, dump.interrupted)),
            // The question was about one interface, which is gone, or about one table of routes,
            // which the kernel has not made yet: there is nothing in it.
            Some(refusal) if refusal.is(Errno::NODEV) || refusal.is(Errno::NOENT) => Ok((Vec::new(), false)),
            Some(refusal) => Err(refusal.into()),
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
        see: impl FnMut(NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>) -> bool,
    ) -> io::Result<bool> {
        self.incoming.clear();
        self.socket.recv(&mut self.incoming, 0)?;
        read(&self.incoming, see)
    }
}

/// Reads the messages of one datagram; true when `see` said so of one of them.
fn read(
    datagram: &[u8],
    mut see: impl FnMut(NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>) -> bool,
) -> io::Result<bool> {
    let (mut rest, mut done) = (datagram, false);
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

/// What a dump has come to so far.
struct Dump<T> {
    found: Vec<T>,
    /// Others have changed something meanwhile, so that some of it may be missing.
    interrupted: bool,
    /// Where the kernel could not go on, what was found is not all.
    refusal: Option<Refusal>,
}

impl<T> Default for Dump<T> {
    fn default() -> Self {
        Self { found: Vec::new(), interrupted: false, refusal: None }
    }
}

impl<T> Dump<T> {
    /// True with the last message.
    fn see(
        &mut self,
        header: NetlinkHeader,
        payload: NetlinkPayload<RouteNetlinkMessage>,
        keep: &mut impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> bool {
        self.interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
        match payload {
            NetlinkPayload::InnerMessage(message) => {
                self.found.extend(keep(message));
                return false;
            }
            NetlinkPayload::Error(error) => {
                self.refusal = Some(Refusal::read(header.flags, error.raw_code(), &error.header));
            }
            // What goes wrong once a dump has begun is said at its end.
            NetlinkPayload::Done(done) if done.code < 0 => {
                self.refusal = Some(Refusal::at_end(header.flags, done.code, &done.extended_ack));
            }
            NetlinkPayload::Done(_) => {}
            _ => return false,
        }
        true
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
        let request = request_length(flags, payload);
        let attributes = request.and_then(|length| payload.get(length.next_multiple_of(4)..));
        Self::at_end(flags, code, attributes.unwrap_or_default())
    }

    /// Reads the end of a dump: after the code, attributes.
    fn at_end(flags: u16, code: i32, attributes: &[u8]) -> Self {
        let has_attributes = flags & NLM_F_ACK_TLVS != 0;
        let text = has_attributes.then(|| extended_text(attributes)).flatten();
        Self { code: code.saturating_abs(), text }
    }
}

fn request_length(flags: u16, payload: &[u8]) -> Option<usize> {
    if flags & NLM_F_CAPPED != 0 {
        return Some(NETLINK_HEADER);
    }
    Some(u32::from_ne_bytes(payload.get(..4)?.try_into().ok()?) as usize)
}

fn extended_text(attributes: &[u8]) -> Option<String> {
    let mut rest = attributes;
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
    use netlink_packet_route::AddressFamily;

    use super::*;
    use crate::messages;

    /// The layout of a capped extended acknowledgement (netlink(7),
    /// NETLINK_EXT_ACK): the request's header, then attributes.
    #[test]
    fn the_kernels_own_words_are_read() {
        let mut payload = vec![0; NETLINK_HEADER];
        payload.extend(attributes());
        let flags = NLM_F_CAPPED | NLM_F_ACK_TLVS;
        let error = io::Error::from(Refusal::read(flags, -2, &payload));
        assert_eq!(error.to_string(), "No such file or directory (os error 2): No such thing");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        for cut in 0..payload.len() {
            let _ = Refusal::read(flags, -2, &payload[..cut]);
        }
        assert_eq!(Refusal::read(0, -2, &payload).text, None);
    }

    fn attributes() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, value) in [(2_u16, &[7_u8, 0, 0, 0][..]), (EXTENDED_ACK_TEXT, &b"No such thing\0"[..])] {
            bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    /// `struct nlmsghdr` and what follows it.
    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(NETLINK_HEADER + payload.len()).unwrap();
        let (sequence, port) = (1_u32, 0_u32);
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(port.to_ne_bytes());
        bytes.extend(payload);
        bytes
    }

    /// What becomes of a dump of one link with this end.
    fn dump_with_end(end: &[u8]) -> Dump<RouteNetlinkMessage> {
        // RTM_NEWLINK with an empty `struct ifinfomsg`.
        let datagram = [message(16, 0, &[0; 16]), end.to_vec()].concat();
        let mut dump = Dump::default();
        assert!(read(&datagram, |header, payload| dump.see(header, payload, &mut Some)).unwrap());
        assert_eq!(dump.found.len(), 1);
        dump
    }

    /// NLMSG_DONE, whose payload is the dump's result (`netlink_dump_done` of the kernel).
    #[test]
    fn an_error_at_the_end_of_a_dump_is_one() {
        const DONE: u16 = 3;
        for end in [message(DONE, 0, &[]), message(DONE, 0, &0_i32.to_ne_bytes())] {
            assert!(dump_with_end(&end).refusal.is_none());
        }
        let code = -Errno::NOMEM.raw_os_error();
        let refusal = dump_with_end(&message(DONE, 0, &code.to_ne_bytes())).refusal.unwrap();
        assert!(refusal.is(Errno::NOMEM));
        assert_eq!(io::Error::from(refusal).kind(), io::ErrorKind::OutOfMemory);

        let payload = [code.to_ne_bytes().to_vec(), attributes()].concat();
        let refusal = dump_with_end(&message(DONE, NLM_F_ACK_TLVS, &payload)).refusal.unwrap();
        assert!(refusal.is(Errno::NOMEM));
        assert!(io::Error::from(refusal).to_string().ends_with(": No such thing"));
    }

    /// The kernel says of such a dump that there is no such device.
    #[test]
    fn nothing_is_on_an_interface_that_is_gone() {
        let gone = u32::MAX >> 1;
        let mut conversation = Conversation::open().unwrap();
        for family in [AddressFamily::Inet6, AddressFamily::Inet] {
            for question in [messages::addresses(family, gone), messages::neighbours(family, Some(gone))] {
                assert_eq!(conversation.dump(&question, Some).unwrap(), [], "{question:?}");
            }
        }
    }
}
