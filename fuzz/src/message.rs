//! What is promised of every message that people read.

use std::fmt::Display;

use flock_core::cni::{self, Code};

/// Messages are for people and pass through logs, events and frames of bounded size.
const MAX_BYTES: usize = 8192;

/// `message` says something, in one line, of a length that can be read.
#[track_caller]
pub(crate) fn assert_readable(message: &dyn Display) {
    let text = message.to_string();
    assert!(!text.trim().is_empty(), "a message that says nothing");
    assert!(!text.contains(char::is_control), "a message with control characters: {text:?}");
    assert!(text.len() <= MAX_BYTES, "a message of {} bytes: {text:.200}…", text.len());
}

/// An error for the runtime that names one of `names`.
#[track_caller]
pub(crate) fn assert_names(error: &cni::Error, names: &[&str]) {
    assert_readable(error);
    assert_readable(&error.msg);
    assert_ne!(error.code, Code::INTERNAL, "a defect, by its own word: {error}");
    let text = error.to_string();
    assert!(names.iter().any(|name| text.contains(name)), "{text:?} names none of {names:?}");
}
