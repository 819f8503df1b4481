//! The log: one event, one line, whatever stands in it.
//!
//! Messages quote what runtimes, pods and BIRD said. A line break in there would look like
//! another event, and an escape sequence could do anything with the terminal of whoever
//! reads the log; so control characters are written as Rust would write them.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// Writes events to `inner`, each as one line.
#[derive(Debug, Clone)]
pub struct Lines<M> {
    inner: M,
    /// Whether the formatter writes colours, which then pass: those of a message too, since
    /// the two can't be told from each other here.
    colours: bool,
}

impl<M> Lines<M> {
    /// For a formatter that writes an event at once and, with `colours`, for a terminal.
    pub fn new(inner: M, colours: bool) -> Self {
        Self { inner, colours }
    }
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Lines<M> {
    type Writer = Line<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { inner: self.inner.make_writer(), colours: self.colours }
    }
}

/// Writes one event.
#[derive(Debug)]
pub struct Line<W> {
    inner: W,
    colours: bool,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (text, end) = match text.strip_suffix('\n') {
            Some(text) => (text, "\n"),
            None => (&*text, ""),
        };
        let mut line = String::with_capacity(text.len() + end.len());
        for (at, letter) in text.char_indices() {
            if is_dangerous(letter) && !(self.colours && is_colour(&text[at..])) {
                line.extend(letter.escape_default());
            } else {
                line.push(letter);
            }
        }
        line.push_str(end);
        self.inner.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Control characters, and those that some readers take for an end of line or that turn the
/// direction of what follows.
fn is_dangerous(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether the text begins with a sequence that sets how letters look, and nothing else.
fn is_colour(text: &str) -> bool {
    let parameters = text.strip_prefix("\u{1b}[");
    parameters.is_some_and(|rest| {
        rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged, in all the ways in which it is.
    fn logged(json: bool, colours: bool, hostile: &str) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = Lines::new(move || writer.clone(), colours);
        let subscriber = tracing_subscriber::fmt().with_writer(lines);
        let log = || {
            let span = tracing::info_span!("request", container = hostile, pod = %hostile);
            let _inside = span.enter();
            tracing::info!(error = %hostile, detail = ?hostile, "it said {hostile}");
        };
        if json {
            tracing::subscriber::with_default(subscriber.json().flatten_event(true).finish(), log);
        } else {
            tracing::subscriber::with_default(subscriber.with_ansi(colours).finish(), log);
        }
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    const HOSTILE: &str = "a\nINFO all is well\r\u{1b}[2J\u{9b}1m\u{2028}\u{202e}\u{7}\0z";

    #[test]
    fn an_event_is_a_line_whatever_stands_in_it() {
        for json in [false, true] {
            let text = logged(json, false, HOSTILE);
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(text.ends_with('\n'), "{text:?}");
            assert!(!text.trim_end_matches('\n').contains(is_dangerous), "{text:?}");
        }
        assert!(logged(false, false, HOSTILE).contains(r"it said a\nINFO all is well\r"));
        assert!(logged(false, false, "Zürich 東京").contains("it said Zürich 東京"));
    }

    #[test]
    fn with_colours_nothing_but_colours_passes() {
        let text = logged(false, true, HOSTILE);
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(text.contains("\u{1b}["), "no colours: {text:?}");
        for (at, _) in text.match_indices('\u{1b}') {
            assert!(is_colour(&text[at..]), "{text:?}");
        }
        assert!(!text.trim_end_matches('\n').contains(|c| c != '\u{1b}' && is_dangerous(c)), "{text:?}");
    }
}
