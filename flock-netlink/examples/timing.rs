//! How long attaching, detaching and reaping take, step by step.
//!
//! Run it as root, or with the rights of root over new namespaces:
//! `cargo build --release -p flock-netlink --example timing && unshare -Urnm target/release/examples/timing`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

#[path = "lab/lab.rs"]
mod lab;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flock_core::dataplane::{Dataplane, Link};
use flock_netlink::NetlinkDataplane;
use tracing::span::Id;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

const ATTACHMENTS: u8 = 100;
const REAPED_SINGLY: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    lab::enter_a_node()?;
    let steps = Steps::default();
    Registry::default().with(steps.clone()).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    runtime.block_on(measure(&steps))
}

async fn measure(steps: &Steps) -> Result<(), Box<dyn Error>> {
    let dataplane = NetlinkDataplane::new()?;
    dataplane.prepare().await?;
    let (mut attach, mut again, mut check, mut detach) = (vec![], vec![], vec![], vec![]);
    let (mut namespaces, mut pods) = (vec![], vec![]);
    for number in 1..=ATTACHMENTS {
        let namespace = lab::Namespace::new()?;
        let netns = dataplane.identify(namespace.path().as_ref()).await?;
        let pod = lab::attachment(number, netns)?;
        time(&mut attach, dataplane.attach(&pod)).await?;
        namespaces.push(namespace);
        pods.push(pod);
    }
    let breakdown = steps.take();
    for pod in &pods {
        time(&mut again, dataplane.attach(pod)).await?;
        time(&mut check, dataplane.check(std::slice::from_ref(pod))).await?;
    }
    let mut check_all = vec![];
    time(&mut check_all, dataplane.check(&pods)).await?;
    for pod in &pods {
        time(&mut detach, dataplane.detach(pod)).await?;
    }
    let mut links: Vec<Link> = pods.iter().map(Link::of).collect();
    let (mut one, mut fifty, mut rest) = (vec![], vec![], vec![]);
    for link in links.drain(..REAPED_SINGLY) {
        time(&mut one, dataplane.reap(&[link])).await?;
    }
    time(&mut fifty, dataplane.reap(&links[..50])).await?;
    time(&mut rest, dataplane.reap(&links[50..])).await?;

    print("attach", attach);
    for (step, times) in breakdown {
        print(&format!("  {step}"), times);
    }
    print("attach again", again);
    print("check one", check);
    print("check all 100", check_all);
    print("detach", detach);
    print("reap one", one);
    print("reap fifty", fifty);
    Ok(())
}

async fn time<T, E>(times: &mut Vec<Duration>, action: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let start = Instant::now();
    let result = action.await;
    times.push(start.elapsed());
    result
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!("{what:22} median {:>10.1?}   p90 {:>10.1?}   p99 {:>10.1?}", at(50), at(90), at(99));
}

/// How long each span was entered, by its name.
#[derive(Clone, Default)]
struct Steps(Arc<Mutex<BTreeMap<&'static str, Vec<Duration>>>>);

impl Steps {
    fn take(&self) -> BTreeMap<&'static str, Vec<Duration>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Steps {
    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            span.extensions_mut().replace(Instant::now());
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(start) = span.extensions().get::<Instant>() {
            let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            steps.entry(span.name()).or_default().push(start.elapsed());
        }
    }
}
