//! The options of `flock-agent check`.

use std::path::PathBuf;
use std::time::Duration;

/// What a manual page would say beside the options.
pub(in crate::agent) const AFTER_HELP: &str = "\
Each difference is one line: whose it is, what was found and what was expected, and what mends it.
A node that is at work is looked at more than once; what is just being made or taken away is no
difference. The last line says how many attachments and differences there are.

Online, the running agent is asked which addresses it holds for whom and what it works on, and
--repair has the agent do the repair. Offline, only the records, the kernel and BIRD are looked
at, and --repair does with records and kernel what a starting agent does: what is announced, and
the deletions that wait for an agent, are left to the next one. No agent may run then.

Files:
  RUN-DIR/flock.sock        where the agent is asked
  RUN-DIR/attachments/      the records
  RUN-DIR/deletions/        the deletions that wait for an agent
  RUN-DIR/node-config.json  the NodeConfig for --offline without --node-config

Exit status:
  0  everything agrees
  1  there are differences
  2  it could not be checked; standard error says why

Examples:
  On a node:
    flock-agent check
    flock-agent check --repair
  In a cluster:
    kubectl -n flock-system exec ds/flock-agent -c agent -- flock-agent check
  While no agent runs:
    flock-agent check --offline --node-config host001.yaml";

/// How `flock-agent check` was called, with the defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckOptions {
    /// Without the agent.
    pub offline: bool,
    /// Mend what can be mended.
    pub repair: bool,
    /// The form of the answer.
    pub output: Output,
    /// Socket and records.
    pub run_dir: PathBuf,
    /// The NodeConfig manifest, offline.
    pub node_config: Option<PathBuf>,
    /// Whether there should be a BIRD.
    pub announces: bool,
    /// BIRD's control socket; without it the one that the agent names, or the usual one.
    pub bird_socket: Option<PathBuf>,
    /// How long BIRD may take to answer.
    pub birdc_timeout: Duration,
    /// The mount of proc to set sysctls through.
    pub proc_dir: PathBuf,
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object
    Json,
}
