//! Files that lie in one of Flock's directories.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use tempfile::TempDir;

use crate::message::assert_readable;

/// Reads `data` as a file's name on a line and what is in it.
pub(crate) fn named(data: &[u8]) -> Option<(&OsStr, &[u8])> {
    let line = data.iter().position(|byte| *byte == b'\n')?;
    let (name, content) = (&data[..line], &data[line + 1..]);
    let unusable = name.is_empty() || name.len() > 255 || name.iter().any(|b| matches!(b, b'/' | 0));
    (!unusable && !matches!(name, b"." | b"..")).then(|| (OsStr::from_bytes(name), content))
}

/// A directory where files live in memory, if there is such a place.
pub(crate) fn temporary() -> TempDir {
    let shared_memory = Path::new("/dev/shm");
    must(if shared_memory.is_dir() { tempfile::tempdir_in(shared_memory) } else { tempfile::tempdir() })
}

/// What could not be read is kept as it was, under a name that is not read again.
pub(crate) fn assert_set_aside(path: &Path, content: &[u8], kept_as: &Path, told: [&dyn Display; 2]) {
    for told in told {
        assert_readable(told);
    }
    assert!(!path.exists());
    assert_eq!(must(fs::read(kept_as)), content);
    assert_eq!(kept_as.parent(), path.parent(), "it left the directory");
}

/// What gives nothing and is not set aside was never finished, or is none of Flock's files.
pub(crate) fn assert_passed_over(path: &Path, content: &[u8]) {
    let name = path.file_name().unwrap_or_default().as_bytes();
    if name.ends_with(b".json.tmp") {
        assert!(!path.exists(), "unfinished, and kept");
    } else {
        assert!(!name.ends_with(b".json"), "neither read nor set aside");
        assert_eq!(must(fs::read(path)), content, "a foreign file was changed");
    }
}

#[track_caller]
pub(crate) fn must<T, E: Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
