//! Lines that are indented below what they belong to, and words in columns.

/// Where one is in a text whose lines are indented below their headings.
#[derive(Debug, Default)]
pub(super) struct Outline<'a> {
    /// The last line and those that it stands below of, outermost first.
    lines: Vec<&'a str>,
    /// How far each of them is indented, in bytes.
    indents: Vec<usize>,
}

impl<'a> Outline<'a> {
    /// Takes the next line: those that it stands below of, outermost first, and its text. `None`
    /// if it is empty.
    pub(super) fn place(&mut self, line: &'a str) -> Option<(&[&'a str], &'a str)> {
        let text = line.trim();
        if text.is_empty() {
            return None;
        }
        let indent = line.len() - line.trim_start().len();
        while self.indents.pop_if(|above| *above >= indent).is_some() {}
        self.lines.truncate(self.indents.len());
        self.indents.push(indent);
        self.lines.push(text);
        let (text, above) = self.lines.split_last()?;
        Some((above, text))
    }
}

/// The first words of a line, and what follows them without the spaces between.
pub(super) fn words<const N: usize>(line: &str) -> Option<([&str; N], &str)> {
    let mut words = [""; N];
    let mut rest = line;
    for word in &mut words {
        let (first, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if first.is_empty() {
            return None;
        }
        *word = first;
        rest = behind.trim_start();
    }
    Some((words, rest))
}

/// What stands before and behind the first colon.
pub(super) fn entry(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once(':')?;
    Some((key.trim(), value.trim()))
}
