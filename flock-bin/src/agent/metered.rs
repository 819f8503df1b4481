//! Backends and a service that pass everything on and measure it.
//!
//! A request runs inside [`MeteredService`], which adds up what its calls of the backends
//! took, by step, and measures each step once for the request. Calls that belong to no
//! request (the start, the reaper) are measured one by one.

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flock_core::frame::{Request, Response};
use flock_core::handler::Backends;
use flock_core::server::Service;

use crate::agent::metrics::{Code, Metrics, Step, Verb};

mod backends;

/// The same backends, measured; `metrics` also counts their addresses and records from now on.
pub fn metered(backends: Backends, metrics: &Arc<Metrics>) -> Backends {
    metrics.observe(Arc::clone(&backends.ipam), Arc::clone(&backends.store));
    let Backends { ipam, store, dataplane, announcer, pods, clock } = backends;
    Backends {
        ipam: Arc::new(Metered::new(ipam, metrics)),
        store: Arc::new(Metered::new(store, metrics)),
        dataplane: Arc::new(Metered::new(dataplane, metrics)),
        announcer: Arc::new(Metered::new(announcer, metrics)),
        pods: Arc::new(Metered::new(pods, metrics)),
        clock,
    }
}

/// A backend whose calls are measured. It implements the trait of the one that it holds.
#[derive(Debug)]
pub struct Metered<T: ?Sized> {
    inner: Arc<T>,
    metrics: Arc<Metrics>,
}

impl<T: ?Sized> Metered<T> {
    /// Measures the calls of `inner`.
    pub fn new(inner: Arc<T>, metrics: &Arc<Metrics>) -> Self {
        Self { inner, metrics: Arc::clone(metrics) }
    }

    /// Cancel safe if `call` is: a call that is dropped is not measured.
    async fn measure<V, E>(&self, step: Step, call: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        let start = Instant::now();
        let outcome = call.await;
        let took = start.elapsed();
        let of_request = REQUEST.try_with(|request| {
            request.add(step, took);
            request.verb
        });
        let verb = of_request.unwrap_or_else(|_| {
            self.metrics.step(Verb::None, step, took);
            Verb::None
        });
        if outcome.is_err() {
            self.metrics.step_failed(verb, step);
        }
        outcome
    }
}

tokio::task_local! {
    /// The request that this task is at work for.
    static REQUEST: InRequest;
}

/// What the calls of one request took.
#[derive(Debug)]
struct InRequest {
    verb: Verb,
    steps: [Cell<Option<Duration>>; Step::ALL.len()],
}

impl InRequest {
    fn new(verb: Verb) -> Self {
        Self { verb, steps: [const { Cell::new(None) }; Step::ALL.len()] }
    }

    fn add(&self, step: Step, took: Duration) {
        let sum = &self.steps[step as usize];
        sum.set(Some(sum.get().unwrap_or_default() + took));
    }
}

/// A service whose requests are counted and measured, also those that are refused
/// because the node is not ready yet.
#[derive(Debug)]
pub struct MeteredService {
    inner: Arc<dyn Service>,
    metrics: Arc<Metrics>,
}

impl MeteredService {
    /// Measures the requests that `inner` answers.
    pub fn new(inner: Arc<dyn Service>, metrics: &Arc<Metrics>) -> Self {
        Self { inner, metrics: Arc::clone(metrics) }
    }
}

#[async_trait]
impl Service for MeteredService {
    async fn call(&self, request: Request) -> Response {
        let verb = Verb::from(request.verb);
        let mut outcome =
            Outcome { metrics: &self.metrics, verb, code: Code::Internal, start: Instant::now() };
        let work = async {
            let response = self.inner.call(request).await;
            REQUEST.with(|request| {
                for step in Step::ALL.iter().copied() {
                    if let Some(took) = request.steps[step as usize].get() {
                        self.metrics.step(verb, step, took);
                    }
                }
            });
            response
        };
        let response = REQUEST.scope(InRequest::new(verb), work).await;
        outcome.code = match &response {
            Response::Result(_) => Code::Success,
            Response::Error(error) => error.code.into(),
        };
        response
    }
}

/// Counts a request when it ends, however it does: one that panics is answered with code
/// 100 by the server.
struct Outcome<'a> {
    metrics: &'a Metrics,
    verb: Verb,
    code: Code,
    start: Instant,
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        self.metrics.request(self.verb, self.code, self.start.elapsed());
    }
}
