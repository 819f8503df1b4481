//! Installing again, upgrading, and taking away what was installed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use crate::node::{CONFLIST, Node, RECEIPT, assert_said, mode, script};

#[test]
fn both_files_come_with_a_receipt() {
    let node = Node::new();
    let said = node.install(&[]);
    assert_said(&said, &format!("wrote {}", node.bin().join("flock").display()));
    assert_said(&said, &format!("wrote {}", node.conf().join(CONFLIST).display()));
    assert_eq!(node.names(), [RECEIPT, CONFLIST, "flock"]);
    assert_eq!(mode(&node.bin().join("flock")), 0o755);
    assert_eq!(mode(&node.conf().join(CONFLIST)), 0o644);
    assert_eq!(mode(&node.conf().join(RECEIPT)), 0o600);
    assert_eq!(fs::read(node.bin().join("flock")).unwrap(), fs::read(node.path("flock")).unwrap());
}

#[test]
fn directories_that_are_missing_are_made() {
    let node = Node::new();
    fs::remove_dir_all(node.path("opt")).unwrap();
    fs::remove_dir_all(node.path("etc")).unwrap();
    node.install(&[]);
    assert_eq!(node.names(), [RECEIPT, CONFLIST, "flock"]);
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    let node = Node::new();
    node.install(&[]);
    let inodes = || {
        [node.bin().join("flock"), node.conf().join(CONFLIST), node.conf().join(RECEIPT)]
            .map(|path| fs::metadata(path).unwrap().ino())
    };
    let before = inodes();
    let said = node.install(&[]);
    assert_eq!(said.iter().filter(|line| line.ends_with("is as it should be")).count(), 2, "{said:#?}");
    assert_eq!(inodes(), before);
}

#[test]
fn a_changed_mode_or_a_link_is_set_right() {
    let node = Node::new();
    node.install(&[]);
    Command::new("chmod").arg("600").arg(node.bin().join("flock")).status().unwrap();
    let elsewhere = node.path("elsewhere");
    fs::rename(node.conf().join(CONFLIST), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, node.conf().join(CONFLIST)).unwrap();
    node.install(&[]);
    assert_eq!(mode(&node.bin().join("flock")), 0o755);
    assert!(fs::symlink_metadata(node.conf().join(CONFLIST)).unwrap().is_file());
    assert!(elsewhere.exists(), "what the link led to is somebody else's");
}

#[test]
fn a_plugin_that_runs_is_replaced() {
    let node = Node::new();
    // A binary: only those are "busy" while they run.
    fs::copy("/bin/sleep", node.bin().join("flock")).unwrap();
    let mut running = loop {
        match Command::new(node.bin().join("flock")).arg("1000").stdin(Stdio::null()).spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
            child => break child.unwrap(),
        }
    };
    assert!(fs::OpenOptions::new().write(true).open(node.bin().join("flock")).is_err(), "it is busy");
    let said = node.install(&[]);
    assert_said(&said, &format!("replaced {}", node.bin().join("flock").display()));
    assert!(running.try_wait().unwrap().is_none(), "it goes on");
    running.kill().unwrap();
    running.wait().unwrap();
}

#[test]
fn an_upgrade_replaces_both_and_can_be_taken_away() {
    let node = Node::new();
    node.install(&[]);
    node.release("two", &["0.4.0"]);
    node.install(&[]);
    assert_eq!(fs::read(node.bin().join("flock")).unwrap(), fs::read(node.path("flock")).unwrap());
    assert_eq!(node.chain().1, "0.4.0");
    let said = node.uninstall();
    assert_said(&said, &format!("removed {}", node.bin().join("flock").display()));
    assert_eq!(node.names(), Vec::<String>::new());
}

#[test]
fn a_configuration_of_another_name_does_not_stay() {
    let node = Node::new();
    node.install(&[]);
    node.install(&["--conf-name", "05-flock.conflist"]);
    assert_eq!(node.names(), [RECEIPT, "05-flock.conflist", "flock"]);
    // Uninstalling asks the receipt and not the option.
    node.uninstall();
    assert_eq!(node.names(), Vec::<String>::new());
}

#[test]
fn a_plugin_that_does_not_work_is_not_installed() {
    let node = Node::new();
    node.install(&[]);
    let before = node.files();
    script(&node.path("flock"), "echo cannot execute >&2; exit 126");
    let error = node.install_on(&flock_bin::installer::files::HostFiles, &mut |_| {}, &[]).unwrap_err();
    assert!(
        error.to_string().contains("cannot execute") && error.to_string().contains("nothing was installed")
    );
    node.release("three", &["9.0.0"]);
    let error = node.install_on(&flock_bin::installer::files::HostFiles, &mut |_| {}, &[]).unwrap_err();
    assert!(error.to_string().contains("speaks CNI 9.0.0, expected one of 0.3.0"), "{error}");
    fs::remove_file(node.path("flock")).unwrap();
    let error = node.install_on(&flock_bin::installer::files::HostFiles, &mut |_| {}, &[]).unwrap_err();
    assert!(error.to_string().contains("say where it is with --plugin"), "{error}");
    assert_eq!(node.files(), before);
}
