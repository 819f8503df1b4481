//! The n-th step fails, or the power goes: at every step, and from every state.

use flock_bin::installer::uninstall;

use crate::failing::{FailingFiles, Failure};
use crate::node::{CONFLIST, Node, RECEIPT};

/// What one of the installed files is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Absent,
    Old,
    New,
}

const OLD: &[&str] = &["0.4.0"];
const NEW: &[&str] = &["0.4.0", "1.0.0"];

struct Texts {
    plugin: [Vec<u8>; 2],
    conflist: [Vec<u8>; 2],
}

/// What both releases install, from a node where nothing fails.
fn texts() -> Texts {
    let texts = [("old", OLD), ("new", NEW)].map(|(name, versions)| {
        let node = Node::new();
        node.release(name, versions);
        node.install(&["--chain", "none"]);
        let mut files = node.files();
        (files.remove("flock").unwrap(), files.remove(CONFLIST).unwrap())
    });
    let [(old_plugin, old_conflist), (new_plugin, new_conflist)] = texts;
    Texts { plugin: [old_plugin, new_plugin], conflist: [old_conflist, new_conflist] }
}

#[track_caller]
fn state(found: Option<&Vec<u8>>, [old, new]: &[Vec<u8>; 2], context: &str) -> State {
    match found {
        None => State::Absent,
        Some(bytes) if bytes == old => State::Old,
        Some(bytes) if bytes == new => State::New,
        Some(bytes) => panic!("{context}: half a file: {:?}", String::from_utf8_lossy(bytes)),
    }
}

impl Texts {
    /// Each file is whole, no runtime reads anything else, and no configuration names a
    /// plugin that is not there.
    #[track_caller]
    fn check(&self, node: &Node, context: &str) -> (State, State) {
        let files = node.files();
        let plugin = state(files.get("flock"), &self.plugin, context);
        let conflist = state(files.get(CONFLIST), &self.conflist, context);
        assert!(
            conflist == State::Absent || plugin >= conflist,
            "{context}: {conflist:?} configuration with {plugin:?} plugin"
        );
        for name in files.keys().filter(|name| !["flock", CONFLIST, RECEIPT].contains(&name.as_str())) {
            assert!(name.starts_with('.') && name.ends_with(".flock-tmp"), "{context}: {name}");
        }
        (plugin, conflist)
    }
}

/// A node in the state `from`, with the new release ready to be installed.
fn before(from: State) -> Node {
    let node = Node::new();
    if from == State::Old {
        node.release("old", OLD);
        node.install(&["--chain", "none"]);
    }
    node.release("new", NEW);
    node
}

#[test]
fn an_installation_that_is_cut_short_leaves_whole_files_and_can_be_repeated_or_undone() {
    let texts = texts();
    for from in [State::Absent, State::Old] {
        let files = FailingFiles::new(usize::MAX, Failure::Error);
        before(from).install_on(&files, &mut |_| {}, &["--chain", "none"]).unwrap();
        let steps = files.steps();
        assert!(steps > 20, "only {steps} steps were counted");
        for (at, failure) in (0..steps).flat_map(|at| Failure::ALL.map(|failure| (at, failure))) {
            for undo in [false, true] {
                let context = format!("from {from:?}, {failure:?} at step {at} of {steps}");
                let node = before(from);
                let files = FailingFiles::new(at, failure);
                node.install_on(&files, &mut |_| {}, &["--chain", "none"]).unwrap_err();
                let (plugin, conflist) = texts.check(&node, &context);
                assert!(plugin >= from && conflist >= from, "{context}: something is lost");
                if undo {
                    node.uninstall();
                    assert_eq!(node.names(), Vec::<String>::new(), "{context}, then uninstalled");
                } else {
                    node.install(&["--chain", "none"]);
                    assert_eq!(texts.check(&node, &context), (State::New, State::New), "{context}");
                    assert_eq!(node.names(), [RECEIPT, CONFLIST, "flock"], "{context}, then repeated");
                }
            }
        }
    }
}

#[test]
fn an_uninstallation_that_is_cut_short_can_be_repeated() {
    let texts = texts();
    for failure in Failure::ALL {
        for at in 0.. {
            let context = format!("{failure:?} at step {at}");
            let node = Node::new();
            node.release("new", NEW);
            node.install(&["--chain", "none"]);
            let files = FailingFiles::new(at, failure);
            let done = uninstall(&node.options(&[]), &files, &mut |_| {});
            texts.check(&node, &context);
            if files.steps() <= at {
                done.unwrap();
                assert_eq!(node.names(), Vec::<String>::new());
                assert!(at > 5, "only {at} steps");
                break;
            }
            node.uninstall();
            assert_eq!(node.names(), Vec::<String>::new(), "{context}");
        }
    }
}
