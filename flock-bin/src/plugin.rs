//! The CNI plugin `flock`: passes what the container runtime says on to the agent
//! and prints what the agent answers.
//!
//! It is executed once for every verb of every pod, so it is small, blocking and
//! without any state: it ends by its deadline, whatever the runtime and the agent do,
//! and a failure is always an error of the CNI specification on standard output.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use flock_core::client::{self, Deadline, SOCKET_NAME};
use flock_core::cni::{self, Code, DEFAULT_TIMEOUT, Delivery, Error, RawCall, SpecVersion, Verb};
use flock_core::frame::{MAX_LEN, Request, Response};

mod help;
mod process;
mod queue;

pub use process::{Process, main};

use queue::{Answer, Queue};

/// What the plugin takes from its process, so that it can be tested without one.
pub trait Environment {
    /// The command line's arguments, without the program's name.
    fn arguments(&self) -> Vec<OsString>;

    /// An environment variable.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// Standard input to its end, or the first `limit` bytes of it. Fails with
    /// [`io::ErrorKind::TimedOut`] if neither comes before the deadline.
    fn input(&self, limit: usize, deadline: Deadline) -> io::Result<Vec<u8>>;

    /// Whether a person sits in front of standard input.
    fn input_is_terminal(&self) -> bool;

    /// Whether a person sits in front of standard output.
    fn output_is_terminal(&self) -> bool;
}

/// What the plugin leaves behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output: what the runtime reads.
    pub output: String,
    /// For standard error: what people read.
    pub notice: String,
    /// The exit status.
    pub status: u8,
}

impl Outcome {
    fn success(output: String) -> Self {
        Self { output, ..Self::default() }
    }

    /// An error as the runtime reads it.
    pub fn failure(error: &Error, version: SpecVersion) -> Self {
        Self { output: format!("{}\n", error.to_json(version)), status: 1, ..Self::default() }
    }
}

/// VERSION and STATUS are asked for often and by somebody who waits (kubelet calls a
/// node NotReady when they hang).
const SHORT_LIMIT: Duration = Duration::from_secs(2);

/// A runtime writes the configuration at once and closes standard input.
const INPUT_LIMIT: Duration = Duration::from_secs(10);

/// Does what the runtime, or the person, asks for.
pub fn run(environment: &impl Environment) -> Outcome {
    match environment.variable("CNI_COMMAND").filter(|command| !command.is_empty()) {
        Some(command) => serve(environment, command),
        None => help::answer(environment),
    }
}

fn serve(environment: &impl Environment, command: OsString) -> Outcome {
    let verb: Verb = match text("CNI_COMMAND", command).and_then(|command| command.parse()) {
        Ok(verb) => verb,
        Err(error) => return Outcome::failure(&error, SpecVersion::NEWEST),
    };
    let deadline = Deadline::after(limit(verb, DEFAULT_TIMEOUT));
    let config = config(environment, verb, deadline);
    let version = SpecVersion::for_errors(config.as_deref().unwrap_or_default());
    let answer = match verb {
        Verb::Version => {
            let info = config.and_then(|config| cni::version_info(&config));
            info.map(|info| Outcome::success(format!("{info}\n")))
        }
        _ => pass_on(environment, verb, config, deadline),
    };
    answer.unwrap_or_else(|error| Outcome::failure(&error, version))
}

/// Asks the agent. What is wrong with the environment is said before what is wrong
/// with standard input.
fn pass_on(
    environment: &impl Environment,
    verb: Verb,
    config: Result<Vec<u8>, Error>,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let variable = |name| text(name, environment.variable(name).unwrap_or_default());
    let (container_id, ifname) = (variable("CNI_CONTAINERID")?, variable("CNI_IFNAME")?);
    let (netns, args) = (variable("CNI_NETNS")?, variable("CNI_ARGS")?);
    let raw = RawCall {
        verb,
        container_id: &container_id,
        ifname: &ifname,
        netns: &netns,
        args: &args,
        config: b"",
        remaining: deadline.remaining(),
    };
    let key = raw.key()?;
    let config = config?;
    let delivery = Delivery::parse(&config)?;
    verb.require(delivery.cni_version)?;
    let request = Request::new(&RawCall { config: &config, ..raw })?;
    let deadline = deadline.with_limit(limit(verb, delivery.timeout));
    let answer = if let Some(key) = key.filter(|_| verb == Verb::Del) {
        Queue { run_dir: &delivery.run_dir, key, args: &args }.call_or_queue(&request, deadline)?
    } else {
        let answer = client::call(&delivery.run_dir.join(SOCKET_NAME), request, deadline);
        Answer::Agents(answer.map_err(|error| unavailable(verb, error.into()))?)
    };
    match answer {
        Answer::Agents(Response::Result(Some(json))) => Ok(Outcome::success(format!("{}\n", json.get()))),
        Answer::Agents(Response::Result(None)) => Ok(Outcome::success(String::new())),
        Answer::Agents(Response::Error(error)) => Err(error),
        Answer::Queued(notice) => Ok(Outcome { notice, ..Outcome::default() }),
    }
}

/// How long `verb` may take where the configuration says `configured`.
fn limit(verb: Verb, configured: Duration) -> Duration {
    match verb {
        Verb::Version | Verb::Status => SHORT_LIMIT,
        Verb::Add | Verb::Check | Verb::Del | Verb::Gc => configured,
    }
}

fn config(environment: &impl Environment, verb: Verb, deadline: Deadline) -> Result<Vec<u8>, Error> {
    // A person who tries VERSION by hand need not end an input that is not needed.
    if verb == Verb::Version && environment.input_is_terminal() {
        return Ok(Vec::new());
    }
    let bounded = deadline.with_limit(deadline.limit().min(INPUT_LIMIT));
    match environment.input(MAX_LEN + 1, bounded) {
        Ok(config) if config.len() > MAX_LEN => Err(Error::new(
            Code::INVALID_CONFIG,
            format!("standard input has more than {MAX_LEN} bytes"),
            "make the network configuration with prevResult and capability arguments smaller",
        )),
        Ok(config) => Ok(config),
        Err(error) if error.kind() == io::ErrorKind::TimedOut && verb == Verb::Version => Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Error::new(
            Code::IO_FAILURE,
            format!("standard input did not end within {} s", bounded.limit().as_secs()),
            "the runtime must write the network configuration and close standard input",
        )),
        Err(error) => Err(Error::new(
            Code::IO_FAILURE,
            format!("can't read standard input: {error}"),
            "the runtime passes the network configuration there",
        )),
    }
}

fn text(name: &str, value: OsString) -> Result<String, Error> {
    value.into_string().map_err(|value| {
        Error::new(
            Code::INVALID_ENVIRONMENT,
            format!("{name} is {}, expected UTF-8", value.display()),
            "correct the variable that the container runtime sets",
        )
    })
}

/// STATUS has a code of its own for an agent that is not there. Running pods do not need the agent.
fn unavailable(verb: Verb, error: Error) -> Error {
    match (verb, error.code) {
        (Verb::Status, Code::TRY_AGAIN_LATER) => Error { code: Code::NOT_AVAILABLE, ..error },
        _ => error,
    }
}
