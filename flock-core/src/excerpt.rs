//! How foreign text stands in a message: on one line, escaped, and no longer than people read.
//!
//! What Flock is told may be a mebibyte long and hold anything: a message that repeated it as
//! it is would write into terminals and logs on behalf of whoever sent it, and might not fit
//! into a [frame](crate::frame).
//!
//! ```
//! use flock_core::excerpt;
//!
//! assert_eq!(excerpt::quoted("eth0\n").to_string(), r#""eth0\n""#);
//! assert_eq!(excerpt::line(&"no field `a\u{1b}[2J`").to_string(), "no field `a\\u{1b}[2J`");
//! ```

use std::fmt::{self, Display, Write};

/// What of a value is shown, in characters.
const VALUE_CHARS: usize = 80;
/// What of a message is shown, in characters; a path may have some hundred.
const LINE_CHARS: usize = 400;

/// A value in quotes, with ` (cut)` behind it where that is not all of it.
pub fn quoted(value: &str) -> impl Display {
    Quoted(value)
}

/// A message by somebody else, or a path: without quotes, which it may have itself.
pub fn line<T: Display + ?Sized>(message: &T) -> impl Display {
    Line(message)
}

struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = self;
        let end = value.char_indices().nth(VALUE_CHARS).map_or(value.len(), |(end, _)| end);
        let (shown, cut) = value.split_at(end);
        write!(f, "{shown:?}{}", if cut.is_empty() { "" } else { " (cut)" })
    }
}

struct Line<'a, T: ?Sized>(&'a T);

impl<T: Display + ?Sized> Display for Line<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = Bounded { to: f, left: LINE_CHARS, cut: false };
        match write!(shown, "{}", self.0) {
            Err(_) if shown.cut => f.write_str(" (cut)"),
            written => written,
        }
    }
}

/// Writes what fits, then fails.
struct Bounded<'a, 'b> {
    to: &'a mut fmt::Formatter<'b>,
    left: usize,
    cut: bool,
}

impl Write for Bounded<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let Some(left) = self.left.checked_sub(1) else {
                self.cut = true;
                return Err(fmt::Error);
            };
            self.left = left;
            match character {
                '"' | '\'' | '\\' => self.to.write_char(character)?,
                other => write!(self.to, "{}", other.escape_debug())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_and_plain_stays_as_it_is() {
        assert_eq!(quoted("").to_string(), "\"\"");
        assert_eq!(quoted("eth0").to_string(), "\"eth0\"");
        for text in ["", "missing field `dst` at line 1 column 2", "it's \"ä\" \\n"] {
            assert_eq!(line(&text).to_string(), text);
        }
    }

    #[test]
    fn what_acts_on_a_terminal_or_looks_like_something_else_is_escaped() {
        let hostile = "a\n\r\u{1b}[2J\0\u{7f}\u{85}\u{2028}\u{202e}b";
        let escaped = "a\\n\\r\\u{1b}[2J\\0\\u{7f}\\u{85}\\u{2028}\\u{202e}b";
        assert_eq!(line(&hostile).to_string(), escaped);
        assert_eq!(quoted(hostile).to_string(), format!("\"{escaped}\""));
    }

    #[test]
    fn what_is_long_is_cut_and_says_so() {
        for (whole, at) in [("x".repeat(80), 80), ("ä".repeat(81), 80), ("x".repeat(1 << 20), 80)] {
            let cut = if whole.chars().count() > at { " (cut)" } else { "" };
            let shown: String = whole.chars().take(at).collect();
            assert_eq!(quoted(&whole).to_string(), format!("\"{shown}\"{cut}"));
        }
        assert_eq!(line(&"x".repeat(400)).to_string(), "x".repeat(400));
        assert_eq!(line(&"x".repeat(401)).to_string(), "x".repeat(400) + " (cut)");
    }

    #[test]
    fn a_message_that_fails_by_itself_is_not_taken_for_a_long_one() {
        struct Failing;
        impl Display for Failing {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                Err(fmt::Error)
            }
        }
        assert!(write!(String::new(), "{}", line(&Failing)).is_err());
    }
}
