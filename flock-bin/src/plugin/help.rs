//! What a person is told who runs the plugin by hand.

use flock_core::cni::{Code, Error, SpecVersion};

use super::{Environment, Outcome};

const TEXT: &str = "\
flock is a CNI plugin: a container runtime (containerd, CRI-O) executes it to
connect a pod to the network and to disconnect it again. It passes the request on
to flock-agent, which must run on the same node. It is not meant to be run by hand.

Installed as            /opt/cni/bin/flock
Configured in           /etc/cni/net.d/01-flock.conflist
Looks for the agent at  /run/flock/flock.sock (\"runDir\" of the configuration)

To see whether it can be executed:   CNI_COMMAND=VERSION flock
To see whether pods can be served:
  echo '{\"cniVersion\": \"1.1.0\", \"name\": \"flock\", \"type\": \"flock\"}' | CNI_COMMAND=STATUS flock

Options:
  -h, --help     Print this text
  -V, --version  Print the version

The rest is said in environment variables and on standard input, see
https://www.cni.dev/docs/spec/
";

/// Answers a call without `CNI_COMMAND`.
pub(super) fn answer(environment: &impl Environment) -> Outcome {
    let arguments = environment.arguments();
    match arguments.first().map(|argument| argument.to_string_lossy()).as_deref() {
        Some("-h" | "--help") => Outcome::success(TEXT.to_owned()),
        Some("-V" | "--version") => Outcome::success(version()),
        Some(other) => Outcome {
            notice: format!(
                "flock: {other:?} is not an option, expected --help, --version or the environment of a container runtime\n"
            ),
            ..missing(environment)
        },
        None => Outcome { notice: TEXT.to_owned(), ..missing(environment) },
    }
}

/// A runtime that forgets the variable reads standard output; a person is not shown JSON.
fn missing(environment: &impl Environment) -> Outcome {
    if environment.output_is_terminal() {
        return Outcome { status: 1, ..Outcome::default() };
    }
    let error = Error::new(
        Code::INVALID_ENVIRONMENT,
        "CNI_COMMAND is missing",
        "flock is called by a container runtime, which sets it; flock --help says more",
    );
    Outcome::failure(&error, SpecVersion::NEWEST)
}

fn version() -> String {
    let spoken = SpecVersion::ALL.map(SpecVersion::as_str).join(", ");
    format!("flock {} (CNI {spoken})\n", env!("CARGO_PKG_VERSION"))
}
