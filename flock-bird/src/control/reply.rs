//! Replies, and how they are read from bytes.

use std::collections::VecDeque;
use std::fmt;

use flock_core::excerpt::quoted;

/// The number that begins a line. The first digit is its class: 0 success, 1 and 2 rows and
/// headings of tables, 8 an error while executing, 9 an error in the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u16);

impl Code {
    /// Done.
    pub const OK: Self = Self(0);
    /// The greeting.
    pub const WELCOME: Self = Self(1);
    /// `configure` is done.
    pub const RECONFIGURED: Self = Self(3);
    /// `configure` is taken, and protocols are still ending.
    pub const RECONFIGURATION_IN_PROGRESS: Self = Self(4);
    /// `configure` is taken and follows the one before.
    pub const RECONFIGURATION_QUEUED: Self = Self(5);
    /// `configure` is not taken, since BIRD is ending.
    pub const RECONFIGURATION_IGNORED: Self = Self(6);
    /// `configure check` has found nothing wrong.
    pub const CONFIGURATION_OK: Self = Self(20);

    /// Whether it tells of an error.
    pub fn is_error(self) -> bool {
        self.0 >= 8000
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}", self.0)
    }
}

/// One line of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number; a continuation has that of the line it continues.
    pub code: Code,
    /// What stands behind the number. What is not UTF-8 is replaced.
    pub text: String,
}

/// A complete answer: at least one line, of which the last says how it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    before: Vec<Line>,
    last: Line,
}

impl Reply {
    /// All lines in order.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.before.iter().chain(std::iter::once(&self.last))
    }

    /// The number of the last line.
    pub fn code(&self) -> Code {
        self.last.code
    }

    /// The text of the last line.
    pub fn text(&self) -> &str {
        &self.last.text
    }

    /// Whether BIRD did what it was asked.
    pub fn is_success(&self) -> bool {
        !self.code().is_error()
    }
}

/// How much is read before it counts as a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of one line, in bytes without its end.
    pub line: usize,
    /// Of one reply, in bytes.
    pub reply: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { line: 16 << 10, reply: 16 << 20 }
    }
}

/// What is wrong with bytes that should be replies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A line that begins with none of what a line can begin with.
    #[error("found the line {}, expected four digits and '-' or a space, or a leading space or '+'", quoted(.0))]
    Malformed(String),
    /// A continuation with nothing before it.
    #[error("found the continuation {} before any numbered line", quoted(.0))]
    Orphan(String),
    /// A line beyond its limit.
    #[error("a line is longer than {0} bytes")]
    LineTooLong(usize),
    /// A reply beyond its limit.
    #[error("a reply is longer than {0} bytes")]
    ReplyTooLong(usize),
    /// The first reply is not the greeting.
    #[error("found {}, expected the greeting 0001", quoted(.0))]
    Greeting(String),
}

/// Reads replies from bytes that arrive in pieces.
///
/// It does no I/O and never panics, whatever it is given. The replies do not depend on where
/// the pieces were cut. After the first error nothing more is read, since the beginning of
/// the next reply can't be known.
#[derive(Debug, Default)]
pub struct ReplyParser {
    limits: Limits,
    line: Vec<u8>,
    pending: Vec<Line>,
    size: usize,
    replies: VecDeque<Reply>,
    error: Option<ReplyError>,
}

impl ReplyParser {
    /// A parser with the default limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// A parser with `limits`.
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.error.is_some() {
                return;
            }
            if let Err(error) = self.push_byte(*byte) {
                self.error = Some(error);
            }
        }
    }

    /// The next reply that is complete, or the error that ended reading; nothing while more
    /// bytes are needed.
    pub fn next_reply(&mut self) -> Option<Result<Reply, ReplyError>> {
        match self.replies.pop_front() {
            Some(reply) => Some(Ok(reply)),
            None => self.error.clone().map(Err),
        }
    }

    fn push_byte(&mut self, byte: u8) -> Result<(), ReplyError> {
        self.size += 1;
        if self.size > self.limits.reply {
            return Err(ReplyError::ReplyTooLong(self.limits.reply));
        }
        if byte == b'\n' {
            return self.end_line();
        }
        if self.line.len() >= self.limits.line {
            return Err(ReplyError::LineTooLong(self.limits.line));
        }
        self.line.push(byte);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), ReplyError> {
        let line = std::mem::take(&mut self.line);
        match line.as_slice() {
            [b'+', ..] => Ok(()),
            [b' ', text @ ..] => match self.pending.last().map(|line| line.code) {
                Some(code) => {
                    self.pending.push(Line { code, text: text_of(text) });
                    Ok(())
                }
                None => Err(ReplyError::Orphan(text_of(text))),
            },
            [a, b, c, d, mark @ (b'-' | b' '), text @ ..] => {
                let Some(code) = number([*a, *b, *c, *d]) else {
                    return Err(ReplyError::Malformed(text_of(&line)));
                };
                let line = Line { code: Code(code), text: text_of(text) };
                if *mark == b'-' {
                    self.pending.push(line);
                } else {
                    self.replies.push_back(Reply { before: std::mem::take(&mut self.pending), last: line });
                    self.size = 0;
                }
                Ok(())
            }
            other => Err(ReplyError::Malformed(text_of(other))),
        }
    }
}

fn number(digits: [u8; 4]) -> Option<u16> {
    digits
        .iter()
        .try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u16::from(digit - b'0')))
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that comes out of `pieces`.
    fn read<'a>(
        limits: Limits,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<Reply>, Option<ReplyError>) {
        let mut parser = ReplyParser::with_limits(limits);
        let mut replies = Vec::new();
        for piece in pieces {
            parser.push(piece);
            while let Some(next) = parser.next_reply() {
                match next {
                    Ok(reply) => replies.push(reply),
                    Err(error) => return (replies, Some(error)),
                }
            }
        }
        (replies, None)
    }

    fn read_text(text: &str) -> (Vec<Reply>, Option<ReplyError>) {
        read(Limits::default(), [text.as_bytes()])
    }

    fn line(code: u16, text: &str) -> Line {
        Line { code: Code(code), text: text.to_owned() }
    }

    #[test]
    fn a_refusal_ends_with_the_line_that_says_why() {
        let (replies, error) = read_text(
            "0001 BIRD 2.0.12 ready.\n0002-Reading configuration from /x\n8002 /x:3:7 syntax error\n",
        );
        assert_eq!(error, None);
        assert_eq!(replies.len(), 2);
        assert!(replies[0].is_success() && replies[0].code() == Code::WELCOME);
        assert!(!replies[1].is_success());
        assert_eq!(replies[1].text(), "/x:3:7 syntax error");
        assert_eq!(replies[1].lines().count(), 2);
    }

    #[test]
    fn continuations_belong_to_the_number_before_and_spontaneous_lines_to_nothing() {
        let (replies, error) =
            read_text("1006-State\n+ device1 < interface up\n  Since:\n \n1002-b\n  x\n0000 \n");
        assert_eq!(error, None);
        assert_eq!(
            replies[0].lines().cloned().collect::<Vec<_>>(),
            [
                line(1006, "State"),
                line(1006, " Since:"),
                line(1006, ""),
                line(1002, "b"),
                line(1002, " x"),
                line(0, "")
            ]
        );
    }

    #[test]
    fn what_is_not_a_reply_is_an_error_with_what_was_found() {
        for (text, expected) in [
            ("HTTP/1.1 400\n", ReplyError::Malformed("HTTP/1.1 400".to_owned())),
            ("\n", ReplyError::Malformed(String::new())),
            ("00x1 a\n", ReplyError::Malformed("00x1 a".to_owned())),
            ("0001\n", ReplyError::Malformed("0001".to_owned())),
            (" a\n", ReplyError::Orphan("a".to_owned())),
            ("0000 \n a\n", ReplyError::Orphan("a".to_owned())),
        ] {
            assert_eq!(read_text(text).1, Some(expected), "{text:?}");
        }
    }

    #[test]
    fn lines_and_replies_are_bounded() {
        let limits = Limits { line: 8, reply: 20 };
        assert_eq!(read(limits, [b"0000 abc\n".as_slice()]).1, None);
        assert_eq!(read(limits, [b"0000 abcd".as_slice()]).1, Some(ReplyError::LineTooLong(8)));
        assert_eq!(
            read(limits, [b"0000-ab\n0000-ab\n0000 ".as_slice()]).1,
            Some(ReplyError::ReplyTooLong(20))
        );
        let (replies, error) = read(limits, [b"0000 ab\n0000 ab\n0000 ab\n".as_slice()]);
        assert_eq!((replies.len(), error), (3, None), "the limit is that of one reply");
    }

    /// Bytes that are often nearly a reply.
    fn wild() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => "[0-9]{4}[- ][a-z]{0,6}\n".prop_map(String::into_bytes),
            1 => "[ +][a-z]{0,6}\n".prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 0..12),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn never_panics_and_does_not_care_how_bytes_are_cut(
            bytes in wild(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
            line in 0_usize..64,
            reply in 0_usize..128,
        ) {
            let limits = Limits { line, reply };
            let whole = read(limits, [bytes.as_slice()]);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            let mut at = 0;
            for cut in cuts {
                let (piece, behind) = rest.split_at(cut - at);
                (rest, at) = (behind, cut);
                pieces.push(piece);
            }
            pieces.push(rest);
            prop_assert_eq!(&read(limits, pieces), &whole);
            prop_assert_eq!(read(limits, bytes.chunks(1)), whole);
        }

        #[test]
        fn what_is_written_is_read(lines in proptest::collection::vec((0_u16..10_000, "[ -~]{0,20}"), 1..10)) {
            let mut text = String::new();
            for (index, (code, words)) in lines.iter().enumerate() {
                let mark = if index + 1 == lines.len() { " " } else { "-" };
                text.extend([&Code(*code).to_string(), mark, words, "\n"]);
            }
            let (replies, error) = read_text(&text);
            prop_assert_eq!(error, None);
            prop_assert_eq!(replies.len(), 1);
            let read: Vec<_> = replies[0].lines().map(|line| (line.code.0, line.text.clone())).collect();
            prop_assert_eq!(read, lines);
        }
    }
}
