//! Replies of BIRD's control socket, in pieces, and what is made of them.
//!
//! The first byte says how long the pieces are, the second how long a line and a reply may be;
//! the rest is what BIRD says.

use std::path::Path;

use flock_bird::control::{Limits, Reply, ReplyError, ReplyParser};
use flock_bird::{table, verdict};
use flock_core::announcer::AnnounceError;

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
        verdicts(reply);
        table(reply);
    }
    // A byte that is not UTF-8 is replaced by three.
    assert!(size <= 3 * said.len(), "more came out than went in");
    if size < Limits::default().line {
        let written: String = replies.iter().map(written).collect();
        assert_eq!(read(Limits::default(), [written.as_bytes()]), (replies, None), "{written}");
    }
}

/// Taken, refused in BIRD's own words, or neither; never more than one of them.
fn verdicts(reply: &Reply) {
    let socket = Path::new("/run/flock/bird.ctl");
    for (verdict, taken) in
        [(verdict::of_check(reply, ""), 20..=20), (verdict::of_configure(reply, "", socket), 3..=5)]
    {
        assert_eq!(verdict.is_ok(), taken.contains(&reply.code().0), "{reply:?}: {verdict:?}");
        if let Err(error) = verdict {
            assert_readable(&error);
            assert_eq!(matches!(error, AnnounceError::Refused { .. }), !reply.is_success(), "{error}");
        }
    }
}

/// Of each row no more than one, and nothing that is not in it.
fn table(reply: &Reply) {
    let rows = |code| reply.lines().filter(move |line| line.code.0 == code);
    let prefixes = table::prefixes(reply);
    assert!(prefixes.len() <= rows(1007).count(), "{reply:?}");
    for peer in table::peers(reply) {
        let protocol = format!("peer_{peer}");
        assert!(
            rows(1002).any(|row| row.text.split_whitespace().next() == Some(&protocol)),
            "{peer:?}: {reply:?}"
        );
        assert!(peer.len() <= 32 && peer.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{peer:?}");
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
