//! The small examples, run as programs.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::process::Command;

use flock_examples::programs;

fn said_by(example: &str) -> Vec<String> {
    let output = Command::new(programs::example(example).unwrap()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{}\n{errors}", output.status);
    assert_eq!(errors, "");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_allocator_and_the_store_serve_another_cni() {
    let said = said_by("allocator");
    let with = |start: &str| -> Vec<&String> { said.iter().filter(|line| line.starts_with(start)).collect() };
    let addresses =
        |line: &str| line.split(' ').skip_while(|word| !word.contains("2001:")).collect::<Vec<_>>().join(" ");
    // The first of each prefix; 10.0.1.1 is the router's own.
    let given: Vec<String> = with("gave pod default/").iter().map(|line| addresses(line)).collect();
    assert_eq!(given, ["2001:db8:1::1 10.0.1.2", "2001:db8:1::2 10.0.1.3", "2001:db8:1::3 10.0.1.4"]);
    assert_eq!(with("kept pod default/").len(), 2);
    let refused = with("refused: ");
    assert_eq!(refused.len(), 1);
    assert!(refused[0].contains("10.0.1.2 is already in use by pod default/web"), "{}", refused[0]);
    assert!(said.contains(&"10.0.1.0/29: 2 in use, 1 resting".to_owned()), "{said:#?}");
    let exhausted = with("exhausted: ");
    assert_eq!(exhausted.len(), 1, "{said:#?}");
    assert!(exhausted[0].contains("10.0.1.0/29 is exhausted: 5 addresses in all, 4 in use, 1 resting"));
}

#[test]
fn flock_is_embedded_with_another_dataplane() {
    let said = said_by("embed");
    let count = |text: &str| said.iter().filter(|line| line.contains(text)).count();
    // A repeated ADD gets the same answer, a repeated DEL is success.
    assert_eq!(count("ADD: 2001:db8:1::1/128, 10.0.1.1/32"), 2, "{said:#?}");
    let port = "switch: port for 0123456789ab/eth0 with 2001:db8:1::1 and 10.0.1.1, mtu 9000";
    assert!(count(port) >= 1, "{said:#?}");
    assert_eq!(count("CHECK: as it should be"), 1);
    assert_eq!(count("DEL: done"), 2);
    assert_eq!(count("switch: port removed"), 1, "{said:#?}");
    assert_eq!(count("switch: summaries 10.0.1.0/24, 2001:db8:1::/64"), 1, "{said:#?}");
}
