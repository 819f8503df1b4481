//! Network namespaces for pods, many and made at once.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{LabError, Result};

/// A pod's network namespace.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) number: usize,
    pub(super) netns: PathBuf,
}

/// Empty namespaces, as a runtime makes them before it calls a plugin.
#[derive(Debug)]
pub(super) struct Pods(Vec<Pod>);

impl Pods {
    pub(super) fn create(name: &str, count: usize) -> Result<Self> {
        let pods: Vec<Pod> = (0..count)
            .map(|number| Pod { number, netns: PathBuf::from(format!("/run/netns/{name}-{number}")) })
            .collect();
        let script: Vec<String> = (0..count).map(|number| format!("netns add {name}-{number}\n")).collect();
        let failed = |error: std::io::Error| LabError::Unexpected(format!("ip -batch: {error}"));
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.concat().as_bytes()).map_err(failed)?;
        }
        let output = child.wait_with_output().map_err(failed)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(LabError::Unexpected(format!(
                "ip can't make {count} network namespaces: {}",
                said.trim()
            )));
        }
        Ok(Self(pods))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first `count`, or all where there are fewer.
    pub(super) fn first(&self, count: usize) -> &[Pod] {
        self.0.get(..count).unwrap_or(&self.0)
    }

    pub(super) fn after(&self, count: usize) -> &[Pod] {
        self.0.get(count..).unwrap_or_default()
    }
}
