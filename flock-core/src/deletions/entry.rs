//! The form of an entry and the name of its file.

use std::ffi::OsStr;
use std::fmt;
use std::fs::DirEntry;

use serde::{Deserialize, Serialize};

use super::Deletion;
use crate::attachment::{AttachmentKey, fnv1a_64};
use crate::directory::{self, EXTENSION};
use crate::excerpt;

/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;

/// Entries have some hundred bytes; what is larger is something else and is not read into memory.
const MAX_BYTES: u64 = 1 << 16;

/// `<sequence>-<hash>.json`, which sorts by the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) sequence: u64,
    hash: u64,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u64,
    deletion: &'a Deletion,
}

/// Read first, because the rest may have any form in another version.
#[derive(Deserialize)]
struct Header {
    version: u64,
}

#[derive(Deserialize)]
struct Read {
    deletion: Deletion,
}

impl Name {
    /// The next name after `sequence`. There are more numbers than a node lives to use.
    pub(super) fn after(sequence: u64, key: &AttachmentKey) -> Self {
        Self { sequence: sequence.saturating_add(1), hash: hash(key) }
    }

    /// `None` for the name of something else.
    pub(super) fn of(name: &OsStr) -> Option<Self> {
        let text = name.to_str()?;
        let (sequence, hash) = text.strip_suffix(EXTENSION)?.split_once('-')?;
        let name = Self { sequence: sequence.parse().ok()?, hash: u64::from_str_radix(hash, 16).ok()? };
        // Only the one way in which it is written.
        (name.to_string() == text).then_some(name)
    }

    pub(super) fn is_of(&self, key: &AttachmentKey) -> bool {
        self.hash == hash(key)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{:016x}{EXTENSION}", self.sequence, self.hash)
    }
}

/// So that whoever looks for an attachment need not read every file.
fn hash(key: &AttachmentKey) -> u64 {
    fnv1a_64(key.to_string().as_bytes())
}

pub(super) fn encode(deletion: &Deletion) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(&Written { version: VERSION, deletion })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The entry in `file`, or what is wrong with it, in words.
pub(super) fn read(file: &DirEntry) -> Result<Deletion, String> {
    let bytes = directory::read(file, MAX_BYTES).map_err(|error| format!("it can't be read: {error}"))??;
    decode(&file.file_name(), &bytes)
}

pub(super) fn decode(name: &OsStr, bytes: &[u8]) -> Result<Deletion, String> {
    let Some(name) = Name::of(name) else {
        return Err("its name is not that of an entry, expected SEQUENCE-HASH.json".to_owned());
    };
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    let Header { version } = serde_json::from_slice(bytes).map_err(|error| {
        format!("expected a JSON object with a format version: {}", excerpt::line(&error))
    })?;
    if version != VERSION {
        return Err(format!("its format version is {version}, expected {VERSION}"));
    }
    let Read { deletion } =
        serde_json::from_slice(bytes).map_err(|error| excerpt::line(&error).to_string())?;
    let expected = Name { hash: hash(&deletion.key), ..name };
    if expected == name {
        Ok(deletion)
    } else {
        Err(format!("it is the deletion of {}, whose file is named {expected}", deletion.key))
    }
}
