//! The agent's options: flags over environment over configuration file over defaults.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use flock_core::name::NodeName;
use serde::Deserialize;

use crate::agent::check;
use crate::agent::check::options::{CheckOptions, Output};

/// What a manual page would say beside the options.
const AFTER_HELP: &str = "\
Files:
  RUN-DIR/flock.sock        where the plugin asks; for root only
  RUN-DIR/attachments/      one record for each attachment, as JSON
  RUN-DIR/bird.ctl          BIRD's control socket, made by BIRD
  RUN-DIR/node-config.json  the NodeConfig that was in force last, for a start while the API
                            server is away (with --source kubernetes)
  RUN-DIR/passwords.json    the passwords of BGP peers that it had from Secrets; for root only

Signals:
  SIGTERM, SIGINT  answer the requests at work, then end; pods keep their addresses,
                   routes and announcements

Exit status:
  0  ended by a signal
  1  could not start, or could not go on; the last line on standard error says why
  2  the options make no sense

Examples:
  On one machine without a cluster:
    flock-agent --node-name host001 --node-config host001.yaml --pods pods/
    bird -c /etc/flock/bird/bird.conf -s /run/flock/bird.ctl
  On a node of a cluster, with the kubeconfig that KUBECONFIG names, or inside a pod:
    flock-agent --source kubernetes --http-address '[::]:9430'";

const RUN_DIR: &str = "/run/flock";
/// In seconds: one exchange with BIRD.
const BIRDC_TIMEOUT: RangeInclusive<u64> = 1..=60;
/// In seconds: what is released may be needed at once, and nobody waits for longer than a day.
const ADDRESS_REST: RangeInclusive<u64> = 0..=86_400;
/// In seconds: a look at the node's links costs about as much as an ADD.
const GC_INTERVAL: RangeInclusive<u64> = 1..=86_400;
/// In seconds: zero is for those who know that their runtime never comes late.
const GC_GRACE: RangeInclusive<u64> = 0..=86_400;

/// Gives this node's pods their addresses and announces them over BGP.
///
/// The agent serves the CNI plugin `flock` on a socket in its run directory, keeps one
/// record for each attachment there, builds the pods' links in the kernel, and has BIRD
/// announce the node's prefixes.
///
/// Every option can also be given as an environment variable or as a key of the
/// configuration file; flags win over the environment, the environment over the file.
#[derive(Debug, Parser)]
#[command(name = "flock-agent", version, max_term_width = 100, after_long_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true)]
struct CommandLine {
    /// A YAML file with any of the options below, each under its long name without dashes in front
    #[arg(long, value_name = "FILE", env = "FLOCK_CONFIG")]
    config: Option<PathBuf>,

    #[command(flatten)]
    given: Given,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tells whether records, leases, the kernel and BIRD agree, and mends what does not
    #[command(after_long_help = check::options::AFTER_HELP)]
    Check(Check),
}

/// Tells whether records, leases, the kernel and BIRD agree, and mends what does not.
#[derive(Debug, clap::Args)]
struct Check {
    /// Compare records, kernel and BIRD without asking the agent
    #[arg(long)]
    offline: bool,

    /// Mend what can be mended, and say what is left
    #[arg(long)]
    repair: bool,

    /// The form of the answer
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,

    /// The agent's configuration file, where it has one
    #[arg(long, value_name = "FILE", env = "FLOCK_CONFIG")]
    config: Option<PathBuf>,

    /// The NodeConfig manifest to compare with, with --offline [default: node-config.json in the run directory]
    #[arg(long, value_name = "FILE", env = "FLOCK_NODE_CONFIG")]
    node_config: Option<PathBuf>,

    /// Where the agent's socket and records are [default: /run/flock]
    #[arg(long, value_name = "DIR", env = "FLOCK_RUN_DIR")]
    run_dir: Option<PathBuf>,

    /// Who announces the routes; with none BIRD is not asked [default: bird]
    #[arg(long, value_enum, value_name = "WHO", env = "FLOCK_ANNOUNCER")]
    announcer: Option<Announcer>,

    /// BIRD's control socket [default: the one that the agent uses; bird.ctl in the run directory]
    #[arg(long, value_name = "FILE", env = "FLOCK_BIRD_SOCKET")]
    bird_socket: Option<PathBuf>,

    /// How long BIRD may take to answer, in seconds [default: 5]
    #[arg(long, value_name = "SECONDS", env = "FLOCK_BIRDC_TIMEOUT", value_parser = clap::value_parser!(u64).range(BIRDC_TIMEOUT))]
    birdc_timeout: Option<u64>,

    /// The mount of proc to set sysctls through, with --offline --repair [default: /proc]
    #[arg(long, value_name = "DIR", env = "FLOCK_PROC_DIR")]
    proc_dir: Option<PathBuf>,
}

impl Check {
    fn complete(self, file: Given) -> CheckOptions {
        CheckOptions {
            offline: self.offline,
            repair: self.repair,
            output: self.output,
            run_dir: self.run_dir.or(file.run_dir).unwrap_or_else(|| PathBuf::from(RUN_DIR)),
            node_config: self.node_config.or(file.node_config),
            announces: self.announcer.or(file.announcer) != Some(Announcer::None),
            bird_socket: self.bird_socket.or(file.bird_socket),
            birdc_timeout: Duration::from_secs(self.birdc_timeout.or(file.birdc_timeout).unwrap_or(5)),
            proc_dir: self.proc_dir.or(file.proc_dir).unwrap_or_else(|| PathBuf::from("/proc")),
        }
    }
}

/// What `flock-agent` is called to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Be the agent.
    Serve(Box<Options>),
    /// Judge the node.
    Check(CheckOptions),
}

impl Invocation {
    /// Reads `arguments` (the program's name first), the environment and the configuration file.
    pub fn read<I, T>(arguments: I, machine: &dyn Machine) -> Result<Self, OptionsError>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let CommandLine { config, given, command } = CommandLine::try_parse_from(arguments)?;
        let file = |path: Option<PathBuf>| {
            path.map_or_else(|| Ok(Given::default()), |path| read_file(&path, machine))
        };
        match command {
            None => Ok(Self::Serve(Box::new(given.over(file(config)?).complete(machine)?))),
            Some(Command::Check(check)) => {
                let file = file(check.config.clone())?;
                Ok(Self::Check(check.complete(file)))
            }
        }
    }
}

/// What one layer (command line and environment, or file) says. All are optional.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Given {
    /// The name of this node: that of its NodeConfig [default: $NODE_NAME, then the hostname]
    #[arg(long, value_name = "NAME", env = "FLOCK_NODE_NAME")]
    node_name: Option<String>,

    /// Where NodeConfig and pods come from [default: files]
    #[arg(long, value_enum, value_name = "SOURCE", env = "FLOCK_SOURCE")]
    source: Option<SourceKind>,

    /// The NodeConfig manifest, as it would be applied to a cluster (with --source files)
    #[arg(long, value_name = "FILE", env = "FLOCK_NODE_CONFIG")]
    node_config: Option<PathBuf>,

    /// A directory of pod manifests, read for their annotations and readiness; a pod that is not there
    /// counts as one without annotations, and ready (with --source files)
    #[arg(long, value_name = "DIR", env = "FLOCK_PODS")]
    pods: Option<PathBuf>,

    /// Remove the taint with this key from the node once it is ready for pods: what keeps pods away from a
    /// new node until then (with --source kubernetes)
    #[arg(long, value_name = "KEY", env = "FLOCK_STARTUP_TAINT")]
    startup_taint: Option<String>,

    /// Serve /metrics, /healthz and /readyz by HTTP here, for example [::]:9430 [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT", env = "FLOCK_HTTP_ADDRESS")]
    http_address: Option<SocketAddr>,

    /// The mount of proc to set sysctls through; containers find their own read-only [default: /proc]
    #[arg(long, value_name = "DIR", env = "FLOCK_PROC_DIR")]
    proc_dir: Option<PathBuf>,

    /// Where the socket and the records are; best on a tmpfs, so that they go with the kernel's state at a
    /// reboot [default: /run/flock]
    #[arg(long, value_name = "DIR", env = "FLOCK_RUN_DIR")]
    run_dir: Option<PathBuf>,

    /// Who announces the routes [default: bird]
    #[arg(long, value_enum, value_name = "WHO", env = "FLOCK_ANNOUNCER")]
    announcer: Option<Announcer>,

    /// The configuration file that is written for BIRD [default: /etc/flock/bird/bird.conf]
    #[arg(long, value_name = "FILE", env = "FLOCK_BIRD_CONFIG")]
    bird_config: Option<PathBuf>,

    /// BIRD's control socket [default: bird.ctl in the run directory]
    #[arg(long, value_name = "FILE", env = "FLOCK_BIRD_SOCKET")]
    bird_socket: Option<PathBuf>,

    /// How long BIRD may take to answer, in seconds [default: 5]
    #[arg(long, value_name = "SECONDS", env = "FLOCK_BIRDC_TIMEOUT", value_parser = clap::value_parser!(u64).range(BIRDC_TIMEOUT))]
    birdc_timeout: Option<u64>,

    /// How long a released address rests before another pod may get it, in seconds [default: 30]
    #[arg(long, value_name = "SECONDS", env = "FLOCK_ADDRESS_REST", value_parser = clap::value_parser!(u64).range(ADDRESS_REST))]
    address_rest: Option<u64>,

    /// How often to look for attachments whose container is gone though no DEL came, in seconds [default: 60]
    #[arg(long, value_name = "SECONDS", env = "FLOCK_GC_INTERVAL", value_parser = clap::value_parser!(u64).range(GC_INTERVAL))]
    gc_interval: Option<u64>,

    /// For how long a container must have been seen as gone before its attachment is deleted, in seconds
    /// [default: 60]
    #[arg(long, value_name = "SECONDS", env = "FLOCK_GC_GRACE", value_parser = clap::value_parser!(u64).range(GC_GRACE))]
    gc_grace: Option<u64>,

    /// The form of the log on standard error; RUST_LOG sets the level, for example RUST_LOG=debug [default: text]
    #[arg(long, value_enum, value_name = "FORMAT", env = "FLOCK_LOG_FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SourceKind {
    /// Files on this machine; no cluster is needed
    Files,
    /// The Kubernetes API: as the pod's service account, else by the kubeconfig that KUBECONFIG names
    Kubernetes,
}

/// Where NodeConfig and pods come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Files on this machine.
    Files {
        /// The NodeConfig manifest.
        node_config: PathBuf,
        /// The pod manifests, where there are any.
        pods: Option<PathBuf>,
    },
    /// The Kubernetes API.
    Kubernetes {
        /// The key of the taint to remove once the node is ready.
        startup_taint: Option<String>,
    },
}

/// Who announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Announcer {
    /// BIRD 2, by its configuration file and control socket
    Bird,
    /// Nobody: pods are reachable on this node only, or by routes made otherwise
    None,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// All options, with the defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whose NodeConfig.
    pub node_name: NodeName,
    /// Where NodeConfig and pods come from.
    pub source: Source,
    /// Where metrics and health are served, if anywhere.
    pub http_address: Option<SocketAddr>,
    /// The mount of proc to set sysctls through.
    pub proc_dir: PathBuf,
    /// Socket and records.
    pub run_dir: PathBuf,
    /// Who announces.
    pub announcer: Announcer,
    /// Written for BIRD.
    pub bird_config: PathBuf,
    /// BIRD's control socket.
    pub bird_socket: PathBuf,
    /// How long BIRD may take to answer.
    pub birdc_timeout: Duration,
    /// How long a released address rests.
    pub address_rest: Duration,
    /// How often dead attachments are looked for.
    pub gc_interval: Duration,
    /// For how long a container must have been gone.
    pub gc_grace: Duration,
    /// The form of the log.
    pub log_format: LogFormat,
}

/// What the machine says, as an argument so that tests can say something else.
pub trait Machine {
    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;
    /// The machine's own name.
    fn hostname(&self) -> Option<String>;
    /// The text of a file.
    fn read(&self, path: &Path) -> std::io::Result<String>;
}

/// The machine that this runs on.
#[derive(Debug, Clone, Copy)]
pub struct ThisMachine;

impl Machine for ThisMachine {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn hostname(&self) -> Option<String> {
        let uname = rustix::system::uname();
        Some(uname.nodename().to_string_lossy().into_owned())
    }

    fn read(&self, path: &Path) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }
}

/// Why the agent can't start with these options.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The command line or the environment; prints itself as clap does, help included.
    #[error("{0}")]
    CommandLine(#[from] clap::Error),
    /// The configuration file.
    #[error("the configuration file {}: {reason}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The options together make no sense.
    #[error("{0}")]
    Invalid(String),
}

impl Options {
    /// Reads them from `arguments` (the program's name first), the environment and the
    /// configuration file.
    pub fn read<I, T>(arguments: I, machine: &dyn Machine) -> Result<Self, OptionsError>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        match Invocation::read(arguments, machine)? {
            Invocation::Serve(options) => Ok(*options),
            Invocation::Check(_) => Err(OptionsError::Invalid("found a subcommand, expected options".into())),
        }
    }
}

fn read_file(path: &Path, machine: &dyn Machine) -> Result<Given, OptionsError> {
    let error = |reason: String| OptionsError::File { path: path.to_owned(), reason };
    let text = machine.read(path).map_err(|source| error(source.to_string()))?;
    if text.trim().is_empty() {
        return Ok(Given::default());
    }
    serde_saphyr::from_str(&text).map_err(|source| error(source.to_string()))
}

impl Given {
    fn over(self, lower: Self) -> Self {
        Self {
            node_name: self.node_name.or(lower.node_name),
            source: self.source.or(lower.source),
            node_config: self.node_config.or(lower.node_config),
            pods: self.pods.or(lower.pods),
            startup_taint: self.startup_taint.or(lower.startup_taint),
            http_address: self.http_address.or(lower.http_address),
            proc_dir: self.proc_dir.or(lower.proc_dir),
            run_dir: self.run_dir.or(lower.run_dir),
            announcer: self.announcer.or(lower.announcer),
            bird_config: self.bird_config.or(lower.bird_config),
            bird_socket: self.bird_socket.or(lower.bird_socket),
            birdc_timeout: self.birdc_timeout.or(lower.birdc_timeout),
            address_rest: self.address_rest.or(lower.address_rest),
            gc_interval: self.gc_interval.or(lower.gc_interval),
            gc_grace: self.gc_grace.or(lower.gc_grace),
            log_format: self.log_format.or(lower.log_format),
        }
    }

    fn complete(self, machine: &dyn Machine) -> Result<Options, OptionsError> {
        let invalid = |message: String| OptionsError::Invalid(message);
        let node_name = self
            .node_name
            .or_else(|| machine.variable("NODE_NAME").filter(|name| !name.is_empty()))
            .or_else(|| machine.hostname().map(|name| name.to_ascii_lowercase()))
            .ok_or_else(|| {
                invalid("this machine has no hostname; give the node's name with --node-name".into())
            })?;
        let node_name = NodeName::new(node_name).map_err(|error| invalid(format!("--node-name: {error}")))?;
        let source = match self.source.unwrap_or(SourceKind::Files) {
            SourceKind::Files if self.startup_taint.is_some() => {
                return Err(invalid(
                    "--startup-taint goes with --source kubernetes, found --source files".into(),
                ));
            }
            SourceKind::Kubernetes if self.node_config.is_some() || self.pods.is_some() => {
                return Err(invalid(
                    "--node-config and --pods go with --source files, found --source kubernetes".into(),
                ));
            }
            SourceKind::Files => Source::Files {
                node_config: self.node_config.ok_or_else(|| {
                    invalid(format!(
                        "--source files needs --node-config FILE, the NodeConfig manifest of {node_name}"
                    ))
                })?,
                pods: self.pods,
            },
            SourceKind::Kubernetes => Source::Kubernetes { startup_taint: self.startup_taint },
        };
        let run_dir = self.run_dir.unwrap_or_else(|| PathBuf::from(RUN_DIR));
        let seconds = |key: &str, given: Option<u64>, default: u64, allowed: RangeInclusive<u64>| {
            let seconds = given.unwrap_or(default);
            // What the command line and the environment say was looked at there, with a
            // better message; what the file says was not.
            if allowed.contains(&seconds) {
                return Ok(Duration::from_secs(seconds));
            }
            let (least, most) = allowed.into_inner();
            Err(invalid(format!("{key} is {seconds}, expected {least} to {most} seconds")))
        };
        Ok(Options {
            node_name,
            source,
            http_address: self.http_address,
            proc_dir: self.proc_dir.unwrap_or_else(|| PathBuf::from("/proc")),
            announcer: self.announcer.unwrap_or(Announcer::Bird),
            bird_config: self.bird_config.unwrap_or_else(|| PathBuf::from("/etc/flock/bird/bird.conf")),
            bird_socket: self.bird_socket.unwrap_or_else(|| run_dir.join("bird.ctl")),
            birdc_timeout: seconds("birdc-timeout", self.birdc_timeout, 5, BIRDC_TIMEOUT)?,
            address_rest: seconds("address-rest", self.address_rest, 30, ADDRESS_REST)?,
            gc_interval: seconds("gc-interval", self.gc_interval, 60, GC_INTERVAL)?,
            gc_grace: seconds("gc-grace", self.gc_grace, 60, GC_GRACE)?,
            log_format: self.log_format.unwrap_or(LogFormat::Text),
            run_dir,
        })
    }
}

#[cfg(test)]
mod tests;
