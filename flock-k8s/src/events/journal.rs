//! What is to be written, and when: [`Journal`]. It keeps no clock: the time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::Instant;

use super::{Event, Occurrence, Subject};

/// One event is not written more often.
const REPEAT: Duration = Duration::from_secs(10);
/// How many different events are kept.
const LIMIT: usize = 512;
/// What was not said again for so long begins a new event; what could not be written, none.
const FORGET: Duration = Duration::from_secs(600);
/// What was refused so often is given up.
const REFUSALS: u32 = 5;
/// So many are written at once,
const BURST: u32 = 20;
/// and one more after each of these.
const REFILL: Duration = Duration::from_secs(1);

/// Events that were said, each with what is still to be written of it.
#[derive(Debug)]
pub(super) struct Journal {
    entries: BTreeMap<Key, Entry>,
    tokens: u32,
    refilled: Instant,
}

/// What counts as the same event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) subject: Subject,
    reason: &'static str,
    severity: &'static str,
}

/// One event.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// What was said last.
    pub(super) event: Event,
    /// How often.
    pub(super) count: i32,
    pub(super) first: Time,
    pub(super) last: Time,
    /// The name of the object that stands for it, once it was written.
    pub(super) object: Option<String>,
    written: i32,
    due: Instant,
    said: Instant,
    /// How often it could not be written although the API server was there, since it last could.
    failures: u32,
    /// How often it was refused, since it last was not.
    refusals: u32,
}

impl Entry {
    fn is_written(&self) -> bool {
        self.written == self.count
    }
}

impl Journal {
    pub(super) fn new(now: Instant) -> Self {
        Self { entries: BTreeMap::new(), tokens: BURST, refilled: now }
    }

    /// Takes note. Says how much is left out for it, and for what got too old.
    pub(super) fn note(
        &mut self,
        Occurrence { subject, event }: Occurrence,
        now: Instant,
        time: Time,
    ) -> u64 {
        let mut left_out = self.forget(now);
        let key = Key { subject, reason: event.reason, severity: event.severity.word() };
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.count = entry.count.saturating_add(1);
            (entry.event, entry.last, entry.said) = (event, time, now);
            return left_out;
        }
        if self.entries.len() >= LIMIT {
            let Some(forgotten) = self.make_room() else { return left_out + 1 };
            left_out += forgotten;
        }
        let entry = Entry {
            event,
            count: 1,
            first: Time(time.0),
            last: time,
            object: None,
            written: 0,
            due: now,
            said: now,
            failures: 0,
            refusals: 0,
        };
        self.entries.insert(key, entry);
        left_out
    }

    /// When there is something to write, if nothing is said meanwhile.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = self.pending().map(|(_, entry)| entry.due).min()?;
        Some(if self.tokens > 0 { due } else { due.max(self.refilled + REFILL) })
    }

    /// What is to be written now: the longest waiting first, but what failed after all others.
    pub(super) fn next(&mut self, now: Instant) -> Option<(Key, Entry)> {
        self.refill(now);
        if self.tokens == 0 {
            return None;
        }
        let ready = self.pending().filter(|(_, entry)| entry.due <= now);
        let (key, entry) = ready.min_by_key(|(_, entry)| (entry.failures, entry.due))?;
        let next = (key.clone(), entry.clone());
        self.tokens -= 1;
        Some(next)
    }

    /// `entry` was written, as this object.
    pub(super) fn written(&mut self, key: &Key, entry: &Entry, object: String, now: Instant) {
        if let Some(current) = self.entries.get_mut(key) {
            (current.written, current.object, current.due) = (entry.count, Some(object), now + REPEAT);
            (current.failures, current.refusals) = (0, 0);
        }
    }

    /// The object that stands for it is gone: Kubernetes keeps events for an hour.
    pub(super) fn lost(&mut self, key: &Key) {
        if let Some(current) = self.entries.get_mut(key) {
            current.object = None;
        }
    }

    /// The API server could not write it. That may be for this one only.
    pub(super) fn failed(&mut self, key: &Key) {
        if let Some(current) = self.entries.get_mut(key) {
            current.failures += 1;
        }
    }

    /// The API server did not want it. It may later: it is tried again after pauses that grow, and
    /// then given up. Says how much is left out.
    pub(super) fn refused(&mut self, key: &Key, now: Instant) -> u64 {
        let Some(current) = self.entries.get_mut(key) else { return 0 };
        current.due = now + REPEAT * 2_u32.pow(current.refusals);
        current.refusals += 1;
        if current.refusals < REFUSALS { 0 } else { self.give_up(key) }
    }

    /// It will never be written. Says how much is left out.
    pub(super) fn give_up(&mut self, key: &Key) -> u64 {
        self.entries.remove(key).map_or(0, |entry| unwritten(&entry))
    }

    fn pending(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter().filter(|(_, entry)| !entry.is_written())
    }

    fn refill(&mut self, now: Instant) {
        let periods = now.duration_since(self.refilled).as_millis() / REFILL.as_millis();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(periods).min(BURST);
        self.refilled = if self.tokens == BURST { now } else { self.refilled + REFILL * periods };
    }

    /// Forgets what is too old to be told. Says how much is left out.
    pub(super) fn forget(&mut self, now: Instant) -> u64 {
        let mut left_out = 0;
        self.entries.retain(|_, entry| {
            let old = now.duration_since(entry.said) >= FORGET;
            left_out += if old { unwritten(entry) } else { 0 };
            !old
        });
        left_out
    }

    /// Forgets the event that was not said for the longest time of those that are written, or
    /// else of those that were refused. Says how much is left out, if there was one.
    fn make_room(&mut self) -> Option<u64> {
        let spare = self.entries.iter().filter(|(_, entry)| entry.is_written() || entry.refusals > 0);
        let key = spare.min_by_key(|(_, entry)| (!entry.is_written(), entry.said))?.0.clone();
        Some(self.give_up(&key))
    }
}

fn unwritten(entry: &Entry) -> u64 {
    u64::try_from(entry.count - entry.written).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Severity;
    use crate::readiness::now as time;

    fn said(name: &str, message: &str) -> Occurrence {
        Occurrence {
            subject: Subject {
                api_version: "v1",
                kind: "Pod",
                namespace: Some("default".to_owned()),
                name: name.to_owned(),
                uid: Some("1".to_owned()),
            },
            event: Event { severity: Severity::Warning, reason: "Failed", message: message.to_owned() },
        }
    }

    /// Writes all that is to be written now: names and counts.
    fn write(journal: &mut Journal, now: Instant) -> Vec<(String, i32)> {
        std::iter::from_fn(|| {
            let (key, entry) = journal.next(now)?;
            journal.written(&key, &entry, "object".to_owned(), now);
            Some((key.subject.name, entry.count))
        })
        .collect()
    }

    #[test]
    fn the_first_is_written_at_once_and_repetitions_together() {
        let start = Instant::now();
        let mut journal = Journal::new(start);
        assert_eq!(journal.due(), None);
        assert_eq!(journal.note(said("web", "one"), start, time()), 0);
        assert_eq!(journal.due(), Some(start));
        assert_eq!(write(&mut journal, start), [("web".to_owned(), 1)]);
        assert_eq!(journal.due(), None);
        for message in ["two", "three"] {
            assert_eq!(journal.note(said("web", message), start, time()), 0);
        }
        assert_eq!(journal.due(), Some(start + REPEAT));
        assert!(write(&mut journal, start + REPEAT / 2).is_empty());
        let (_, entry) = journal.next(start + REPEAT).unwrap();
        assert_eq!((entry.count, entry.event.message.as_str()), (3, "three"));
        assert_eq!(entry.object.as_deref(), Some("object"));
    }

    #[test]
    fn what_is_said_while_it_is_written_is_written_next() {
        let start = Instant::now();
        let mut journal = Journal::new(start);
        journal.note(said("web", "one"), start, time());
        let (key, entry) = journal.next(start).unwrap();
        journal.note(said("web", "two"), start, time());
        journal.written(&key, &entry, "object".to_owned(), start);
        assert_eq!(journal.due(), Some(start + REPEAT));
    }

    #[test]
    fn many_at_once_are_spread_over_time() {
        let start = Instant::now();
        let mut journal = Journal::new(start);
        for number in 0..BURST + 2 {
            journal.note(said(&format!("web-{number}"), "x"), start, time());
        }
        assert_eq!(write(&mut journal, start).len(), BURST as usize);
        assert_eq!(journal.due(), Some(start + REFILL));
        assert_eq!(write(&mut journal, start + REFILL).len(), 1);
        assert_eq!(write(&mut journal, start + REFILL * 5).len(), 1);
        assert_eq!(journal.due(), None);
    }

    #[test]
    fn a_pause_saves_up_no_more_than_the_burst() {
        let start = Instant::now();
        let mut journal = Journal::new(start);
        let later = start + REFILL * 1000;
        for number in 0..BURST * 2 {
            journal.note(said(&format!("web-{number}"), "x"), later, time());
        }
        assert_eq!(write(&mut journal, later).len(), BURST as usize);
    }

    #[test]
    fn what_is_written_makes_room_and_what_is_not_stays() {
        let start = Instant::now();
        let mut journal = Journal::new(start);
        for number in 0..LIMIT {
            assert_eq!(journal.note(said(&format!("web-{number}"), "x"), start, time()), 0);
        }
        assert_eq!(journal.note(said("late", "x"), start, time()), 1, "nothing can be forgotten");
        let written = write(&mut journal, start).len();
        for number in 0..written {
            assert_eq!(journal.note(said(&format!("late-{number}"), "x"), start, time()), 0);
        }
        assert_eq!(journal.note(said("too late", "x"), start, time()), 1);
    }

    #[test]
    fn what_gets_too_old_is_left_out() {
        let start = Instant::now();
        let mut journal = Journal::new(start);
        journal.note(said("web", "one"), start, time());
        journal.note(said("web", "two"), start, time());
        assert_eq!(journal.note(said("other", "one"), start + FORGET, time()), 2);
        assert_eq!(write(&mut journal, start + FORGET), [("other".to_owned(), 1)]);
    }

    #[test]
    fn what_is_given_up_is_left_out() {
        let start = Instant::now();
        let mut journal = Journal::new(start);
        journal.note(said("web", "one"), start, time());
        let (key, _) = journal.next(start).unwrap();
        assert_eq!(journal.give_up(&key), 1);
        assert_eq!(journal.due(), None);
    }

    #[test]
    fn what_is_refused_waits_ever_longer_and_is_given_up() {
        let mut now = Instant::now();
        let mut journal = Journal::new(now);
        journal.note(said("web", "one"), now, time());
        for pause in [10, 20, 40, 80] {
            let (key, _) = journal.next(now).unwrap();
            assert_eq!(journal.refused(&key, now), 0);
            assert_eq!(journal.due(), Some(now + Duration::from_secs(pause)));
            now += Duration::from_secs(pause);
        }
        journal.note(said("web", "two"), now, time());
        let (key, _) = journal.next(now).unwrap();
        assert_eq!(journal.refused(&key, now), 2);
        assert_eq!(journal.due(), None);
    }

    #[test]
    fn what_was_taken_in_between_is_not_given_up() {
        let start = Instant::now();
        let mut journal = Journal::new(start);
        for number in 0..REFUSALS * 2 {
            let now = start + Duration::from_secs(100) * number;
            journal.note(said("web", "x"), now, time());
            let (key, entry) = journal.next(now).unwrap();
            assert_eq!(journal.refused(&key, now), 0);
            journal.written(&key, &entry, "object".to_owned(), now);
        }
    }

    #[test]
    fn what_failed_comes_after_all_others() {
        let start = Instant::now();
        let mut journal = Journal::new(start);
        journal.note(said("bad", "x"), start, time());
        let (key, _) = journal.next(start).unwrap();
        journal.failed(&key);
        let later = start + REFILL;
        journal.note(said("good", "x"), later, time());
        let names: Vec<_> = write(&mut journal, later).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["good", "bad"]);
    }

    #[test]
    fn what_was_refused_makes_room() {
        let start = Instant::now();
        let mut journal = Journal::new(start);
        for number in 0..LIMIT {
            assert_eq!(journal.note(said(&format!("web-{number}"), "x"), start, time()), 0);
        }
        let (key, _) = journal.next(start).unwrap();
        assert_eq!(journal.refused(&key, start), 0);
        assert_eq!(journal.note(said("late", "x"), start, time()), 1, "the one that was refused");
        let late = |journal: &Journal| journal.entries.keys().any(|key| key.subject.name == "late");
        assert!(late(&journal));
        assert_eq!(journal.note(said("too late", "x"), start, time()), 1);
        assert!(late(&journal));
    }
}
