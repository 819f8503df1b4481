//! The plugin's decisions, without a process: what it reads and what it leaves behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use flock_bin::plugin::{Environment, Outcome, run};
use flock_core::client::Deadline;
use serde_json::{Value, json};

#[derive(Debug, Default)]
struct Fake {
    arguments: Vec<&'static str>,
    variables: BTreeMap<&'static str, OsString>,
    /// `None` never ends.
    input: Option<Vec<u8>>,
    terminal: bool,
}

impl Environment for Fake {
    fn arguments(&self) -> Vec<OsString> {
        self.arguments.iter().map(OsString::from).collect()
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }

    fn input(&self, limit: usize, deadline: Deadline) -> io::Result<Vec<u8>> {
        assert!(deadline.limit() <= Duration::from_secs(10), "reading is bounded: {deadline:?}");
        match &self.input {
            Some(bytes) => Ok(bytes[..bytes.len().min(limit)].to_owned()),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn input_is_terminal(&self) -> bool {
        self.terminal
    }

    fn output_is_terminal(&self) -> bool {
        self.terminal
    }
}

impl Fake {
    fn verb(verb: &str) -> Self {
        let variables = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", "0123456789ab"),
            ("CNI_NETNS", "/run/netns/pod1"),
            ("CNI_IFNAME", "eth0"),
        ];
        let variables = variables.map(|(name, value)| (name, OsString::from(value))).into();
        // An agent that is not there: what gets as far as this answers code 11.
        let input = json!({"cniVersion": "1.1.0", "name": "flock", "runDir": "/nonexistent/flock"});
        Self { variables, input: Some(input.to_string().into_bytes()), ..Self::default() }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.insert(name, value.into());
        self
    }

    fn reading(self, input: impl Into<Vec<u8>>) -> Self {
        Self { input: Some(input.into()), ..self }
    }
}

fn json_of(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.output).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

#[track_caller]
fn assert_fails(fake: &Fake, code: u32, expected: &str) -> Value {
    let outcome = run(fake);
    assert_eq!(outcome.status, 1, "{outcome:?}");
    let error = json_of(&outcome);
    assert_eq!(error["code"], code, "{error}");
    assert!(error["msg"].as_str().unwrap().contains(expected), "{error}");
    assert!(error["details"].is_string(), "{error}");
    error
}

#[test]
fn version_is_answered_with_any_standard_input_or_none() {
    for (input, version) in
        [(Some(""), "1.1.0"), (None, "1.1.0"), (Some(r#"{"cniVersion": "0.3.1"}"#), "0.3.1")]
    {
        let variables = [("CNI_COMMAND", OsString::from("VERSION"))].into();
        let outcome = run(&Fake { variables, input: input.map(Into::into), ..Fake::default() });
        assert_eq!(outcome.status, 0);
        assert_eq!(
            json_of(&outcome),
            json!({"cniVersion": version, "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
        );
    }
    let garbage = Fake::verb("VERSION").reading("{");
    assert_fails(&garbage, 6, "not valid JSON");
    assert_eq!(run(&Fake { terminal: true, ..garbage }).status, 0, "a terminal is not read");
}

#[test]
fn an_unknown_verb_is_code_4() {
    assert_fails(&Fake::verb("add"), 4, "CNI_COMMAND is \"add\", expected ADD, CHECK, DEL, GC");
}

#[test]
fn missing_variables_are_named_all_at_once() {
    let variables: BTreeMap<_, _> = [("CNI_COMMAND", OsString::from("ADD"))].into();
    let fake = Fake { variables: variables.clone(), ..Fake::verb("ADD") };
    assert_fails(&fake, 4, "CNI_CONTAINERID is missing; CNI_NETNS is missing; CNI_IFNAME is missing");
    // Also where standard input is no use, and in the configuration's version where it is.
    assert_fails(&Fake { variables: variables.clone(), ..Fake::default() }, 4, "is missing");
    let old = Fake { variables, ..Fake::default() }.reading(r#"{"cniVersion": "0.4.0"}"#);
    assert_eq!(assert_fails(&old, 4, "is missing")["cniVersion"], "0.4.0");
}

#[test]
fn an_invalid_variable_is_code_4() {
    assert_fails(&Fake::verb("ADD").with("CNI_IFNAME", "a/b"), 4, "CNI_IFNAME: \"a/b\" is not a valid");
    assert_fails(&Fake::verb("ADD").with("CNI_CONTAINERID", "-"), 4, "CNI_CONTAINERID: \"-\" is not a valid");
    let mut fake = Fake::verb("ADD");
    fake.variables.insert("CNI_NETNS", OsString::from_vec(vec![b'/', 0xff]));
    assert_fails(&fake, 4, "CNI_NETNS is /\u{fffd}, expected UTF-8");
}

#[test]
fn cni_path_is_never_needed_and_del_needs_no_namespace() {
    for verb in ["ADD", "CHECK", "DEL", "GC"] {
        assert_fails(&Fake::verb(verb), 11, "flock-agent is not running");
    }
    // Not even a deletion can be queued there.
    assert_fails(
        &Fake::verb("DEL"),
        11,
        "can't be queued: the run directory /nonexistent/flock can't be made",
    );
    assert_fails(&Fake::verb("DEL").with("CNI_NETNS", ""), 11, "flock-agent is not running");
    assert_fails(&Fake::verb("STATUS"), 50, "flock-agent is not running");
}

#[test]
fn what_is_wrong_with_the_configuration_is_told_without_an_agent() {
    for (input, code, expected) in [
        ("", 6, "the network configuration is empty"),
        ("{", 6, "not valid JSON"),
        ("[]", 6, "expected a JSON object"),
        (r#"{"cniVersion": 1}"#, 6, "\"cniVersion\" is 1, expected a string"),
        (r#"{"name": "flock"}"#, 1, "has no \"cniVersion\""),
        (r#"{"cniVersion": "1.1.0", "timeoutSeconds": 0}"#, 7, "\"timeoutSeconds\" is 0, expected"),
        (r#"{"cniVersion": "1.1.0", "timeoutSeconds": 111}"#, 7, "\"timeoutSeconds\" is 111, expected"),
        (r#"{"cniVersion": "1.1.0", "runDir": "x"}"#, 7, "\"runDir\" is \"x\", expected the absolute path"),
    ] {
        assert_fails(&Fake::verb("ADD").reading(input), code, expected);
    }
    let unknown = Fake::verb("ADD").reading(r#"{"cniVersion": "2.0.0"}"#);
    let error = assert_fails(&unknown, 1, "\"2.0.0\" is not supported");
    assert!(error["details"].as_str().unwrap().contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{error}");
    let old = Fake::verb("ADD").reading(r#"{"cniVersion": "0.3.1", "runDir": 1}"#);
    assert_eq!(assert_fails(&old, 6, "\"runDir\"")["cniVersion"], "0.3.1");
}

#[test]
fn verbs_that_the_version_does_not_have_are_code_1() {
    for (verb, version) in [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0")] {
        let input = json!({"cniVersion": version, "name": "flock"}).to_string();
        assert_fails(&Fake::verb(verb).reading(input), 1, &format!("{verb} needs CNI version"));
    }
}

#[test]
fn standard_input_that_never_ends_or_is_endless_is_an_error() {
    assert_fails(&Fake { input: None, ..Fake::verb("ADD") }, 5, "standard input did not end within 10 s");
    assert_fails(&Fake { input: None, ..Fake::verb("STATUS") }, 5, "standard input did not end within 2 s");
    assert_fails(&Fake::verb("ADD").reading(vec![b' '; (1 << 20) + 1]), 7, "more than 1048576 bytes");
}

#[test]
fn a_person_is_told_what_it_is_and_a_runtime_gets_json() {
    let person = run(&Fake { terminal: true, ..Fake::default() });
    assert_eq!((person.status, person.output.as_str()), (1, ""));
    for said in ["flock is a CNI plugin", "flock-agent", "CNI_COMMAND=VERSION flock", "--help"] {
        assert!(person.notice.contains(said), "{}", person.notice);
    }
    assert_eq!(assert_fails(&Fake::default(), 4, "CNI_COMMAND is missing")["cniVersion"], "1.1.0");
    assert!(run(&Fake::default()).notice.contains("flock is a CNI plugin"));
    assert_fails(&Fake::default().with("CNI_COMMAND", ""), 4, "CNI_COMMAND is missing");
}

#[test]
fn help_and_version_are_options_for_people_only() {
    let by_hand = |option| run(&Fake { arguments: vec![option], terminal: true, ..Fake::default() });
    for option in ["--help", "-h"] {
        let outcome = by_hand(option);
        assert!(outcome.status == 0 && outcome.output.starts_with("flock is a CNI plugin"), "{outcome:?}");
    }
    let version = format!("flock {} (CNI 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0)\n", env!("CARGO_PKG_VERSION"));
    for option in ["--version", "-V"] {
        assert_eq!(by_hand(option).output, version);
    }
    let wrong = by_hand("add");
    assert_eq!(wrong.status, 1);
    assert!(wrong.notice.starts_with("flock: \"add\" is not an option, expected --help"), "{wrong:?}");
    assert_fails(&Fake { arguments: vec!["--help"], ..Fake::verb("ADD") }, 11, "is not running");
}
