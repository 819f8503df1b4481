//! Replies of BIRD's control socket, in pieces.
//!
//! The first byte says how long the pieces are, the second how long a line and a reply may be;
//! the rest is what BIRD says.

use flock_bird::control::{Limits, Reply, ReplyError, ReplyParser};

use crate::message::assert_readable;

/// Reads `data` as the lengths of pieces and lines, and what comes in them.
pub fn check(data: &[u8]) {
    let [piece, line, said @ ..] = data else { return };
    let limits = match usize::from(*line) {
        0 => Limits::default(),
        line => Limits { line, reply: 4 * line },
    };
    let (replies, error) = read(limits, [said]);
    let in_pieces = read(limits, said.chunks(usize::from(*piece).max(1)));
    assert_eq!((&in_pieces.0, &in_pieces.1), (&replies, &error), "it matters how it is cut");
    if let Some(error) = &error {
        assert_readable(error);
    }
    let mut size = 0;
    for reply in &replies {
        for line in reply.lines() {
            assert!(line.code.0 <= 9999 && !line.text.contains('\n'), "{line:?}");
            size += line.text.len();
        }
        assert_eq!(reply.lines().last().map(|line| line.code), Some(reply.code()));
        assert_eq!(reply.is_success(), reply.code().0 < 8000);
    }
    // A byte that is not UTF-8 is replaced by three.
    assert!(size <= 3 * said.len(), "more came out than went in");
    if size < Limits::default().line {
        let written: String = replies.iter().map(written).collect();
        assert_eq!(read(Limits::default(), [written.as_bytes()]), (replies, None), "{written}");
    }
}

fn read<'a>(limits: Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Reply>, Option<ReplyError>) {
    let mut parser = ReplyParser::with_limits(limits);
    let mut replies = Vec::new();
    for piece in pieces {
        parser.push(piece);
        while let Some(next) = parser.next_reply() {
            match next {
                Ok(reply) => replies.push(reply),
                Err(error) => {
                    assert_eq!(parser.next_reply(), Some(Err(error.clone())), "it reads on after an error");
                    return (replies, Some(error));
                }
            }
        }
    }
    (replies, None)
}

/// As BIRD writes it.
fn written(reply: &Reply) -> String {
    let count = reply.lines().count();
    let line = |(index, line): (usize, &flock_bird::control::Line)| {
        let mark = if index + 1 == count { ' ' } else { '-' };
        format!("{}{mark}{}\n", line.code, line.text)
    };
    reply.lines().enumerate().map(line).collect()
}
