//! The program as it is run.

use std::process::{Command, Output};

use crate::node::{CONFLIST, Node, RECEIPT};

fn run(environment: &[(&str, &str)], arguments: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flock-installer"));
    command.env_clear().envs(environment.iter().copied()).args(arguments).output().unwrap()
}

#[test]
fn it_installs_by_default_and_uninstalls_when_told() {
    let node = Node::new();
    let output = run(&[], &node.arguments(&[]));
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(&format!("wrote {}\n", node.conf().join(CONFLIST).display())), "{said}");
    assert_eq!(node.names(), [RECEIPT, CONFLIST, "flock"]);
    let output = run(&[], &node.arguments(&["uninstall"]));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(node.names(), Vec::<String>::new());
}

#[test]
fn every_option_is_an_environment_variable_too() {
    let node = Node::new();
    node.plugin("bandwidth", &["0.4.0"]);
    let (bin, conf, plugin) = (node.bin(), node.conf(), node.path("flock"));
    let environment = [
        ("FLOCK_BIN_DIR", bin.to_str().unwrap()),
        ("FLOCK_CONF_DIR", conf.to_str().unwrap()),
        ("FLOCK_PLUGIN", plugin.to_str().unwrap()),
        ("FLOCK_CONF_NAME", "02-x.conflist"),
        ("FLOCK_NETWORK_NAME", "pods"),
        ("FLOCK_RUN_DIR", "/run/x"),
        ("FLOCK_MTU", "1400"),
        ("FLOCK_TIMEOUT_SECONDS", "20"),
        ("FLOCK_CHAIN", "bandwidth"),
    ];
    let output = run(&environment, &[]);
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read(conf.join("02-x.conflist")).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let flock = &list["plugins"][0];
    assert_eq!((&list["name"], &list["cniVersion"]), (&"pods".into(), &"0.4.0".into()));
    assert_eq!((&flock["runDir"], &flock["mtu"]), (&"/run/x".into(), &1400.into()));
    assert_eq!((&flock["timeoutSeconds"], &list["plugins"][1]["type"]), (&20.into(), &"bandwidth".into()));
    // Each of them is in the help.
    let help = String::from_utf8(run(&[], &["--help".to_owned()]).stdout).unwrap();
    for (variable, _) in environment {
        assert!(help.contains(&format!("[env: {variable}=")), "{variable} is not in the help:\n{help}");
    }
}

#[test]
fn what_went_wrong_stands_on_the_last_line_and_in_the_status() {
    let node = Node::new();
    std::fs::remove_file(node.path("flock")).unwrap();
    let output = run(&[], &node.arguments(&[]));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("flock-installer: no plugin to install at "), "{said}");
    let output = run(&[], &["--mtu".to_owned(), "1".to_owned()]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(run(&[], &["remove".to_owned()]).status.code(), Some(2));
}
