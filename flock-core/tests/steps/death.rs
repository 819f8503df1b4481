//! The end of a process at a step of the work on files, by SIGKILL.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::set_global_default;
use tracing::{Event, Level, Metadata, Subscriber};

pub(crate) const THERE: &str = "the directory is there";
pub(crate) const LOCKED: &str = "the directory is locked";
pub(crate) const MADE: &str = "the new file is made";
pub(crate) const WRITTEN: &str = "the new file is written";
pub(crate) const SYNCED: &str = "the new file is synced";
pub(crate) const IN_PLACE: &str = "the new file is in place";
pub(crate) const REMOVED: &str = "the file is removed";
pub(crate) const DIRECTORY_SYNCED: &str = "the directory is synced";

/// Of the steps to come, this process says the one with this number on standard error and ends there.
pub(crate) fn at(step: usize) {
    set_global_default(Death { at: step, seen: Mutex::new(0) }).unwrap();
}

/// Runs a process that ends at a step, and gives what it said of it; none if it came to its
/// end, since there is no step of that number.
pub(crate) fn of(process: &mut Command) -> Option<String> {
    let child = process.output().unwrap();
    let said = String::from_utf8(child.stderr).unwrap();
    if child.status.success() {
        return None;
    }
    assert_eq!(child.status.signal(), Some(9), "{said}");
    Some(said.lines().last().unwrap().to_owned())
}

struct Death {
    at: usize,
    seen: Mutex<usize>,
}

impl Subscriber for Death {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("flock_core::directory") && *metadata.level() == Level::TRACE
    }

    fn event(&self, event: &Event<'_>) {
        let mut seen = self.seen.lock().unwrap();
        if *seen == self.at {
            let mut message = Message(String::new());
            event.record(&mut message);
            eprintln!("{}", message.0);
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
        }
        *seen += 1;
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
