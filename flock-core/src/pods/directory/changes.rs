//! What changes in a directory of manifests: [`changes`].

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};

use super::cache::Cache;
use super::watch::Watch;
use super::{manifest_files, unreadable};
use crate::name::PodKey;
use crate::pods::PodChange;

/// The changes of the pods in `directory`. What is watched for them ends with the stream.
pub(super) fn changes(directory: &Path, cache: &Arc<Cache>) -> BoxStream<'static, PodChange> {
    let reader = Reader {
        directory: directory.to_owned(),
        cache: Arc::clone(cache),
        watch: Watch::new(directory),
        known: BTreeMap::new(),
        problems: BTreeSet::new(),
        untold: VecDeque::new(),
    };
    stream::unfold(reader, |mut reader| async {
        loop {
            if let Some(change) = reader.untold.pop_front() {
                return Some((change, reader));
            }
            reader.watch.changed().await;
            let look = tokio::task::spawn_blocking(move || {
                reader.look();
                reader
            });
            // It ends with the runtime.
            reader = look.await.ok()?;
        }
    })
    .boxed()
}

/// A reader of changes. Nothing is gathered for one that is slow: it looks again when it has
/// taken all that was found.
#[derive(Debug)]
struct Reader {
    directory: PathBuf,
    cache: Arc<Cache>,
    watch: Watch,
    /// As they were told.
    known: BTreeMap<PodKey, Known>,
    /// That were said in the log, and still are there.
    problems: BTreeSet<String>,
    untold: VecDeque<PodChange>,
}

#[derive(Debug, Clone)]
struct Known {
    pod: PodChange,
    /// Where it is described.
    files: BTreeSet<PathBuf>,
}

impl Reader {
    /// Looks into the directory, and finds what is to be told.
    fn look(&mut self) {
        let mut problems = BTreeSet::new();
        if let Err(error) = self.watch.arm() {
            problems.insert(format!(
                "can't watch the directory of pod manifests {}: {error}; it is looked at every few seconds",
                self.directory.display()
            ));
        }
        match manifest_files(&self.directory) {
            Ok(files) => {
                let now = self.read(files, &mut problems);
                self.tell(now);
            }
            Err(error) => {
                let reason = unreadable(&self.directory, &error);
                problems.insert(format!("{reason}; until then its pods stay as they were"));
            }
        }
        for new in problems.difference(&self.problems) {
            tracing::warn!("{new}");
        }
        self.problems = problems;
    }

    /// How the pods are now. One of which nothing sure can be read stays as it was told.
    fn read(&self, files: Vec<PathBuf>, problems: &mut BTreeSet<String>) -> BTreeMap<PodKey, Known> {
        let mut unsure = HashSet::new();
        let mut described: BTreeMap<PodKey, Vec<(PathBuf, PodChange)>> = BTreeMap::new();
        for (path, content) in self.cache.read(files) {
            let manifests = match &*content {
                // It may be about to be written.
                Ok(manifests) if manifests.blank => {
                    unsure.insert(path);
                    continue;
                }
                Ok(manifests) => manifests,
                Err(reason) => {
                    problems.insert(format!("{}: {reason}; its pods stay as they were", path.display()));
                    unsure.insert(path);
                    continue;
                }
            };
            for pod in &manifests.pods {
                // A name that no pod can have is that of none.
                let Ok(key) = PodKey::new(&pod.namespace, &pod.name) else { continue };
                let change = PodChange { pod: key.clone(), uid: pod.uid.clone(), state: pod.state };
                described.entry(key).or_default().push((path.clone(), change));
            }
        }
        let mut now = BTreeMap::new();
        for (key, known) in &self.known {
            if !described.contains_key(key) && known.files.iter().any(|file| unsure.contains(file)) {
                now.insert(key.clone(), known.clone());
            }
        }
        for (key, descriptions) in described {
            let files: BTreeSet<_> = descriptions.iter().map(|(path, _)| path.clone()).collect();
            if let [(_, pod)] = &descriptions[..] {
                now.insert(key, Known { pod: pod.clone(), files });
                continue;
            }
            let places: Vec<_> = descriptions.iter().map(|(path, _)| path.display().to_string()).collect();
            problems.insert(format!(
                "pod {key} is described {} times, in {}: leave one; it stays as it was",
                descriptions.len(),
                places.join(" and ")
            ));
            if let Some(known) = self.known.get(&key) {
                now.insert(key, Known { pod: known.pod.clone(), files });
            }
        }
        now
    }

    fn tell(&mut self, now: BTreeMap<PodKey, Known>) {
        let keys: BTreeSet<_> = self.known.keys().chain(now.keys()).collect();
        for key in keys {
            let (old, new) = (self.known.get(key), now.get(key));
            self.untold.extend(PodChange::between(old.map(|old| &old.pod), new.map(|new| &new.pod)));
        }
        self.known = now;
    }
}
