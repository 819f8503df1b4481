//! A node: directories of its own, and plugins that are shell scripts.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use flock_bin::installer::files::{Files, HostFiles};
use flock_bin::installer::options::Options;
use flock_bin::installer::{InstallerError, install, uninstall};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const RECEIPT: &str = ".flock-installer.receipt";
pub(crate) const CONFLIST: &str = "01-flock.conflist";

pub(crate) struct Node {
    dir: TempDir,
}

impl Node {
    /// With directories, without anything in them but the plugin to install.
    pub(crate) fn new() -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(node.bin()).unwrap();
        fs::create_dir_all(node.conf()).unwrap();
        node.release("one", &["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn bin(&self) -> PathBuf {
        self.path("opt/cni/bin")
    }

    pub(crate) fn conf(&self) -> PathBuf {
        self.path("etc/cni/net.d")
    }

    /// A release of the plugin, ready to be installed.
    pub(crate) fn release(&self, name: &str, versions: &[&str]) {
        script(&self.path("flock"), &format!("# {name}\n{}", speaks(versions)));
    }

    /// Another plugin on the node.
    pub(crate) fn plugin(&self, name: &str, versions: &[&str]) {
        script(&self.bin().join(name), &speaks(versions));
    }

    pub(crate) fn arguments(&self, more: &[&str]) -> Vec<String> {
        let mut arguments = Vec::new();
        for (option, path) in
            [("--bin-dir", self.bin()), ("--conf-dir", self.conf()), ("--plugin", self.path("flock"))]
        {
            arguments.extend([option.to_owned(), path.display().to_string()]);
        }
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        arguments
    }

    pub(crate) fn options(&self, more: &[&str]) -> Options {
        let arguments = self.arguments(more);
        Options::read(std::iter::once("flock-installer".to_owned()).chain(arguments)).unwrap()
    }

    /// What was said.
    #[track_caller]
    pub(crate) fn install(&self, more: &[&str]) -> Vec<String> {
        let mut said = Vec::new();
        self.install_on(&HostFiles, &mut |line| said.push(line.to_owned()), more).unwrap();
        said
    }

    pub(crate) fn install_on(
        &self,
        files: &dyn Files,
        tell: &mut dyn FnMut(&str),
        more: &[&str],
    ) -> Result<(), InstallerError> {
        install(&self.options(more), files, tell)
    }

    /// What was said.
    #[track_caller]
    pub(crate) fn uninstall(&self) -> Vec<String> {
        let mut said = Vec::new();
        uninstall(&self.options(&[]), &HostFiles, &mut |line| said.push(line.to_owned())).unwrap();
        said
    }

    /// All files in both directories.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for dir in [self.bin(), self.conf()] {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let bytes = fs::read(entry.path()).unwrap();
                files.insert(entry.file_name().into_string().unwrap(), bytes);
            }
        }
        files
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.files().into_keys().collect()
    }

    #[track_caller]
    pub(crate) fn conflist(&self) -> Value {
        serde_json::from_slice(&fs::read(self.conf().join(CONFLIST)).unwrap()).unwrap()
    }

    /// The types in the chain and the version that all runtimes know.
    #[track_caller]
    pub(crate) fn chain(&self) -> (Vec<String>, String) {
        let list = self.conflist();
        let plugins = list["plugins"].as_array().unwrap();
        let types = plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect();
        (types, list["cniVersion"].as_str().unwrap().to_owned())
    }
}

/// Writes a shell script in a process of its own: one that this process wrote could be
/// held open, for a moment, by a child that another test starts ("text file busy").
pub(crate) fn script(path: &Path, text: &str) {
    let text_file = path.with_extension("text");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&text_file).unwrap();
    write!(file, "#!/bin/sh\n{text}\n").unwrap();
    drop(file);
    let copied = Command::new("install").args(["-m", "755"]).args([&text_file, path]).status().unwrap();
    assert!(copied.success());
    fs::remove_file(&text_file).unwrap();
}

fn speaks(versions: &[&str]) -> String {
    let versions: Vec<_> = versions.iter().map(|version| format!("\"{version}\"")).collect();
    format!("echo '{{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[{}]}}'", versions.join(","))
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[track_caller]
pub(crate) fn assert_said(said: &[String], expected: &str) {
    assert!(said.iter().any(|line| line.contains(expected)), "expected {expected:?} in {said:#?}");
}
