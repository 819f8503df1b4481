//! `flock-agent check` as a test asks it: an independent judge of a node.

use std::fmt;

use crate::node::Node;
use crate::process::{command_line, output, status_text};
use crate::{LabError, Result, programs};

/// Whether the agent is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The agent runs and says what it holds.
    Online,
    /// Records, kernel and BIRD only.
    Offline,
}

/// What the judge said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether everything agrees.
    pub agrees: bool,
    /// All of it, for people.
    pub said: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

/// Looks at `node`.
pub fn check(node: &Node, mode: Mode) -> Result<Verdict> {
    run(node, mode, &[])
}

/// Looks at `node`, mends what it can, and says what is left.
pub fn repair(node: &Node, mode: Mode) -> Result<Verdict> {
    run(node, mode, &["--repair"])
}

/// An error with all differences, if there are any.
pub fn must_agree(node: &Node, mode: Mode) -> Result<()> {
    match check(node, mode)? {
        Verdict { agrees: true, .. } => Ok(()),
        Verdict { said, .. } => Err(LabError::Unexpected(format!("{} does not agree:\n{said}", node.name()))),
    }
}

fn run(node: &Node, mode: Mode, further: &[&str]) -> Result<Verdict> {
    let files = node.files();
    let mut command = node.netns.command(programs::agent()?);
    command.arg("check").arg("--run-dir").arg(&files.run).args(further);
    if mode == Mode::Offline {
        command.arg("--offline").arg("--node-config").arg(&files.node_config);
        command.arg("--bird-socket").arg(&files.bird_socket);
    }
    let answer = output(&mut command)?;
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    match answer.status.code() {
        Some(0) => Ok(Verdict { agrees: true, said }),
        Some(1) => Ok(Verdict { agrees: false, said }),
        _ => Err(LabError::Failed {
            command: command_line(&command),
            status: status_text(answer.status),
            output: said + &String::from_utf8_lossy(&answer.stderr),
        }),
    }
}
