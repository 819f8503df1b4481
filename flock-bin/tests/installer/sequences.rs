//! Any sequence of installations, uninstallations, crashes, and things that somebody does.

use std::collections::BTreeMap;
use std::fs;

use flock_bin::installer::{install, uninstall};
use proptest::prelude::*;
use proptest::sample::select;

use crate::failing::{FailingFiles, Failure};
use crate::node::{CONFLIST, Node, RECEIPT};

/// What a file is that somebody wrote.
const SOMEBODY: &[u8] = b"somebody's";

#[derive(Debug, Clone)]
enum Event {
    /// An installation of a release, possibly cut short.
    Install(usize, Option<(usize, Failure)>),
    /// An uninstallation, possibly cut short.
    Uninstall(Option<(usize, Failure)>),
    /// Somebody writes over a file.
    Changes(&'static str),
    /// Somebody removes a file.
    Removes(&'static str),
}

const RELEASES: [(&str, &[&str]); 3] = [("a", &["0.3.1"]), ("b", &["0.4.0"]), ("c", &["0.4.0", "1.1.0"])];

fn event() -> impl Strategy<Value = Event> {
    let cut = || proptest::option::of((0..40_usize, select(&Failure::ALL[..])));
    prop_oneof![
        3 => (0..RELEASES.len(), cut()).prop_map(|(release, cut)| Event::Install(release, cut)),
        2 => cut().prop_map(Event::Uninstall),
        1 => select(&["flock", CONFLIST][..]).prop_map(Event::Changes),
        1 => select(&["flock", CONFLIST][..]).prop_map(Event::Removes),
    ]
}

/// What each release puts into the two files.
fn releases() -> Vec<BTreeMap<String, Vec<u8>>> {
    let releases = RELEASES.iter().map(|(name, versions)| {
        let node = Node::new();
        node.release(name, versions);
        node.install(&["--chain", "none"]);
        let mut files = node.files();
        files.remove(RECEIPT);
        files
    });
    releases.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn files_are_whole_and_somebodys_are_never_taken_away(events in proptest::collection::vec(event(), 1..12)) {
        let releases = releases();
        let node = Node::new();
        let path = |name: &str| if name == "flock" { node.bin().join(name) } else { node.conf().join(name) };
        fs::write(node.conf().join("10-other.conflist"), "other").unwrap();
        for event in events {
            let before = node.files();
            let options = node.options(&["--chain", "none"]);
            let (at, failure) = match &event {
                Event::Install(_, Some(cut)) | Event::Uninstall(Some(cut)) => *cut,
                _ => (usize::MAX, Failure::Error),
            };
            let files = FailingFiles::new(at, failure);
            let done = match &event {
                Event::Install(release, _) => {
                    let (name, versions) = RELEASES[*release];
                    node.release(name, versions);
                    install(&options, &files, &mut |_| {})
                }
                Event::Uninstall(_) => uninstall(&options, &files, &mut |_| {}),
                Event::Changes(name) => {
                    fs::write(path(name), SOMEBODY).unwrap();
                    Ok(())
                }
                Event::Removes(name) => {
                    let _ = fs::remove_file(path(name));
                    Ok(())
                }
            };
            let after = node.files();
            prop_assert_eq!(after.get("10-other.conflist").map(Vec::as_slice), Some(&b"other"[..]));
            for name in ["flock", CONFLIST] {
                let found = after.get(name);
                let whole = found.is_none_or(|found| {
                    found == SOMEBODY || releases.iter().any(|release| release.get(name) == Some(found))
                });
                prop_assert!(whole, "{:?}: half of {}: {:?}", event, name, found);
                let somebodys = before.get(name).is_some_and(|found| found == SOMEBODY);
                if let Event::Install(..) = event
                    && somebodys
                    && found != before.get(name)
                {
                    prop_assert_eq!(after.get(&format!("{name}.before-flock")), before.get(name));
                }
                match event {
                    Event::Uninstall(_) if somebodys => prop_assert_eq!(found, before.get(name)),
                    Event::Uninstall(_) if done.is_ok() => prop_assert_eq!(found, None),
                    Event::Install(release, _) if done.is_ok() => {
                        prop_assert_eq!(found, releases[release].get(name));
                    }
                    _ => {}
                }
            }
            let receipt = after.contains_key(RECEIPT);
            match event {
                Event::Install(..) if done.is_ok() => prop_assert!(receipt),
                Event::Uninstall(_) if done.is_ok() => prop_assert!(!receipt),
                _ => {}
            }
        }
    }
}
