//! `docs/troubleshooting.md` names every CNI code, and no message that nobody says.
#![cfg(feature = "agent")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use flock_bin::agent::metrics::Code;

const DOCUMENT: &str = include_str!("../../docs/troubleshooting.md");

/// What is shorter is found anywhere.
const TELLING: usize = 10;

/// The cells of each row of the table with this header.
fn table(header: &str) -> Vec<Vec<&'static str>> {
    let mut lines = DOCUMENT.lines().skip_while(|line| *line != header);
    assert!(lines.next().is_some(), "docs/troubleshooting.md has no table {header}");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_code_is_explained() {
    let mut named: BTreeSet<&str> =
        table("| code | the message | what to do |").iter().map(|row| row[0]).collect();
    let unused = DOCUMENT.split_once("this release: ").unwrap().1.split_once('.').unwrap().0;
    named.extend(unused.split(", "));
    named.extend(table("| code | STATUS says | what to do |").iter().map(|row| row[0]));
    let all: BTreeSet<&str> = Code::ALL
        .iter()
        .filter(|code| !matches!(code, Code::Success | Code::Other))
        .map(|code| code.as_str())
        .collect();
    assert_eq!(named, all);
}

#[test]
fn every_message_is_one_that_somebody_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = String::new();
    for member in ["flock-core", "flock-netlink", "flock-bird", "flock-k8s", "flock-bin"] {
        read(&root.join(member).join("src"), &mut sources);
    }
    let sources = joined(&sources);
    let tables = [
        (1, "| code | the message | what to do |"),
        (1, "| code | STATUS says | what to do |"),
        (0, "| the last line | what to do |"),
    ];
    let mut compared = 0;
    for (column, header) in tables {
        for row in table(header) {
            for fragment in quoted(row[column]).flat_map(|message| message.split('…')) {
                let fragment = fragment.trim();
                if fragment.len() >= TELLING && !fragment.contains("/run/flock") {
                    assert!(sources.contains(fragment), "nobody says {fragment:?}: {row:?}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 20, "only {compared} were compared");
}

fn read(directory: &Path, all: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// Without the breaks inside of string literals.
fn joined(source: &str) -> String {
    let mut parts = source.split("\\\n");
    let mut joined = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        joined.push_str(part.trim_start());
    }
    joined
}
