//! What the configuration says, by what is on the node.

use std::fs;
use std::path::Path;

use crate::node::{CONFLIST, Node, assert_said, script};

const OLD: &[&str] = &["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0"];
const DEBIAN: &[&str] = &["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"];
const NEW: &[&str] = &["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[track_caller]
fn assert_golden(node: &Node, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/installer/golden").join(name);
    let found = fs::read_to_string(node.conf().join(CONFLIST)).unwrap();
    if std::env::var_os("FLOCK_UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        fs::write(&path, &found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found,
        expected,
        "{} differs; to rewrite it, run the test with FLOCK_UPDATE_GOLDEN=1 and read the difference",
        path.display()
    );
}

#[test]
fn alone() {
    let node = Node::new();
    let said = node.install(&[]);
    assert_said(&said, "left portmap out, host ports do not work on this node: ");
    assert_said(&said, "left bandwidth out, bandwidth limits do not work on this node: ");
    assert_golden(&node, "alone.conflist");
}

#[test]
fn with_plugins_of_debian_12() {
    let node = Node::new();
    node.plugin("portmap", DEBIAN);
    node.plugin("bandwidth", DEBIAN);
    node.install(&[]);
    assert_golden(&node, "debian.conflist");
}

#[test]
fn with_new_plugins() {
    let node = Node::new();
    node.plugin("portmap", NEW);
    node.plugin("bandwidth", NEW);
    node.install(&[]);
    assert_golden(&node, "new.conflist");
}

#[test]
fn with_all_options() {
    let node = Node::new();
    node.plugin("portmap", NEW);
    node.plugin("bandwidth", NEW);
    node.install(&[
        "--name",
        "pods",
        "--run-dir",
        "/run/other",
        "--mtu",
        "9000",
        "--timeout-seconds",
        "30",
        "--chain",
        "bandwidth",
    ]);
    assert_golden(&node, "options.conflist");
}

#[test]
fn one_old_plugin_holds_back_the_version_of_all() {
    let node = Node::new();
    node.plugin("portmap", NEW);
    node.plugin("bandwidth", OLD);
    node.install(&[]);
    assert_eq!(node.chain(), (vec!["flock".into(), "portmap".into(), "bandwidth".into()], "0.4.0".into()));
    assert!(node.conflist().get("cniVersions").is_none(), "newer versions are not for this chain");
}

#[test]
fn what_is_not_wanted_is_not_asked() {
    let node = Node::new();
    script(&node.bin().join("portmap"), &format!("touch {}", node.path("asked").display()));
    node.install(&["--chain", "none"]);
    assert_eq!(node.chain(), (vec!["flock".into()], "1.0.0".into()));
    assert!(!node.path("asked").exists());
}

#[test]
fn a_plugin_without_a_common_version_is_left_out() {
    let node = Node::new();
    node.plugin("portmap", &["0.1.0", "0.2.0"]);
    node.plugin("bandwidth", DEBIAN);
    let said = node.install(&[]);
    assert_said(&said, "it speaks CNI 0.1.0, 0.2.0, expected one of 0.3.1, 0.4.0, 1.0.0, 1.1.0");
    assert_eq!(node.chain(), (vec!["flock".into(), "bandwidth".into()], "1.0.0".into()));
}

#[test]
fn plugins_that_do_not_work_are_left_out() {
    for (text, expected) in [
        ("sleep 1000", "it did not answer VERSION within 5 s"),
        ("echo hello", "it answered VERSION with \"hello\""),
        ("exit 1", "it answered VERSION with nothing"),
        ("echo '{\"code\": 4, \"msg\": \"unknown CNI_COMMAND\"}'", "unknown CNI_COMMAND"),
    ] {
        let node = Node::new();
        script(&node.bin().join("portmap"), text);
        node.plugin("bandwidth", DEBIAN);
        let said = node.install(&[]);
        assert_said(&said, "left portmap out, host ports do not work on this node: ");
        assert_said(&said, expected);
        assert_eq!(node.chain(), (vec!["flock".into(), "bandwidth".into()], "1.0.0".into()), "{text}");
    }
    // Not executable, and a directory.
    let node = Node::new();
    fs::write(node.bin().join("portmap"), "").unwrap();
    fs::create_dir(node.bin().join("bandwidth")).unwrap();
    let said = node.install(&[]);
    assert_eq!(
        said.iter().filter(|line| line.contains("it can't be executed: Permission denied")).count(),
        2
    );
    assert_eq!(node.chain(), (vec!["flock".into()], "1.0.0".into()));
}

/// Of the package containernetworking-plugins.
#[test]
fn the_real_plugins_are_chained() {
    let node = Node::new();
    for name in ["portmap", "bandwidth"] {
        let from = Path::new("/usr/lib/cni").join(name);
        fs::copy(&from, node.bin().join(name)).unwrap_or_else(|error| {
            panic!("{}: {error}; install the package containernetworking-plugins", from.display())
        });
    }
    let said = node.install(&[]);
    assert!(!said.iter().any(|line| line.contains("left")), "{said:#?}");
    let (chain, version) = node.chain();
    assert_eq!(chain, ["flock", "portmap", "bandwidth"]);
    assert!(["1.0.0", "1.1.0"].contains(&version.as_str()), "{version}");
}

/// The other side of what is written: the plugin reads it.
#[test]
fn the_plugin_understands_what_is_written() {
    let node = Node::new();
    node.install(&["--mtu", "1400", "--timeout-seconds", "30", "--run-dir", "/run/x"]);
    let list = node.conflist();
    let mut config = list["plugins"][0].clone();
    // As libcni does before it calls a plugin.
    config["cniVersion"] = list["cniVersion"].clone();
    config["name"] = list["name"].clone();
    let config = flock_core::cni::NetworkConfig::parse(config.to_string().as_bytes()).unwrap();
    assert_eq!(config.mtu, Some(1400));
    assert_eq!(config.run_dir, Path::new("/run/x"));
    assert_eq!(config.timeout.as_secs(), 30);
}
