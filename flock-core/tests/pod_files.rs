//! What changes in a directory of manifests is told: after any sequence of changes, however the
//! directory is made, and soon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use flock_core::name::PodKey;
use flock_core::pods::{PodChange, PodDirectory, PodSource, PodState};
use futures_core::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

type Changes = BoxStream<'static, PodChange>;

fn manifest(name: &str, uid: u8, state: PodState) -> String {
    let deleted = (state == PodState::Terminating).then_some("2001-02-03T04:05:06Z");
    let ready = if state == PodState::NotReady { "False" } else { "True" };
    json!({
        "kind": "Pod",
        "metadata": {"name": name, "uid": uid.to_string(), "deletionTimestamp": deleted},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    })
    .to_string()
}

/// As whoever wants no reader to see half of it.
fn replace(directory: &Path, file: &str, text: &str) {
    fs::write(directory.join(".new"), text).unwrap();
    fs::rename(directory.join(".new"), directory.join(file)).unwrap();
}

fn told(name: &str, uid: u8, state: PodState) -> PodChange {
    PodChange { pod: PodKey::new("default", name).unwrap(), uid: Some(uid.to_string()), state }
}

async fn next(changes: &mut Changes) -> PodChange {
    tokio::time::timeout(Duration::from_secs(60), changes.next()).await.expect("told in time").unwrap()
}

async fn expect(changes: &mut Changes, expected: impl IntoIterator<Item = PodChange>) {
    for expected in expected {
        assert_eq!(next(changes).await, expected);
    }
    assert_eq!(changes.next().now_or_never(), None);
}

/// A directory with default/web, and a reader that was told so.
async fn with_web() -> (TempDir, Changes) {
    let directory = tempfile::tempdir().unwrap();
    replace(directory.path(), "web.json", &manifest("web", 1, PodState::Ready));
    let mut changes = PodDirectory::new(directory.path()).changes();
    expect(&mut changes, [told("web", 1, PodState::Ready)]).await;
    (directory, changes)
}

/// Tells of a pod that comes last: what was done before it was seen, as far as it is ever seen.
async fn settle(directory: &Path, changes: &mut Changes, number: u8) -> Vec<PodChange> {
    replace(directory, "~.json", &manifest("zz-marker", number, PodState::Ready));
    let mut heard = Vec::new();
    loop {
        let change = next(changes).await;
        if change == told("zz-marker", number, PodState::Ready) {
            // Of the same look.
            while let Some(Some(change)) = changes.next().now_or_never() {
                heard.push(change);
            }
            return heard.into_iter().filter(|change| change.pod.name() != "zz-marker").collect();
        }
        heard.push(change);
    }
}

/// What is said in the log, by all tests that share this process.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
        log
    })
}

/// Waits until the reader has said that the directory is not there. Nothing else is told.
async fn missed(directory: &Path, changes: &mut Changes) {
    let expected = format!("can't read the directory of pod manifests {}: ", directory.display());
    let said = || String::from_utf8_lossy(&log().0.lock().unwrap()).contains(&expected);
    let limit = Instant::now() + Duration::from_secs(60);
    while !said() {
        assert_eq!(changes.next().now_or_never(), None);
        assert!(Instant::now() < limit, "the reader has not missed {}", directory.display());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_file_that_can_not_be_read_leaves_its_pods_as_they_were() {
    let (directory, mut changes) = with_web().await;
    for (number, broken) in (2..).zip(["", " \n", "{", "kind: Pod", "\u{1}"]) {
        fs::write(directory.path().join("web.json"), broken).unwrap();
        assert_eq!(settle(directory.path(), &mut changes, number).await, [], "{broken:?}");
    }
    replace(directory.path(), "web.json", &manifest("web", 1, PodState::NotReady));
    expect(&mut changes, [told("web", 1, PodState::NotReady)]).await;
}

#[tokio::test]
async fn a_file_without_the_pod_makes_it_terminating() {
    let (directory, mut changes) = with_web().await;
    replace(directory.path(), "web.json", "# moved elsewhere\n---\n");
    expect(&mut changes, [told("web", 1, PodState::Terminating)]).await;
}

#[tokio::test]
async fn a_broken_file_that_is_removed_makes_its_pods_terminating() {
    let (directory, mut changes) = with_web().await;
    replace(directory.path(), "web.json", "{");
    assert_eq!(settle(directory.path(), &mut changes, 1).await, []);
    fs::remove_file(directory.path().join("web.json")).unwrap();
    expect(&mut changes, [told("web", 1, PodState::Terminating)]).await;
}

#[tokio::test]
async fn a_pod_that_is_described_twice_stays_as_it_was_until_one_goes() {
    let (directory, mut changes) = with_web().await;
    replace(directory.path(), "a.json", &manifest("web", 2, PodState::NotReady));
    assert_eq!(settle(directory.path(), &mut changes, 1).await, []);
    fs::remove_file(directory.path().join("web.json")).unwrap();
    expect(&mut changes, [told("web", 1, PodState::Terminating), told("web", 2, PodState::NotReady)]).await;
}

#[tokio::test]
async fn a_directory_that_comes_later_is_read() {
    log();
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("pods");
    let mut changes = PodDirectory::new(&directory).changes();
    missed(&directory, &mut changes).await;
    fs::create_dir(&directory).unwrap();
    replace(&directory, "web.json", &manifest("web", 1, PodState::Ready));
    expect(&mut changes, [told("web", 1, PodState::Ready)]).await;
}

#[tokio::test]
async fn a_directory_whose_parent_comes_later_is_read() {
    log();
    let top = tempfile::tempdir().unwrap();
    let directory = top.path().join("etc/pods");
    let mut changes = PodDirectory::new(&directory).changes();
    missed(&directory, &mut changes).await;
    fs::create_dir_all(&directory).unwrap();
    replace(&directory, "web.json", &manifest("web", 1, PodState::Ready));
    expect(&mut changes, [told("web", 1, PodState::Ready)]).await;
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_read_anew_and_watched() {
    let parent = tempfile::tempdir().unwrap();
    let [directory, new, old] = ["pods", "new", "old"].map(|name| parent.path().join(name));
    fs::create_dir(&directory).unwrap();
    replace(&directory, "web.json", &manifest("web", 1, PodState::Ready));
    let mut changes = PodDirectory::new(&directory).changes();
    expect(&mut changes, [told("web", 1, PodState::Ready)]).await;

    fs::create_dir(&new).unwrap();
    replace(&new, "web.json", &manifest("web", 1, PodState::NotReady));
    let mut times = Vec::new();
    for state in [PodState::NotReady, PodState::Ready].into_iter().cycle().take(7) {
        let started = Instant::now();
        fs::rename(&directory, &old).unwrap();
        fs::rename(&new, &directory).unwrap();
        fs::rename(&old, &new).unwrap();
        expect(&mut changes, [told("web", 1, state)]).await;
        times.push(started.elapsed());
    }
    assert_is_soon(times);
    // Gone and back, so fast that it was not missed.
    fs::rename(&directory, &old).unwrap();
    fs::rename(&old, &directory).unwrap();
    assert_soon(&directory, &mut changes).await;
}

#[tokio::test]
async fn a_directory_that_is_removed_leaves_its_pods_as_they_were() {
    log();
    let parent = tempfile::tempdir().unwrap();
    let [directory, old] = ["pods", "old"].map(|name| parent.path().join(name));
    fs::create_dir(&directory).unwrap();
    replace(&directory, "web.json", &manifest("web", 1, PodState::Ready));
    let mut changes = PodDirectory::new(&directory).changes();
    expect(&mut changes, [told("web", 1, PodState::Ready)]).await;
    fs::rename(&directory, &old).unwrap();
    missed(&directory, &mut changes).await;
    fs::create_dir(&directory).unwrap();
    replace(&directory, "db.json", &manifest("db", 2, PodState::Ready));
    let mut heard = [next(&mut changes).await, next(&mut changes).await];
    heard.sort_by(|one, other| one.pod.cmp(&other.pod));
    assert_eq!(heard, [told("db", 2, PodState::Ready), told("web", 1, PodState::Terminating)]);
}

/// As the kubelet shows a ConfigMap: files are links through a link that is replaced.
#[tokio::test]
async fn files_behind_a_link_that_is_swapped_are_read_anew() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (version, state) in [("..1", PodState::Ready), ("..2", PodState::NotReady)] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("web.json"), manifest("web", 1, state)).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/web.json", at("web.json")).unwrap();
    let mut changes = PodDirectory::new(directory.path()).changes();
    expect(&mut changes, [told("web", 1, PodState::Ready)]).await;
    symlink("..2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    expect(&mut changes, [told("web", 1, PodState::NotReady)]).await;
}

#[tokio::test]
async fn a_link_to_the_directory_that_is_swapped_is_followed() {
    let parent = tempfile::tempdir().unwrap();
    let at = |name: &str| parent.path().join(name);
    for (version, state) in [("1", PodState::Ready), ("2", PodState::NotReady)] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("web.json"), manifest("web", 1, state)).unwrap();
    }
    symlink("1", at("pods")).unwrap();
    let mut changes = PodDirectory::new(at("pods")).changes();
    expect(&mut changes, [told("web", 1, PodState::Ready)]).await;
    let mut times = Vec::new();
    for (version, state) in [("2", PodState::NotReady), ("1", PodState::Ready)].into_iter().cycle().take(7) {
        symlink(version, at("new")).unwrap();
        let started = Instant::now();
        fs::rename(at("new"), at("pods")).unwrap();
        expect(&mut changes, [told("web", 1, state)]).await;
        times.push(started.elapsed());
    }
    assert_is_soon(times);
    assert_soon(&at("2"), &mut changes).await;
}

#[tokio::test]
async fn a_change_of_one_among_250_manifests_is_told_soon() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..250 {
        let name = format!("pod-{number:03}");
        replace(directory.path(), &format!("{name}.json"), &manifest(&name, 1, PodState::Ready));
    }
    let mut changes = PodDirectory::new(directory.path()).changes();
    for _ in 0..250 {
        next(&mut changes).await;
    }
    assert_soon(directory.path(), &mut changes).await;
}

async fn assert_soon(directory: &Path, changes: &mut Changes) {
    let mut times = Vec::new();
    for number in 0..21 {
        let state = if number % 2 == 0 { PodState::NotReady } else { PodState::Ready };
        fs::write(directory.join(".new"), manifest("timed", 1, state)).unwrap();
        let started = Instant::now();
        fs::rename(directory.join(".new"), directory.join("timed.json")).unwrap();
        assert_eq!(next(changes).await, told("timed", 1, state));
        times.push(started.elapsed());
    }
    assert_is_soon(times);
}

/// By events, long before the directory would be looked at anyway.
fn assert_is_soon(mut times: Vec<Duration>) {
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!("from the renaming to the change: median {median:?}, worst {worst:?}");
    assert!(median < Duration::from_millis(250), "{times:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_is_watched_ends_with_the_stream() {
    // Of this process: other tests have none, each runs in its own.
    let watchers = || {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap();
        let links = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        links.filter(|target| target.to_string_lossy().contains("inotify")).count()
    };
    let (directory, changes) = with_web().await;
    let mut other = PodDirectory::new(directory.path()).changes();
    next(&mut other).await;
    assert_eq!(watchers(), 2);
    drop((changes, other));
    let limit = Instant::now() + Duration::from_secs(60);
    while watchers() > 0 {
        assert!(Instant::now() < limit, "watched for nobody");
        tokio::task::yield_now().await;
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// These pods in this file, and no others.
    Write {
        file: u8,
        pods: BTreeMap<u8, (u8, PodState)>,
        in_place: bool,
    },
    Remove {
        file: u8,
    },
    Break {
        file: u8,
        text: &'static str,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let state = prop_oneof![Just(PodState::NotReady), Just(PodState::Ready), Just(PodState::Terminating)];
    let pods = prop::collection::btree_map(0..3_u8, (0..2_u8, state), 0..3);
    prop_oneof![
        4 => (0..3_u8, pods, any::<bool>()).prop_map(|(file, pods, in_place)| Step::Write { file, pods, in_place }),
        1 => (0..3_u8).prop_map(|file| Step::Remove { file }),
        1 => (0..3_u8, prop_oneof![Just(""), Just("{"), Just("kind: Pod")])
            .prop_map(|(file, text)| Step::Break { file, text }),
    ]
}

/// What each file holds, `None` where that can't be known.
type Files = BTreeMap<u8, Option<BTreeMap<u8, (u8, PodState)>>>;
/// Each pod with the files that describe it.
type Pods = BTreeMap<u8, (u8, PodState, Vec<u8>)>;

/// How the pods are to be told after `before`.
fn expected(files: &Files, before: &Pods) -> Pods {
    let mut pods = Pods::new();
    for pod in 0..3 {
        let describes = |file: &u8| files[file].as_ref().and_then(|pods| pods.get(&pod)).copied();
        let by: Vec<u8> = files.keys().copied().filter(|file| describes(file).is_some()).collect();
        let known = before.get(&pod);
        let now = match by[..] {
            [] => known.filter(|(.., by)| by.iter().any(|file| files.get(file) == Some(&None))).cloned(),
            [file] => describes(&file).map(|(uid, state)| (uid, state, by)),
            _ => known.map(|&(uid, state, _)| (uid, state, by)),
        };
        pods.extend(now.map(|now| (pod, now)));
    }
    pods
}

/// Whether each pod is described once at most, and all of it can be read.
fn is_sure(files: &Files) -> bool {
    let mut pods = files.values().flatten().flat_map(BTreeMap::keys);
    let mut seen = BTreeSet::new();
    files.values().all(Option::is_some) && pods.all(|pod| seen.insert(pod))
}

fn take(directory: &Path, files: &mut Files, step: &Step) {
    let name = |file: u8| format!("{file}.yaml");
    match step {
        Step::Write { file, pods, in_place } => {
            let documents =
                pods.iter().map(|(pod, (uid, state))| manifest(&format!("web-{pod}"), *uid, *state));
            let text = format!("---\n{}\n", documents.collect::<Vec<_>>().join("\n---\n"));
            if *in_place {
                fs::write(directory.join(name(*file)), text).unwrap();
            } else {
                replace(directory, &name(*file), &text);
            }
            files.insert(*file, Some(pods.clone()));
        }
        Step::Remove { file } => {
            if files.remove(file).is_some() {
                fs::remove_file(directory.join(name(*file))).unwrap();
            }
        }
        Step::Break { file, text } => {
            replace(directory, &name(*file), text);
            files.insert(*file, None);
        }
    }
}

async fn told_adds_up(steps: Vec<Step>) {
    let directory = tempfile::tempdir().unwrap();
    let mut changes = PodDirectory::new(directory.path()).changes();
    let (mut files, mut pods, mut heard) = (Files::new(), Pods::new(), BTreeMap::new());
    let last = steps.len().saturating_sub(1);
    for (number, step) in steps.iter().enumerate() {
        let was_sure = is_sure(&files);
        take(directory.path(), &mut files, step);
        // Where how it was decides how it is, each step must have been seen.
        let decides = !was_sure
            || !is_sure(&files)
            || steps.get(number + 1).is_some_and(|next| {
                let mut then = files.clone();
                match next {
                    Step::Break { file, .. } => {
                        then.insert(*file, None);
                    }
                    Step::Write { file, pods, .. } => {
                        then.insert(*file, Some(pods.clone()));
                    }
                    Step::Remove { .. } => {}
                }
                !is_sure(&then)
            });
        if !decides && number != last {
            continue;
        }
        let number = u8::try_from(number).unwrap();
        for change in settle(directory.path(), &mut changes, number).await {
            let before = heard.insert(change.pod.clone(), change.clone());
            // One that was gone may come back as one that terminates.
            let again = before.as_ref() == Some(&change) && change.state != PodState::Terminating;
            assert!(!again, "{change:?} was told twice");
            let replaced = before.filter(|before| before.uid != change.uid);
            let ended = replaced.is_none_or(|before| before.state == PodState::Terminating);
            assert!(ended, "{change:?} was told before the end of the pod that it replaces");
        }
        pods = expected(&files, &pods);
        for pod in 0..3_u8 {
            let name = format!("web-{pod}");
            let heard = heard.get(&PodKey::new("default", &name).unwrap());
            match pods.get(&pod) {
                Some((uid, state, _)) => assert_eq!(heard, Some(&told(&name, *uid, *state))),
                None => assert!(heard.is_none_or(|heard| heard.state == PodState::Terminating), "{heard:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn what_was_told_adds_up_to_what_is_there(steps in prop::collection::vec(step(), 1..16)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(told_adds_up(steps));
    }
}
