//! Pods from a directory of manifests: [`PodDirectory`].

mod cache;
mod changes;
mod manifest;
mod watch;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_core::stream::BoxStream;

use self::cache::Cache;
use self::manifest::PodManifest;
use super::{PodChange, PodError, PodInfo, PodRef, PodSource};

/// Pods from manifests in a directory, without any cluster.
///
/// - Files named `*.yaml`, `*.yml` and `*.json` are read, as they would be applied
///   to a cluster: several documents in a file, objects of kind `List`, and objects
///   of other kinds, which are passed over. Hidden files and subdirectories are not
///   looked at.
/// - Only a pod's name, namespace (`default` where it is missing), UID, annotations,
///   deletion timestamp and condition `Ready` are read, where `kubectl get pod -o yaml`
///   writes them. A manifest without `status`, or with an empty one, is one that somebody
///   wrote by hand: its pod counts as ready. Otherwise only a true condition makes it so.
/// - The files are looked at in each request, so a change needs no reload; those that
///   have not changed are not parsed again.
/// - A pod that is in no file counts as one without annotations, and is answered at once.
/// - A file that can't be read does not stand in the way of pods in other files.
///   But a pod that is in none of the others may be in that one, so the request for
///   it fails and names the file. So it does for a pod that two manifests describe,
///   and for one whose manifest has another UID than the runtime says.
/// - [`changes`](PodSource::changes) watches the directory: a change is told a few
///   milliseconds after the file was written or renamed. Where the file system tells of no
///   changes, as one on a network, they are found within two seconds. The directory may
///   be made later, or be replaced, as a whole or by a link. The stream never ends, and
///   needs the runtime it is polled in to have a clock.
/// - Whoever writes a file under another name, and renames it, is read in whole or not at
///   all. Of others a file that is empty or can't be read may be half written: its pods
///   stay as they were told until it can be read again. So they do while the directory is
///   not there, and a pod that two manifests describe until one of them goes. A pod whose
///   manifest was removed is terminating.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let manifests = tempfile::tempdir()?;
/// use std::time::{Duration, Instant};
///
/// use flock_core::name::PodKey;
/// use flock_core::pods::{PodDirectory, PodRef, PodSource};
///
/// std::fs::write(manifests.path().join("web.yaml"), "
/// apiVersion: v1
/// kind: Pod
/// metadata:
///   name: web-0
///   annotations:
///     flock.fritzlab.net/anycast: 2001:db8::53
/// ")?;
/// let pods = PodDirectory::new(manifests.path());
/// let wanted = PodRef { key: PodKey::new("default", "web-0")?, uid: None };
/// let pod = pods.pod(&wanted, Instant::now() + Duration::from_secs(5)).await?;
/// assert_eq!(pod.annotations["flock.fritzlab.net/anycast"], "2001:db8::53");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PodDirectory {
    path: PathBuf,
    cache: Arc<Cache>,
}

impl PodDirectory {
    /// Reads manifests in `path`. That it exists is asked at each request.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), cache: Arc::default() }
    }
}

/// How long reading the manifests may take in any case.
const READING: Duration = Duration::from_secs(1);

#[async_trait]
impl PodSource for PodDirectory {
    async fn pod(&self, wanted: &PodRef, deadline: Instant) -> Result<PodInfo, PodError> {
        let (path, wanted, cache) = (self.path.clone(), wanted.clone(), Arc::clone(&self.cache));
        let lookup = tokio::task::spawn_blocking(move || lookup(&path, &wanted, &cache));
        // Who does not want to wait for a pod waits for the disk nevertheless.
        let deadline = tokio::time::Instant::from_std(deadline).max(tokio::time::Instant::now() + READING);
        match tokio::time::timeout_at(deadline, lookup).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(PodError::Backend(format!("reading {}: {error}", self.path.display()))),
            Err(_) => Err(PodError::Backend(format!(
                "the manifests in {} could not be read within the deadline",
                self.path.display()
            ))),
        }
    }

    fn changes(&self) -> BoxStream<'static, PodChange> {
        changes::changes(&self.path, &self.cache)
    }
}

fn lookup(directory: &Path, wanted: &PodRef, cache: &Cache) -> Result<PodInfo, PodError> {
    let files =
        manifest_files(directory).map_err(|error| PodError::Backend(unreadable(directory, &error)))?;
    let mut found: Option<(PathBuf, PodInfo)> = None;
    let mut broken = None;
    for (path, content) in cache.read(files) {
        let pods = match &*content {
            Ok(manifests) => &manifests.pods,
            Err(reason) => {
                broken.get_or_insert((path, reason.clone()));
                continue;
            }
        };
        for pod in pods.iter().filter(|pod| is_named(pod, wanted)) {
            if let Some((first, _)) = &found {
                let reason = format!(
                    "describes pod {} as {} does; remove one of the two",
                    wanted.key,
                    first.display()
                );
                return Err(invalid(&path, reason));
            }
            let (uid, annotations) = (pod.uid.clone(), pod.annotations.clone());
            let info = PodInfo { uid, annotations, state: pod.state };
            found = Some((path.clone(), info));
        }
    }
    match (found, broken) {
        (Some((path, info)), _) => match (&wanted.uid, &info.uid) {
            (Some(asked), Some(written)) if asked != written => {
                let reason = format!(
                    "describes pod {} with the UID {written:?}, expected {asked:?} as the runtime says; \
                     correct the UID or leave it out",
                    wanted.key
                );
                Err(invalid(&path, reason))
            }
            _ => Ok(info),
        },
        (None, Some((path, reason))) => {
            let reason =
                format!("{reason}; pod {} may be described there, mend or remove the file", wanted.key);
            Err(invalid(&path, reason))
        }
        (None, None) => Ok(PodInfo::default()),
    }
}

fn is_named(pod: &PodManifest, wanted: &PodRef) -> bool {
    pod.name == wanted.key.name() && pod.namespace == wanted.key.namespace()
}

fn manifest_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let is_manifest = path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if is_manifest && !name.as_encoded_bytes().starts_with(b".") && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn unreadable(directory: &Path, error: &io::Error) -> String {
    format!(
        "can't read the directory of pod manifests {}: {error}; create it or name another one",
        directory.display()
    )
}

fn invalid(path: &Path, reason: String) -> PodError {
    PodError::Invalid { path: path.display().to_string(), reason }
}
