//! What files held when they were last parsed: [`Cache`].

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::manifest::{self, Manifests};

/// A file that changed so lately may change once more without its times telling: they are as
/// coarse as the kernel's tick, or as a file system that counts seconds.
const UNSETTLED: Duration = Duration::from_secs(2);

/// What is in a file, or what is wrong with it in words.
pub(super) type Content = Result<Manifests, String>;

/// Parsed files, for as long as they are what they were.
#[derive(Debug, Default)]
pub(super) struct Cache {
    files: Mutex<HashMap<PathBuf, Parsed>>,
}

#[derive(Debug, Clone)]
struct Parsed {
    version: Version,
    /// What was parsed, while the version alone does not tell whether it is still there.
    unsettled: Option<Arc<[u8]>>,
    content: Arc<Content>,
}

/// What a change of a file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Cache {
    /// What is in `files`, in their order. What is not among them is forgotten.
    pub(super) fn read(&self, files: Vec<PathBuf>) -> Vec<(PathBuf, Arc<Content>)> {
        self.read_at(files, SystemTime::now())
    }

    fn read_at(&self, files: Vec<PathBuf>, now: SystemTime) -> Vec<(PathBuf, Arc<Content>)> {
        let known = self.files().clone();
        let mut parsed = HashMap::new();
        let mut contents = Vec::with_capacity(files.len());
        for path in files {
            // Before the file is read: what changes in between is another version the next time.
            let version = Version::of(&path).ok();
            let known = known.get(&path);
            let settled = known.filter(|known| known.unsettled.is_none() && version == Some(known.version));
            let now = settled.cloned().map_or_else(|| parse(&path, version, known, now), Ok);
            contents
                .push((path.clone(), now.as_ref().map_or_else(Arc::clone, |now| Arc::clone(&now.content))));
            if let Ok(now) = now {
                parsed.insert(path, now);
            }
        }
        *self.files() = parsed;
        contents
    }

    fn files(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Parsed>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parses a file, unless its bytes are those that are `known`. The error is a content that is
/// not to be remembered: a failure may be one of the medium, which passes.
fn parse(
    path: &Path,
    version: Option<Version>,
    known: Option<&Parsed>,
    now: SystemTime,
) -> Result<Parsed, Arc<Content>> {
    let bytes: Arc<[u8]> = match fs::read(path) {
        Ok(bytes) => bytes.into(),
        Err(error) => return Err(Arc::new(Err(format!("can't be read: {error}")))),
    };
    let same = known.filter(|known| known.unsettled.as_ref() == Some(&bytes));
    let content = same.map_or_else(|| Arc::new(manifest::read(&bytes)), |same| Arc::clone(&same.content));
    match version {
        Some(version) if content.is_ok() => {
            let unsettled = (!version.is_settled(now)).then_some(bytes);
            Ok(Parsed { version, unsettled, content })
        }
        _ => Err(content),
    }
}

impl Version {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&fs::metadata(path)?))
    }

    /// Whether the times tell a change that is made from now on.
    fn is_settled(&self, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(seconds), u32::try_from(nanoseconds)) else {
            return false;
        };
        let changed = UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds));
        // A time to come is none that tells anything.
        changed.and_then(|changed| now.duration_since(changed).ok()).is_some_and(|age| age >= UNSETTLED)
    }
}

impl From<&Metadata> for Version {
    fn from(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Duration = Duration::from_secs(3600);

    fn manifest(name: &str) -> String {
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}}}")
    }

    fn only(cache: &Cache, path: &Path, now: SystemTime) -> Arc<Content> {
        let [(_, content)] = &cache.read_at(vec![path.to_owned()], now)[..] else { panic!("not one") };
        Arc::clone(content)
    }

    #[test]
    fn a_file_that_has_not_changed_is_parsed_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yaml");
        fs::write(&path, manifest("web")).unwrap();
        let (cache, later) = (Cache::default(), SystemTime::now() + LATER);
        let first = only(&cache, &path, later);
        assert!(Arc::ptr_eq(&first, &only(&cache, &path, later)));
        // And once more when it has: written in place, replaced, or with an old time.
        fs::write(&path, manifest("db0")).unwrap();
        assert_eq!(only(&cache, &path, later).as_ref().as_ref().unwrap().pods[0].name, "db0");
        fs::write(directory.path().join("new"), manifest("db1")).unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        assert_eq!(only(&cache, &path, later).as_ref().as_ref().unwrap().pods[0].name, "db1");
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, manifest("db2")).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
        assert_eq!(only(&cache, &path, later).as_ref().as_ref().unwrap().pods[0].name, "db2");
    }

    #[test]
    fn what_has_just_changed_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yaml");
        fs::write(&path, manifest("web")).unwrap();
        let changed = fs::metadata(&path).unwrap().modified().unwrap();
        // The last is that of a clock that was set back.
        for (now, again) in [
            (changed, true),
            (changed + UNSETTLED / 2, true),
            (changed + UNSETTLED, false),
            (changed - LATER, true),
        ] {
            let cache = Cache::default();
            let first = only(&cache, &path, now);
            // Not parsed, where it is the same.
            assert!(Arc::ptr_eq(&first, &only(&cache, &path, now)), "at {now:?}");
            // As after a change of which the times do not tell.
            let other: Arc<[u8]> = manifest("db0").into_bytes().into();
            let mut files = cache.files();
            let parsed = files.get_mut(&path).unwrap();
            assert_eq!(parsed.unsettled.is_some(), again, "at {now:?}");
            parsed.unsettled = parsed.unsettled.is_some().then_some(other);
            drop(files);
            assert_eq!(!Arc::ptr_eq(&first, &only(&cache, &path, now)), again, "at {now:?}");
        }
    }

    #[test]
    fn files_that_are_gone_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["a.yaml", "b.yaml"].map(|name| directory.path().join(name));
        for path in &paths {
            fs::write(path, manifest("web")).unwrap();
        }
        let (cache, later) = (Cache::default(), SystemTime::now() + LATER);
        cache.read_at(paths.to_vec(), later);
        assert_eq!(cache.files().len(), 2);
        cache.read_at(vec![paths[0].clone()], later);
        assert_eq!(cache.files().len(), 1);
    }
}
