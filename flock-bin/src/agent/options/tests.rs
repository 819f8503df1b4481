//! What is read from the command line, the environment and the file.

use super::*;

struct Fake {
    file: &'static str,
    node_name: Option<&'static str>,
}

impl Machine for Fake {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "NODE_NAME").then_some(self.node_name)?.map(str::to_owned)
    }
    fn hostname(&self) -> Option<String> {
        Some("Host002".to_owned())
    }
    fn read(&self, _: &Path) -> std::io::Result<String> {
        Ok(self.file.to_owned())
    }
}

const EMPTY: Fake = Fake { file: "", node_name: None };

fn read(arguments: &[&str], machine: &Fake) -> Result<Options, OptionsError> {
    let mut all = vec!["flock-agent", "--node-config", "n.yaml"];
    all.extend(arguments);
    Options::read(all, machine)
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let options = read(&[], &EMPTY).unwrap();
    assert_eq!(options.node_name.as_str(), "host002");
    assert_eq!(options.source, Source::Files { node_config: "n.yaml".into(), pods: None });
    assert_eq!(options.http_address, None);
    assert_eq!(options.proc_dir, Path::new("/proc"));
    assert_eq!(options.run_dir, Path::new("/run/flock"));
    assert_eq!(options.bird_config, Path::new("/etc/flock/bird/bird.conf"));
    assert_eq!(options.bird_socket, Path::new("/run/flock/bird.ctl"));
    assert_eq!(options.announcer, Announcer::Bird);
    assert_eq!(options.log_format, LogFormat::Text);
    assert_eq!((options.gc_interval, options.gc_grace), (Duration::from_secs(60), Duration::from_secs(60)));
}

#[test]
fn collecting_has_an_interval_and_a_grace_period() {
    let machine = Fake { file: "gc-interval: 7\ngc-grace: 8\n", node_name: None };
    let options = read(&["--config", "c.yaml", "--gc-grace", "0"], &machine).unwrap();
    assert_eq!((options.gc_interval, options.gc_grace), (Duration::from_secs(7), Duration::ZERO));
    assert!(read(&["--gc-interval", "0"], &EMPTY).is_err());
}

#[test]
fn the_control_socket_follows_the_run_directory() {
    let options = read(&["--run-dir", "/x"], &EMPTY).unwrap();
    assert_eq!(options.bird_socket, Path::new("/x/bird.ctl"));
}

#[test]
fn a_flag_wins_over_the_file() {
    let machine = Fake { file: "run-dir: /file\nannouncer: none\nbirdc-timeout: 7\n", node_name: Some("n1") };
    let options = read(&["--config", "c.yaml", "--run-dir", "/flag"], &machine).unwrap();
    assert_eq!(options.run_dir, Path::new("/flag"));
    assert_eq!(options.announcer, Announcer::None);
    assert_eq!(options.birdc_timeout, Duration::from_secs(7));
    assert_eq!(options.node_name.as_str(), "n1");
}

#[test]
fn a_misspelt_key_of_the_file_is_named() {
    let machine = Fake { file: "run-dirr: /file\n", node_name: None };
    let error = read(&["--config", "c.yaml"], &machine).unwrap_err().to_string();
    assert!(error.contains("c.yaml") && error.contains("run-dirr"), "{error}");
}

#[test]
fn the_file_keeps_to_the_same_limits() {
    for (file, expected) in [
        ("birdc-timeout: 0\n", "birdc-timeout is 0, expected 1 to 60 seconds"),
        ("address-rest: 90000\n", "address-rest is 90000, expected 0 to 86400 seconds"),
        ("gc-interval: 0\n", "gc-interval is 0, expected 1 to 86400 seconds"),
        ("gc-grace: 90000\n", "gc-grace is 90000, expected 0 to 86400 seconds"),
    ] {
        let error = read(&["--config", "c.yaml"], &Fake { file, node_name: None }).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    assert!(read(&["--birdc-timeout", "0"], &EMPTY).is_err());
    assert!(read(&["--address-rest", "86400"], &EMPTY).is_ok());
}

#[test]
fn options_of_the_other_source_are_refused() {
    let kubernetes = |arguments: &[&str]| {
        let all = ["flock-agent", "--source", "kubernetes"].iter().chain(arguments);
        Options::read(all, &EMPTY)
    };
    let key = "flock.fritzlab.net/agent-not-ready";
    let options = kubernetes(&["--startup-taint", key]).unwrap();
    assert_eq!(options.source, Source::Kubernetes { startup_taint: Some(key.to_owned()) });
    for arguments in [["--node-config", "n.yaml"], ["--pods", "pods"]] {
        let error = kubernetes(&arguments).unwrap_err().to_string();
        assert_eq!(error, "--node-config and --pods go with --source files, found --source kubernetes");
    }
    let error = read(&["--startup-taint", key], &EMPTY).unwrap_err().to_string();
    assert_eq!(error, "--startup-taint goes with --source kubernetes, found --source files");
}

#[test]
fn what_is_missing_is_named() {
    let error = Options::read(["flock-agent"], &EMPTY).unwrap_err().to_string();
    assert_eq!(error, "--source files needs --node-config FILE, the NodeConfig manifest of host002");
    let error = read(&["--node-name", "a/b"], &EMPTY).unwrap_err().to_string();
    assert!(error.starts_with("--node-name: \"a/b\" is not a valid node name"), "{error}");
}

fn check(arguments: &[&str], machine: &Fake) -> CheckOptions {
    let mut all = vec!["flock-agent", "check"];
    all.extend(arguments);
    match Invocation::read(all, machine).unwrap() {
        Invocation::Check(options) => options,
        Invocation::Serve(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_check_has_the_defaults_of_the_agent() {
    let options = check(&[], &EMPTY);
    assert_eq!(
        options,
        CheckOptions {
            offline: false,
            repair: false,
            output: Output::Text,
            run_dir: "/run/flock".into(),
            node_config: None,
            announces: true,
            bird_socket: None,
            birdc_timeout: Duration::from_secs(5),
            proc_dir: "/proc".into(),
        }
    );
}

#[test]
fn a_check_reads_the_agents_configuration_file() {
    let machine = Fake { file: "run-dir: /file\nannouncer: none\nnode-config: n.yaml\n", node_name: None };
    let options = check(&["--config", "c.yaml", "--offline", "--repair", "--output", "json"], &machine);
    assert!(options.offline && options.repair && !options.announces);
    assert_eq!((options.output, options.run_dir), (Output::Json, "/file".into()));
    assert_eq!(options.node_config, Some("n.yaml".into()));
    assert_eq!(check(&["--config", "c.yaml", "--run-dir", "/flag"], &machine).run_dir, Path::new("/flag"));
}

/// What a manual page would be: read the difference before committing it (`UPDATE_GOLDEN=1`).
#[test]
fn the_help_of_check_is_as_it_was_read() {
    let error = Invocation::read(["flock-agent", "check", "--help"], &EMPTY).unwrap_err();
    let help = error.to_string();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/check-help.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &help).unwrap();
    }
    assert_eq!(help, std::fs::read_to_string(&golden).unwrap(), "UPDATE_GOLDEN=1 rewrites it");
}
