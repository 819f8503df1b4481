//! What the program is told.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::scenarios::names;

/// The usage, as it is printed.
const USAGE: &str = "\
usage: e2e --kubernetes DIR --image ARCHIVE --deploy DIR --logs DIR [--only NAME] [--keep]
  --kubernetes DIR  the programs of Kubernetes, see .ci/kubernetes
  --image ARCHIVE   Flock's image, see .ci/image
  --deploy DIR      Flock's manifests
  --logs DIR        where everything that is logged goes; what is there is removed
  --only NAME       only the scenarios with this in their names, may be given again
  --keep            leave the cluster standing, and say how to look around in it";

/// All that can be told.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) kubernetes: PathBuf,
    pub(crate) image: PathBuf,
    pub(crate) deploy: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) only: Vec<String>,
    pub(crate) keep: bool,
}

impl Options {
    /// From the words after the program's name; an error is to be printed.
    pub(crate) fn read(words: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let (mut kubernetes, mut image, mut deploy, mut logs) = (None, None, None, None);
        let (mut only, mut keep) = (Vec::new(), false);
        let mut words = words.map(|word| word.to_string_lossy().into_owned());
        while let Some(word) = words.next() {
            if word == "--keep" {
                keep = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("found {word:?} at the end\n{USAGE}"))?;
            match word.as_str() {
                "--kubernetes" => kubernetes = Some(absolute(&value)?),
                "--image" => image = Some(absolute(&value)?),
                "--deploy" => deploy = Some(absolute(&value)?),
                "--logs" => logs = Some(absolute(&value)?),
                "--only" if names().any(|name| name.contains(&value)) => only.push(value),
                "--only" => {
                    let names = names().collect::<Vec<_>>().join(", ");
                    return Err(format!("found --only {value:?}, expected a part of one of {names}"));
                }
                _ => return Err(format!("found {word:?}, expected an option\n{USAGE}")),
            }
        }
        let missing = |option: &str| format!("{option} is missing\n{USAGE}");
        Ok(Self {
            kubernetes: kubernetes.ok_or_else(|| missing("--kubernetes"))?,
            image: image.ok_or_else(|| missing("--image"))?,
            deploy: deploy.ok_or_else(|| missing("--deploy"))?,
            logs: logs.ok_or_else(|| missing("--logs"))?,
            only,
            keep,
        })
    }

    /// Whether a scenario is to be played.
    pub(crate) fn wants(&self, scenario: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| scenario.contains(part.as_str()))
    }
}

/// The machines of the cluster have other working directories.
fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("found {path:?}, expected a path: {error}"))
}
