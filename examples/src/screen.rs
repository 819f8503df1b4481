//! What a person sees of the demo and of the end-to-end test: steps with their times, headings, tables.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Prints, with colours and a line for the step in progress only on a terminal.
#[derive(Debug)]
pub struct Screen {
    out: io::Stdout,
    terminal: bool,
    colour: bool,
}

impl Screen {
    /// Whether what is printed goes to a terminal in the end.
    pub fn new(terminal: bool) -> Self {
        Self { out: io::stdout(), terminal, colour: terminal && std::env::var_os("NO_COLOR").is_none() }
    }

    /// Prints a line.
    pub fn line(&self, text: impl Display) {
        // A reader that has gone does not stop the demo.
        writeln!(self.out.lock(), "{text}").ok();
    }

    /// Prints an empty line and a heading.
    pub fn heading(&self, text: &str) {
        self.line("");
        self.line(self.painted("1", text));
    }

    /// Runs one step, and says what came of it and how long it took.
    pub fn step<T, E>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<(T, String), E>,
    ) -> Result<T, Failure<E>> {
        if self.terminal {
            write!(self.out.lock(), "  … {name}").and_then(|()| self.out.lock().flush()).ok();
        }
        let start = Instant::now();
        let result = work();
        if self.terminal {
            write!(self.out.lock(), "\r\x1b[K").ok();
        }
        match result {
            Ok((value, outcome)) => {
                let time = seconds(start.elapsed());
                self.line(format!("  {} {outcome:<66} {time:>7}", self.painted("32", "✓")));
                Ok(value)
            }
            Err(error) => Err(Failure { step: name.to_owned(), error }),
        }
    }

    /// Says which step failed, and why.
    pub fn failure<E: Display>(&self, failure: &Failure<E>) {
        self.line(format!("  {} {}: {}", self.painted("31", "✗"), failure.step, failure.error));
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The step that failed, and why.
#[derive(Debug)]
pub struct Failure<E> {
    /// What was tried.
    pub step: String,
    /// What came of it.
    pub error: E,
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Milliseconds with two digits after the point, as tables show round-trip times.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1000.0)
}

/// Aligns the columns of `rows`; columns from `right` on are aligned to the right.
pub fn columns(rows: &[Vec<String>], right: usize) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell: &String| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column < right { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
        })
        .collect()
}
