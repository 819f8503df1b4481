//! The configuration file: replaced in one step, or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use flock_core::announcer::AnnounceError;

/// Its owner writes it, BIRD's group reads it, nobody else: it will hold passwords.
const MODE: u32 = 0o640;

/// The file that BIRD reads.
#[derive(Debug, Clone)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    staging: PathBuf,
}

impl ConfigFile {
    /// Takes a path that BIRD can be told of.
    pub(crate) fn new(path: &Path) -> Result<Self, AnnounceError> {
        let absolute = std::path::absolute(path).map_err(|error| write_error(path, &error))?;
        // BIRD's strings know no escapes.
        match absolute.to_str() {
            Some(text) if !text.contains(['"', '\'']) && !text.chars().any(char::is_control) => {
                let staging = PathBuf::from(format!("{text}.new"));
                Ok(Self { path: absolute, staging })
            }
            _ => Err(AnnounceError::Write {
                path: absolute.display().to_string(),
                reason:
                    "BIRD can't be told of this path; expected UTF-8 without quotes and control characters"
                        .to_owned(),
            }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is in place, if anything.
    pub(crate) fn read(&self) -> Result<Option<Vec<u8>>, AnnounceError> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(write_error(&self.path, &error)),
        }
    }

    /// Writes `text` beside the file, in the same directory so that it can be renamed.
    pub(crate) fn stage(&self, text: &[u8]) -> Result<Staged, AnnounceError> {
        let failed = |error: io::Error| write_error(&self.staging, &error);
        match fs::remove_file(&self.staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(MODE).open(&self.staging).map_err(failed)?;
        let staged = Staged { target: self.clone(), in_place: false };
        // The mode above is cut by the umask.
        file.set_permissions(Permissions::from_mode(MODE))
            .and_then(|()| file.write_all(text))
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        Ok(staged)
    }
}

/// A file that is written but not in place; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Staged {
    target: ConfigFile,
    in_place: bool,
}

impl Staged {
    pub(crate) fn staging_path(&self) -> &Path {
        &self.target.staging
    }

    /// Puts it in place.
    pub(crate) fn commit(mut self) -> Result<(), AnnounceError> {
        let ConfigFile { path, staging } = &self.target;
        let synced = fs::rename(staging, path).and_then(|()| match path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        });
        synced.map_err(|error| write_error(path, &error))?;
        self.in_place = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.in_place {
            // What can't be removed now is removed before the next one is staged.
            let _ = fs::remove_file(&self.target.staging);
        }
    }
}

fn write_error(path: &Path, error: &io::Error) -> AnnounceError {
    AnnounceError::Write { path: path.display().to_string(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_staged_file_is_beside_and_comes_in_place_whole() {
        let directory = tempfile::tempdir().unwrap();
        let file = ConfigFile::new(&directory.path().join("bird.conf")).unwrap();
        assert_eq!(file.read().unwrap(), None);
        file.stage(b"one").unwrap().commit().unwrap();
        let staged = file.stage(b"two").unwrap();
        assert_eq!(file.read().unwrap().as_deref(), Some(b"one".as_slice()));
        assert_eq!(names(directory.path()), ["bird.conf", "bird.conf.new"]);
        // It holds all already.
        let mode = fs::metadata(staged.staging_path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "{mode:o}");
        staged.commit().unwrap();
        assert_eq!(file.read().unwrap().as_deref(), Some(b"two".as_slice()));
        assert_eq!(names(directory.path()), ["bird.conf"]);
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "{mode:o}");
    }

    #[test]
    fn what_is_not_committed_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = ConfigFile::new(&directory.path().join("bird.conf")).unwrap();
        drop(file.stage(b"one").unwrap());
        assert_eq!(names(directory.path()), Vec::<String>::new());
    }

    #[test]
    fn the_rest_of_a_crash_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("bird.conf.new"), "half").unwrap();
        let file = ConfigFile::new(&directory.path().join("bird.conf")).unwrap();
        file.stage(b"one").unwrap().commit().unwrap();
        assert_eq!(names(directory.path()), ["bird.conf"]);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = ConfigFile::new(&directory.path().join("none/bird.conf")).unwrap();
        let error = file.stage(b"one").unwrap_err();
        assert!(matches!(&error, AnnounceError::Write { path, .. } if path.ends_with("none/bird.conf.new")));
        assert!(error.to_string().contains("No such file or directory"), "{error}");
    }

    #[test]
    fn a_path_that_would_end_birds_string_is_refused() {
        for path in ["/tmp/a\".conf", "/tmp/a\n.conf"] {
            assert!(ConfigFile::new(Path::new(path)).is_err(), "{path:?}");
        }
    }
}
