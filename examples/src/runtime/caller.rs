//! A runtime that does not give up: it comes again where it is told to, or where nobody
//! answered, as kubelet does.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use flock_core::client::{self, ClientError, Deadline};
use flock_core::cni::{Code, RawCall, Verb};
use flock_core::frame::{Request, Response};

use crate::deadline::{Probe, until};
use crate::runtime::{AddResult, CniError, Container, INTERFACE, Runtime};
use crate::{LabError, Result};

/// How long one call may take before it is made again.
const CALL: Duration = Duration::from_secs(10);

/// Makes calls, by the plugin or without it.
#[derive(Debug, Clone)]
pub struct Caller {
    runtime: Runtime,
    socket: PathBuf,
    by_plugin: bool,
}

/// What came of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Success, with the addresses that were answered.
    Done(Vec<IpAddr>),
    /// Nobody answered, or the answer was to come again (code 11).
    Again(String),
    /// Any other error.
    Refused {
        /// Its code.
        code: u32,
        /// What it says.
        text: String,
    },
}

impl Caller {
    /// Runs the plugin for each call.
    pub fn by_plugin(runtime: Runtime) -> Self {
        Self { socket: runtime.run_dir.join(client::SOCKET_NAME), runtime, by_plugin: true }
    }

    /// Says to the agent what the plugin would say, without a process for each call.
    pub fn by_socket(runtime: Runtime) -> Self {
        Self { by_plugin: false, ..Self::by_plugin(runtime) }
    }

    /// Makes a call once. `netns` is whether the container's namespace is named.
    pub fn once(&self, verb: Verb, container: &Container, netns: bool) -> Result<Outcome> {
        if self.by_plugin { self.run(verb, container, netns) } else { self.ask(verb, container, netns) }
    }

    /// Makes a call until it is done, for `limit` at the longest. A refusal is an error.
    pub fn until_done(&self, verb: Verb, container: &Container, limit: Duration) -> Result<Vec<IpAddr>> {
        until(&format!("{verb} of {}", container.id), limit, || match self.once(verb, container, true)? {
            Outcome::Done(addresses) => Ok(Probe::Done(addresses)),
            Outcome::Again(why) => Ok(Probe::Waiting(why)),
            Outcome::Refused { code, text } => Err(LabError::Unexpected(format!(
                "{verb} of {} was refused with code {code}: {text}",
                container.id
            ))),
        })
    }

    /// Whether the agent serves pods, which is what STATUS asks.
    pub fn is_served(&self) -> bool {
        let raw = RawCall { verb: Verb::Status, remaining: CALL, ..RawCall::default() };
        let config = self.runtime.status().configuration();
        let Ok(request) = Request::new(&RawCall { config: config.as_bytes(), ..raw }) else { return false };
        matches!(client::call(&self.socket, request, Deadline::after(CALL)), Ok(Response::Result(_)))
    }

    fn run(&self, verb: Verb, container: &Container, netns: bool) -> Result<Outcome> {
        let mut call = self.runtime.prepare(&verb.to_string(), container);
        if !netns {
            call = call.without("CNI_NETNS");
        }
        let answer = call.make()?;
        if answer.status == Some(0) {
            return addresses(&answer.said);
        }
        let error: CniError = serde_json::from_str(&answer.said).map_err(|error| {
            LabError::Unexpected(format!("{verb} answered {answer:?}, no error of CNI: {error}"))
        })?;
        Ok(failed(error.code, format!("{} {}", error.msg, error.details)))
    }

    fn ask(&self, verb: Verb, container: &Container, netns: bool) -> Result<Outcome> {
        let call = self.runtime.prepare(&verb.to_string(), container);
        let (config, args) = (call.configuration(), call.arguments());
        let path = container.netns.path().to_string_lossy();
        let raw = RawCall {
            verb,
            container_id: &container.id,
            ifname: INTERFACE,
            netns: if netns { &path } else { "" },
            args: &args,
            config: config.as_bytes(),
            remaining: CALL,
        };
        let request = Request::new(&raw)
            .map_err(|error| LabError::Unexpected(format!("{verb} can't be put in a frame: {error}")))?;
        match client::call(&self.socket, request, Deadline::after(CALL)) {
            Ok(Response::Result(None)) => Ok(Outcome::Done(Vec::new())),
            Ok(Response::Result(Some(said))) => addresses(said.get()),
            Ok(Response::Error(error)) => {
                Ok(failed(error.code.0, format!("{} {}", error.msg, error.details)))
            }
            Err(
                error @ (ClientError::NotRunning { .. }
                | ClientError::Deadline { .. }
                | ClientError::Closed { .. }
                | ClientError::Io { .. }),
            ) => Ok(Outcome::Again(error.to_string())),
            Err(error) => Err(LabError::Unexpected(format!("{verb} of {}: {error}", container.id))),
        }
    }
}

fn failed(code: u32, text: String) -> Outcome {
    if code == Code::TRY_AGAIN_LATER.0 { Outcome::Again(text) } else { Outcome::Refused { code, text } }
}

/// Those of an ADD's answer; none where nothing was answered.
fn addresses(said: &str) -> Result<Outcome> {
    if said.trim().is_empty() {
        return Ok(Outcome::Done(Vec::new()));
    }
    let unexpected =
        |error: String| LabError::Unexpected(format!("the answer {said:?} is no result: {error}"));
    let result: AddResult = serde_json::from_str(said).map_err(|error| unexpected(error.to_string()))?;
    result.addresses().map(Outcome::Done).ok_or_else(|| unexpected("an address without a length".to_owned()))
}
