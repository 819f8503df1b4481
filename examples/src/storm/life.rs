//! One caller: pods that come and go, one after the other, in one network namespace.

use std::net::IpAddr;
use std::time::Duration;

use flock_core::cni::Verb;

use crate::deadline::{Probe, until};
use crate::node::{Node, Pod};
use crate::random::Random;
use crate::runtime::{Caller, Container, Outcome};
use crate::storm::{PATIENCE, Shared};
use crate::{LabError, Result};

/// Every how many callers one runs the plugin for each call, as a runtime does. The
/// others save the process and say the same.
const PLUGIN: usize = 4;
/// Every how many callers one has pods with anycast addresses.
const ANYCAST: usize = 5;
/// How long a pod is there at the longest.
const STAY_MS: usize = 30;

/// A caller with the namespace that its pods have.
#[derive(Debug)]
pub(super) struct Life<'a> {
    shared: &'a Shared,
    caller: Caller,
    random: Random,
    container: Container,
    node: String,
    /// The pod that is still there in the end.
    pub(super) last: Option<Pod>,
}

impl<'a> Life<'a> {
    pub(super) fn prepare(node: &Node, shared: &'a Shared, index: usize) -> Result<Self> {
        let anycast = format!("2001:db8:a::{index:x},198.51.100.{index}");
        let annotations = if index % ANYCAST == 1 { vec![("anycast", anycast.as_str())] } else { Vec::new() };
        let container = node.make_container(&format!("pod-{index}"), &annotations)?;
        let runtime = node.runtime()?;
        let caller = if index.is_multiple_of(PLUGIN) {
            Caller::by_plugin(runtime)
        } else {
            Caller::by_socket(runtime)
        };
        let random = Random::new(shared.seed.wrapping_add(1 + index as u64));
        Ok(Self { shared, caller, random, container, node: node.name().to_owned(), last: None })
    }

    /// Until all come to an end; the last pod stays. A failure ends all others too.
    pub(super) fn live(&mut self) -> Result<()> {
        let outcome = self.pods();
        if outcome.is_err() {
            self.shared.finish();
        }
        outcome
    }

    fn pods(&mut self) -> Result<()> {
        for number in 0_usize.. {
            let container =
                Container { id: format!("{}-{number}", self.container.id), ..self.container.clone() };
            if self.shared.is_over() {
                let addresses = self.until_done(Verb::Add, &container)?;
                self.shared.take(&container.id, &addresses)?;
                self.last = Some(Pod { container, node: self.node.clone(), addresses });
                return Ok(());
            }
            self.pod(&container)?;
            self.shared.lived();
        }
        Ok(())
    }

    fn pod(&mut self, container: &Container) -> Result<()> {
        // A kubelet that gives up after the first failure has the sandbox deleted.
        let patient = !self.random.once_in(8);
        let added =
            if patient { Some(self.until_done(Verb::Add, container)?) } else { self.try_add(container)? };
        if let Some(addresses) = added {
            self.stay(container, &addresses)?;
            self.shared.leave(&addresses);
        }
        if self.random.once_in(8) {
            // Some runtimes delete once more, or no longer know the namespace.
            let outcome = self.caller.once(Verb::Del, container, false)?;
            if let Outcome::Refused { code, text } = outcome {
                return Err(LabError::Unexpected(format!(
                    "DEL of {} was refused: {code} {text}",
                    container.id
                )));
            }
        }
        self.until_done(Verb::Del, container).map(drop)
    }

    fn stay(&mut self, container: &Container, addresses: &[IpAddr]) -> Result<()> {
        if addresses.len() != 2 {
            return Err(LabError::Unexpected(format!(
                "{} was given {addresses:?}, expected two",
                container.id
            )));
        }
        self.shared.take(&container.id, addresses)?;
        if self.random.once_in(4) {
            let again = self.until_done(Verb::Add, container)?;
            if again != addresses {
                return Err(LabError::Unexpected(format!(
                    "{} was given {addresses:?}, and {again:?} when it asked again",
                    container.id
                )));
            }
        }
        std::thread::sleep(Duration::from_millis(self.random.below(STAY_MS) as u64));
        self.until_done(Verb::Check, container).map(drop)
    }

    fn try_add(&self, container: &Container) -> Result<Option<Vec<IpAddr>>> {
        match self.caller.once(Verb::Add, container, true)? {
            Outcome::Done(addresses) => Ok(Some(addresses)),
            Outcome::Again(_) => Ok(None),
            Outcome::Refused { code, text } => {
                Err(LabError::Unexpected(format!("ADD of {} was refused: {code} {text}", container.id)))
            }
        }
    }

    fn until_done(&self, verb: Verb, container: &Container) -> Result<Vec<IpAddr>> {
        until(&format!("{verb} of {}", container.id), PATIENCE, || {
            let outcome = self.caller.once(verb, container, true)?;
            self.shared.count(matches!(outcome, Outcome::Done(_)));
            match outcome {
                Outcome::Done(addresses) => Ok(Probe::Done(addresses)),
                Outcome::Again(why) => Ok(Probe::Waiting(why)),
                Outcome::Refused { code, text } => Err(LabError::Unexpected(format!(
                    "{verb} of {} was refused: {code} {text}",
                    container.id
                ))),
            }
        })
    }
}
