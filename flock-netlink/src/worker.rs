//! The threads that talk to the kernel.
//!
//! The kernel works off a netlink request inside `sendmsg`, and may wait there
//! for its one big lock. So netlink has threads of its own, and the runtime's
//! threads never block. They are also the only threads that enter a pod's
//! network namespace, and they do so only to open a socket or a file: no
//! `await` can happen in between, because there is none on these threads.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use flock_core::dataplane::DataplaneError;
use tokio::sync::oneshot;

use crate::conversation::Conversation;
use crate::listener::OwnPorts;
use crate::netns::Home;
use crate::sysctl::Sysctls;

/// What one of the threads has at hand.
#[derive(Debug)]
pub(crate) struct Worker {
    /// The namespace that the thread lives in: the node's.
    pub(crate) home: Home,
    /// A socket of the node's namespace.
    pub(crate) node: Conversation,
    /// What is set through files rather than messages.
    pub(crate) sysctls: Sysctls,
    /// Set when the thread could not come home from a pod's namespace; it must not be used further.
    pub(crate) lost: bool,
}

mod queue;
#[cfg(test)]
mod queue_tests;
/// What the queue is made of.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

use queue::Queue;

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// Some threads that take jobs from one queue.
pub(crate) struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    /// The namespace of the thread that made the pool: it is the node's.
    home: Home,
    sysctls: Sysctls,
    /// Where the numbers of the sockets are kept.
    ports: OwnPorts,
    queue: Queue<Job>,
}

impl Workers {
    /// Starts `count` threads in the network namespace of the calling thread.
    pub(crate) fn start(name: &str, count: usize, sysctls: &Sysctls, ports: &OwnPorts) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            home: Home::of_this_thread()?,
            sysctls: sysctls.clone(),
            ports: ports.clone(),
            queue: Queue::default(),
        });
        // Dropped on failure, it ends the threads that have started.
        let workers = Self { shared };
        for _ in 0..count {
            start_thread(Arc::clone(&workers.shared), Worker::new(&workers.shared)?)?;
        }
        Ok(workers)
    }

    /// Runs `job` on one of the threads. It is carried out even when the
    /// caller goes away.
    pub(crate) async fn run<T, F>(&self, job: F) -> Result<T, DataplaneError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Worker) -> Result<T, DataplaneError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.shared.queue.push(Box::new(move |worker| {
            // A caller that went away wants no answer.
            let _ = answer.send(job(worker));
        }));
        answered.await.unwrap_or_else(|_| {
            Err(DataplaneError::Backend("a netlink thread has ended early; restart the agent".into()))
        })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl Worker {
    fn new(shared: &Shared) -> io::Result<Self> {
        let node = Conversation::open()?;
        shared.ports.add(node.port());
        Ok(Self { home: shared.home.try_clone()?, node, sysctls: shared.sysctls.clone(), lost: false })
    }
}

fn start_thread(shared: Arc<Shared>, worker: Worker) -> io::Result<()> {
    thread::Builder::new().name(shared.name.clone()).spawn(move || serve(&shared, worker)).map(drop)
}

fn serve(shared: &Arc<Shared>, mut worker: Worker) {
    while let Some(job) = shared.queue.next() {
        job(&mut worker);
        if worker.lost {
            tracing::error!("a netlink thread could not leave a pod's network namespace and is replaced");
            replace(shared);
            return;
        }
    }
}

/// Starts a new thread in the stead of this one, which is in a wrong
/// namespace: the new one goes home first.
fn replace(shared: &Arc<Shared>) {
    let started = thread::Builder::new().name(shared.name.clone()).spawn({
        let shared = Arc::clone(shared);
        move || match shared.home.return_here().and_then(|()| Worker::new(&shared)) {
            Ok(worker) => serve(&shared, worker),
            Err(error) => tracing::error!(%error, "a netlink thread could not be replaced"),
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "a netlink thread could not be replaced");
    }
}
