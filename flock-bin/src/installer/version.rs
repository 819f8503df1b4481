//! Asking a CNI plugin which versions of the specification it speaks (its verb VERSION).

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flock_core::client::{Bounded, Deadline};
use flock_core::cni::SpecVersion;
use serde_json::Value;

/// A plugin that takes longer would make the node wait for every pod.
const LIMIT: Duration = Duration::from_secs(5);

/// More than any answer has.
const ANSWER_LIMIT: u64 = 64 * 1024;

/// How much of a nonsensical answer is shown.
const SHOWN: usize = 120;

/// Why a plugin's versions are not known.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It can't be executed.
    #[error("it can't be executed: {0}")]
    Execute(io::Error),
    /// It did not end.
    #[error("it did not answer VERSION within {} s", LIMIT.as_secs())]
    Hangs,
    /// It said something else, possibly nothing.
    #[error("it answered VERSION with {said}, expected \"supportedVersions\"")]
    Answer {
        /// What it said.
        said: String,
    },
}

/// All versions that `plugin` names, as it names them.
pub fn ask(plugin: &Path) -> Result<Vec<String>, ProbeError> {
    ask_within(plugin, LIMIT)
}

fn ask_within(plugin: &Path, limit: Duration) -> Result<Vec<String>, ProbeError> {
    let mut command = Command::new(plugin);
    // Nothing of what this process was given: it is another program's child for a moment.
    command.env_clear().env("CNI_COMMAND", "VERSION");
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // So that what a script started ends with it.
    command.process_group(0);
    let mut child = command.spawn().map_err(ProbeError::Execute)?;
    let said = converse(&mut child, Deadline::after(limit));
    end(&mut child);
    let (output, complaint) = said.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => ProbeError::Hangs,
        _ => ProbeError::Execute(error),
    })?;
    supported(&output).ok_or_else(|| ProbeError::Answer { said: shown(&output, &complaint) })
}

/// Of `said`, what this release of Flock knows; the oldest first.
pub fn known(said: &[String]) -> Vec<SpecVersion> {
    SpecVersion::ALL.into_iter().filter(|version| said.iter().any(|text| text == version.as_str())).collect()
}

/// What it prints on standard output and on standard error until it closes them.
fn converse(child: &mut Child, deadline: Deadline) -> io::Result<(Vec<u8>, Vec<u8>)> {
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read has its answer ready.
        let _ = stdin.write_all(br#"{"cniVersion":"1.0.0"}"#);
    }
    Ok((read(child.stdout.take(), deadline)?, read(child.stderr.take(), deadline)?))
}

fn read(from: Option<impl AsFd>, deadline: Deadline) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        Bounded::new(from, deadline).take(ANSWER_LIMIT).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Leaves no process behind, whether it has ended by itself or not.
fn end(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        // Fails where all of them have ended.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

fn supported(output: &[u8]) -> Option<Vec<String>> {
    let answer: Value = serde_json::from_slice(output).ok()?;
    let versions = answer.get("supportedVersions")?.as_array()?;
    versions.iter().map(|version| version.as_str().map(str::to_owned)).collect()
}

fn shown(output: &[u8], complaint: &[u8]) -> String {
    let [output, complaint] = [output, complaint].map(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let mut text = text.trim().replace(char::is_control, " ");
        if let Some((at, _)) = text.char_indices().nth(SHOWN) {
            text.truncate(at);
            text.push('…');
        }
        text
    });
    match (output.is_empty(), complaint.is_empty()) {
        (true, true) => "nothing".to_owned(),
        (true, false) => format!("nothing but the complaint {complaint:?}"),
        (false, _) => format!("{output:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Instant;

    use super::*;

    /// Asks a plugin that is a shell script.
    fn ask_script(script: &str) -> Result<Vec<String>, ProbeError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        loop {
            match ask_within(&path, Duration::from_secs(1)) {
                // A child that another test starts holds the file open for writing until it executes.
                Err(ProbeError::Execute(error)) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                done => return done,
            }
        }
    }

    #[test]
    fn the_versions_are_those_that_it_names() {
        let said = ask_script(r#"echo '{"cniVersion":"1.0.0","supportedVersions":["0.1.0","0.4.0","9.0"]}'"#);
        let said = said.unwrap();
        assert_eq!(said, ["0.1.0", "0.4.0", "9.0"]);
        assert_eq!(known(&said), [SpecVersion::V0_4_0]);
    }

    #[test]
    fn it_is_given_the_verb_and_nothing_of_our_environment() {
        let said = ask_script(r#"printf '{"supportedVersions":["%s","%s"]}' "$CNI_COMMAND" "$CARGO""#);
        assert_eq!(said.unwrap(), ["VERSION", ""]);
    }

    #[test]
    fn nonsense_is_shown() {
        for (script, expected) in [
            ("true", "with nothing, expected"),
            ("echo no such library >&2; exit 127", "nothing but the complaint \"no such library\""),
            ("echo hello", "with \"hello\", expected"),
            (r#"echo '{"code":4,"msg":"unknown CNI_COMMAND: VERSION"}'"#, "unknown CNI_COMMAND"),
            (r#"echo '{"supportedVersions":[1]}'"#, "supportedVersions"),
            ("head -c 1000000 /dev/zero", "expected \"supportedVersions\""),
        ] {
            let error = ask_script(script).unwrap_err().to_string();
            assert!(error.contains(expected), "{script}: {error}");
            assert!(error.len() < 400, "{script}: {error}");
        }
    }

    #[test]
    fn one_that_hangs_is_ended_with_what_it_started() {
        for script in ["sleep 1000", "sleep 1000 & wait", "echo '{}'; exec 2>&1; sleep 1000"] {
            let start = Instant::now();
            let error = ask_script(script).unwrap_err();
            assert!(matches!(error, ProbeError::Hangs), "{script}: {error}");
            assert!(start.elapsed() < Duration::from_secs(30), "{script}");
        }
    }

    #[test]
    fn one_that_can_not_be_executed_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        assert!(
            matches!(ask(&path), Err(ProbeError::Execute(error)) if error.kind() == io::ErrorKind::NotFound)
        );
        fs::write(&path, "").unwrap();
        let error = ask(&path).unwrap_err().to_string();
        assert!(error.contains("can't be executed: Permission denied"), "{error}");
    }
}
