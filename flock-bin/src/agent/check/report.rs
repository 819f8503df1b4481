//! What came of it, for people and for programs.

use std::fmt;

use flock_core::inspection::{Difference, Remedy};
use serde_json::{Value, json};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How many attachments have a record.
    pub attachments: usize,
    /// What does not agree.
    pub differences: Vec<Difference>,
    /// What a person should know and what is not wrong.
    pub notes: Vec<String>,
    /// What did not agree before the repair, and does now.
    pub mended: Vec<Difference>,
}

impl Report {
    /// This one after a repair of what was found `before`.
    pub(super) fn after(mut self, before: Vec<Difference>) -> Self {
        let is_left = |seen: &Difference| self.differences.iter().any(|left| left.is_same(seen));
        self.mended = before.into_iter().filter(|seen| !is_left(seen)).collect();
        self
    }

    /// Whether everything agrees.
    pub fn agrees(&self) -> bool {
        self.differences.is_empty()
    }

    /// For programs: one object.
    pub fn to_json(&self) -> Value {
        let list = |all: &[Difference]| all.iter().map(object).collect::<Vec<Value>>();
        json!({
            "attachments": self.attachments,
            "differences": list(&self.differences),
            "mended": list(&self.mended),
            "notes": self.notes,
        })
    }
}

fn object(difference: &Difference) -> Value {
    json!({
        "subject": difference.subject,
        "found": difference.details(),
        "remedy": difference.remedy.to_string(),
        "repairable": difference.remedy == Remedy::Repair,
    })
}

/// For people: a line for each difference, and a last one that says how many there are.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for mended in &self.mended {
            writeln!(f, "mended: {}: {}", mended.subject, mended.details())?;
        }
        for difference in &self.differences {
            writeln!(f, "{difference}")?;
        }
        let attachments = counted(self.attachments, "attachment");
        match self.differences.len() {
            0 => writeln!(f, "{attachments}, everything agrees"),
            count => writeln!(f, "{attachments}, {}", counted(count, "difference")),
        }
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(subject: &str, remedy: Remedy) -> Difference {
        let (subject, found) = (subject.to_owned(), "something is missing".to_owned());
        Difference { subject, found, so_far: None, remedy }
    }

    #[test]
    fn the_last_line_counts() {
        let agrees =
            Report { attachments: 12, differences: Vec::new(), notes: Vec::new(), mended: Vec::new() };
        assert_eq!(agrees.to_string(), "12 attachments, everything agrees\n");
        assert!(agrees.agrees());
        let by_hand = Remedy::ByHand("start BIRD".to_owned());
        let before = vec![difference("node", Remedy::Repair), difference("BIRD", by_hand.clone())];
        let left = Report { attachments: 1, differences: vec![difference("BIRD", by_hand)], ..agrees };
        let report = Report { notes: vec!["a file".to_owned()], ..left.after(before) };
        assert_eq!(
            report.to_string(),
            "note: a file\n\
             mended: node: something is missing\n\
             BIRD: something is missing; to mend it: start BIRD\n\
             1 attachment, 1 difference\n"
        );
        assert!(!report.agrees());
        assert_eq!(
            report.to_json(),
            json!({
                "attachments": 1,
                "differences": [{
                    "subject": "BIRD", "found": "something is missing", "remedy": "start BIRD", "repairable": false
                }],
                "mended": [{
                    "subject": "node", "found": "something is missing",
                    "remedy": "flock-agent check --repair", "repairable": true
                }],
                "notes": ["a file"],
            })
        );
    }
}
