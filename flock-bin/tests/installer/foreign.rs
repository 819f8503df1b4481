//! Files of others are left alone, and so are those that somebody changed.

use std::fs;
use std::process::Command;

use flock_bin::installer::files::HostFiles;
use flock_bin::installer::uninstall;

use crate::node::{CONFLIST, Node, RECEIPT, assert_said};

const FOREIGN: &[&str] = &["00-other.conf.tmp", ".hidden", "10-other.conflist", "flock.flock-tmp", ".x.tmp"];

#[test]
fn files_of_others_stay_as_they_are() {
    let node = Node::new();
    for name in FOREIGN {
        fs::write(node.conf().join(name), name).unwrap();
    }
    fs::write(node.bin().join("other"), "other").unwrap();
    let before = node.files();
    node.install(&[]);
    node.uninstall();
    assert_eq!(node.files(), before);
}

#[test]
fn what_a_killed_run_left_is_removed() {
    let node = Node::new();
    for path in [
        node.bin().join(".flock.0123456789abcdef.flock-tmp"),
        node.conf().join(".01-flock.conflist.0123456789abcdef.flock-tmp"),
    ] {
        fs::write(path, "half").unwrap();
    }
    let said = node.install(&[]);
    assert_eq!(said.iter().filter(|line| line.contains("left by a run that was cut short")).count(), 2);
    assert_eq!(node.names(), [RECEIPT, CONFLIST, "flock"]);
}

#[test]
fn what_was_there_before_is_kept_under_another_name() {
    let node = Node::new();
    let (conflist, plugin) = (node.conf().join(CONFLIST), node.bin().join("flock"));
    fs::write(&conflist, "{\"theirs\": true}").unwrap();
    fs::write(&plugin, "their flock").unwrap();
    let said = node.install(&[]);
    for path in [&conflist, &plugin] {
        let kept = format!("{}.before-flock", path.display());
        assert_said(
            &said,
            &format!("{} was not put there by flock-installer: kept as {kept}", path.display()),
        );
    }
    let kept = || {
        let read = |path: &std::path::Path| fs::read_to_string(format!("{}.before-flock", path.display()));
        (read(&conflist).unwrap(), read(&plugin).unwrap())
    };
    let theirs = ("{\"theirs\": true}".to_owned(), "their flock".to_owned());
    assert_eq!(kept(), theirs);
    // A later change is not what was there before.
    fs::write(&conflist, "changed").unwrap();
    node.install(&[]);
    node.uninstall();
    assert_eq!(kept(), theirs);
    assert_eq!(node.names(), [format!("{CONFLIST}.before-flock"), "flock.before-flock".to_owned()]);
}

/// As where the system's own packages have put it there.
#[test]
fn what_was_there_before_and_is_the_same_is_not_taken_away() {
    let node = Node::new();
    let plugin = node.bin().join("flock");
    node.install(&[]);
    let config = fs::read(node.conf().join(CONFLIST)).unwrap();
    node.uninstall();

    Command::new("cp").arg("-p").args([&node.path("flock"), &plugin]).status().unwrap();
    for _ in 0..2 {
        assert_said(&node.install(&[]), "flock is as it should be, and not put there by flock-installer");
    }
    node.uninstall();
    assert_eq!(node.names(), ["flock"]);

    fs::write(node.conf().join(CONFLIST), config).unwrap();
    Command::new("chmod").arg("644").arg(node.conf().join(CONFLIST)).status().unwrap();
    let before = node.files();
    node.install(&[]);
    assert_eq!(node.files(), before, "there is nothing that a receipt could be about");
    assert_said(&node.uninstall(), "nothing to uninstall: ");
    assert_eq!(node.files(), before);

    // The next release differs: now it is the installer's.
    node.release("two", &["0.4.0"]);
    node.install(&[]);
    node.uninstall();
    assert_eq!(node.names(), [format!("{CONFLIST}.before-flock"), "flock.before-flock".to_owned()]);
}

#[test]
fn without_a_receipt_nothing_is_taken_away() {
    let node = Node::new();
    fs::write(node.bin().join("flock"), "by hand").unwrap();
    fs::write(node.conf().join(CONFLIST), "{}").unwrap();
    let before = node.files();
    assert_said(&node.uninstall(), "nothing to uninstall: ");
    assert_eq!(node.files(), before);
}

#[test]
fn what_was_changed_since_is_left_and_named() {
    let node = Node::new();
    node.install(&[]);
    fs::write(node.conf().join(CONFLIST), "{\"mine\": true}").unwrap();
    let said = node.uninstall();
    assert_said(&said, &format!("left {}: it is not what", node.conf().join(CONFLIST).display()));
    assert_said(&said, &format!("removed {}", node.bin().join("flock").display()));
    assert_eq!(node.names(), [CONFLIST]);
}

#[test]
fn what_is_gone_already_is_no_error() {
    let node = Node::new();
    node.install(&[]);
    fs::remove_file(node.bin().join("flock")).unwrap();
    assert_said(&node.uninstall(), "flock is not there any more");
    assert_eq!(node.names(), Vec::<String>::new());
    assert_said(&node.uninstall(), "nothing to uninstall: ");
}

#[test]
fn a_damaged_receipt_takes_nothing_away_and_is_replaced_by_the_next_installation() {
    for damaged in ["", "{}", r#"{"version": 2}"#, r#"{"version": 1, "plugin": {"../../x": []}}"#] {
        let node = Node::new();
        node.install(&[]);
        fs::write(node.conf().join(RECEIPT), damaged).unwrap();
        let before = node.files();
        let error = uninstall(&node.options(&[]), &HostFiles, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("is no receipt of flock-installer"), "{error}");
        assert_eq!(node.files(), before, "{damaged}");
        assert_said(&node.install(&[]), "going on with a new one");
        node.uninstall();
        assert_eq!(node.names(), Vec::<String>::new(), "{damaged}");
    }
}

#[test]
fn a_missing_directory_is_nothing_to_uninstall() {
    let node = Node::new();
    fs::remove_dir_all(node.path("etc")).unwrap();
    fs::remove_dir_all(node.path("opt")).unwrap();
    assert_said(&node.uninstall(), "nothing to uninstall: ");
    assert!(!node.conf().exists());
}
