//! The installer's options: flags over environment over defaults.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use flock_core::name::NetworkName;

use super::chain::Chained;

/// What a manual page would say beside the options.
const AFTER_HELP: &str = "\
Files:
  BIN-DIR/flock                      the plugin
  CONF-DIR/01-flock.conflist         the network configuration, see --conf-name
  CONF-DIR/.flock-installer.receipt  what was installed, for uninstall
  *.before-flock in both             what somebody else had in the place of one of them, and was
                                     not the same; it stays when Flock is uninstalled
  .*.flock-tmp in both               a file before it comes in place; what a run that was killed
                                     left of them is removed by the next

  Each comes in place in one step, the plugin before the configuration; what is as it should
  be is not written. Directories that are missing are made, and are never removed.

Chained plugins:
  Those of --chain follow flock in the configuration if they are in BIN-DIR, can be executed
  here, and speak a version of the CNI specification that all others speak too; what is left
  out is named. They are asked (CNI_COMMAND=VERSION) and nothing else of them is run.

Uninstall:
  Takes away the configuration, then the plugin, then the receipt. Only what the receipt names
  is taken away, and only if it is unchanged; what somebody changed since is left and named.
  What was there before, and was the same, is not named in it.
  Pods that run keep their network as long as nobody removes their links.

Exit status:
  0  done; what was done is said on standard output, a line for each file
  1  not done, or not all; the last line on standard error says why, and the same command
     can be given again
  2  the options make no sense

Examples:
  flock-installer
  flock-installer --bin-dir /usr/lib/cni --chain portmap
  flock-installer uninstall";

/// In seconds; the upper end is below the two minutes that kubelet waits.
const TIMEOUT: std::ops::RangeInclusive<u64> = 1..=110;
/// In bytes; from the smallest of IPv4 (RFC 791) to the largest of a veth.
const MTU: std::ops::RangeInclusive<u32> = 68..=65_535;

/// Puts the CNI plugin flock and its network configuration on this node, or takes them away.
///
/// It can be run at any time, again after each upgrade, and whether or not flock-agent runs:
/// until the agent is up, the plugin tells the container runtime to try again later.
#[derive(Debug, Parser)]
#[command(name = "flock-installer", version, max_term_width = 100, after_long_help = AFTER_HELP)]
struct CommandLine {
    /// What to do
    #[arg(value_enum, default_value = "install")]
    action: Action,

    /// Where the container runtime looks for plugins
    #[arg(long, value_name = "DIR", env = "FLOCK_BIN_DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,

    /// Where the container runtime looks for network configurations
    #[arg(long, value_name = "DIR", env = "FLOCK_CONF_DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,

    /// The name of the configuration's file; runtimes take the first in alphabetical order
    #[arg(long, value_name = "NAME", env = "FLOCK_CONF_NAME", default_value = "01-flock.conflist", value_parser = conf_name)]
    conf_name: String,

    /// The plugin to install
    #[arg(long, value_name = "FILE", env = "FLOCK_PLUGIN", default_value = "/usr/local/lib/flock/flock")]
    plugin: PathBuf,

    /// The name of the network, as runtimes show it
    #[arg(long, value_name = "NAME", env = "FLOCK_NETWORK_NAME", default_value = "flock", value_parser = network_name)]
    name: NetworkName,

    /// The agent's run directory on the node, where the plugin finds its socket
    #[arg(long, value_name = "DIR", env = "FLOCK_RUN_DIR", default_value = flock_core::cni::DEFAULT_RUN_DIR, value_parser = run_dir)]
    run_dir: PathBuf,

    /// The MTU of the pods' interfaces in bytes; 0 is the node's own, as its NodeConfig says
    #[arg(long, value_name = "BYTES", env = "FLOCK_MTU", default_value = "0", value_parser = mtu)]
    mtu: u32,

    /// How long adding or deleting a pod may take, 1 to 110 seconds
    #[arg(long, value_name = "SECONDS", env = "FLOCK_TIMEOUT_SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(TIMEOUT))]
    timeout_seconds: u64,

    /// What follows flock in the chain, where it can be: portmap, bandwidth, both with a comma between them,
    /// or none
    #[arg(long, value_name = "PLUGINS", env = "FLOCK_CHAIN", default_value = "portmap,bandwidth", value_parser = chain)]
    chain: Chain,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Action {
    /// Put plugin and configuration in place, or bring them up to date
    Install,
    /// Take away what was installed
    Uninstall,
}

/// A list behind one name: clap would take a plain `Vec` for an option given several times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain(Vec<Chained>);

/// All options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What to do.
    pub action: Action,
    /// The directory of plugins.
    pub bin_dir: PathBuf,
    /// The directory of network configurations.
    pub conf_dir: PathBuf,
    /// The configuration's file name.
    pub conf_name: String,
    /// The plugin to install.
    pub plugin: PathBuf,
    /// The network's name.
    pub name: NetworkName,
    /// The agent's run directory.
    pub run_dir: PathBuf,
    /// The MTU of the pods' interfaces; `None` is the node's own.
    pub mtu: Option<u32>,
    /// How long a verb may take.
    pub timeout: Duration,
    /// What follows Flock in the chain, where it can be.
    pub chain: Vec<Chained>,
}

impl Options {
    /// Reads them from `arguments` (the program's name first) and the environment. The
    /// error prints itself as clap does, help included.
    pub fn read<I, T>(arguments: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let given = CommandLine::try_parse_from(arguments)?;
        Ok(Self {
            action: given.action,
            bin_dir: given.bin_dir,
            conf_dir: given.conf_dir,
            conf_name: given.conf_name,
            plugin: given.plugin,
            name: given.name,
            run_dir: given.run_dir,
            mtu: (given.mtu != 0).then_some(given.mtu),
            timeout: Duration::from_secs(given.timeout_seconds),
            chain: given.chain.0,
        })
    }
}

fn conf_name(text: &str) -> Result<String, String> {
    let stem = text.strip_suffix(".conflist").unwrap_or_default();
    if stem.is_empty() || stem.starts_with('.') || text.contains('/') {
        return Err("expected a file name that ends with .conflist, like 01-flock.conflist".to_owned());
    }
    Ok(text.to_owned())
}

fn network_name(text: &str) -> Result<NetworkName, String> {
    NetworkName::new(text).map_err(|error| error.to_string())
}

fn run_dir(text: &str) -> Result<PathBuf, String> {
    if !text.starts_with('/') {
        return Err("expected an absolute path: the plugin is executed in any directory".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn mtu(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(mtu) if mtu == 0 || MTU.contains(&mtu) => Ok(mtu),
        _ => Err(format!("expected 0 or {} to {} bytes", MTU.start(), MTU.end())),
    }
}

fn chain(text: &str) -> Result<Chain, String> {
    if text == "none" {
        return Ok(Chain(Vec::new()));
    }
    let plugins = text.split(',').map(|name| {
        let known = [Chained::Portmap, Chained::Bandwidth];
        known.into_iter().find(|plugin| plugin.name() == name).ok_or_else(|| {
            format!("{name:?} is unknown, expected portmap, bandwidth, portmap,bandwidth or none")
        })
    });
    plugins.collect::<Result<_, _>>().map(Chain)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(arguments: &[&str]) -> Result<Options, clap::Error> {
        Options::read(["flock-installer"].iter().chain(arguments))
    }

    #[test]
    fn without_arguments_it_installs_where_runtimes_look() {
        // What the tests' own environment says of the plugin is not asked here.
        let options = read(&["--plugin", "/p"]).unwrap();
        assert_eq!(options.action, Action::Install);
        assert_eq!(options.bin_dir, Path::new("/opt/cni/bin"));
        assert_eq!(options.conf_dir, Path::new("/etc/cni/net.d"));
        assert_eq!(options.conf_name, "01-flock.conflist");
        assert_eq!(options.run_dir, Path::new("/run/flock"));
        assert_eq!((options.mtu, options.timeout), (None, Duration::from_secs(60)));
        assert_eq!(options.chain, [Chained::Portmap, Chained::Bandwidth]);
    }

    #[test]
    fn the_chain_is_a_list_or_none() {
        assert_eq!(read(&["--chain", "none"]).unwrap().chain, []);
        assert_eq!(read(&["--chain", "bandwidth"]).unwrap().chain, [Chained::Bandwidth]);
        let error = read(&["--chain", "firewall"]).unwrap_err().to_string();
        assert!(error.contains("\"firewall\" is unknown, expected portmap"), "{error}");
    }

    #[test]
    fn what_no_plugin_could_use_is_refused() {
        for (arguments, expected) in [
            (["--mtu", "67"], "expected 0 or 68 to 65535"),
            (["--timeout-seconds", "120"], "120 is not in 1..=110"),
            (["--run-dir", "run/flock"], "expected an absolute path"),
            (["--conf-name", "../x.conflist"], "expected a file name"),
            (["--conf-name", ".conflist"], "expected a file name"),
            (["--conf-name", "10-flock.conf"], "expected a file name"),
            (["--name", "a b"], "network name"),
        ] {
            let error = read(&arguments).unwrap_err().to_string();
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }
}
