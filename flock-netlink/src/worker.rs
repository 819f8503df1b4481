//! The threads that talk to the kernel.
//!
//! The kernel works off a netlink request inside `sendmsg`, and may wait there
//! for its one big lock. So netlink has threads of its own, and the runtime's
//! threads never block. They are also the only threads that enter a pod's
//! network namespace, and they do so only to open a socket or a file: no
//! `await` can happen in between, because there is none on these threads.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    /// Set where the thread may not be at home, but in a pod's namespace; it must not be used further.
    pub(crate) lost: bool,
}

mod queue;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod tests;
/// What the queue is made of.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

use queue::Queue;

/// Is told where there is nobody to carry it out, and why.
type Job = Box<dyn FnOnce(Result<&mut Worker, DataplaneError>) + Send>;

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
    /// caller goes away; the caller is told also where it panics.
    pub(crate) async fn run<T, F>(&self, job: F) -> Result<T, DataplaneError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Worker) -> Result<T, DataplaneError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.shared.queue.push(Box::new(move |worker| {
            let done = worker.and_then(|worker| worker.carry_out(job));
            // A caller that went away wants no answer.
            let _ = answer.send(done);
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

    /// For a thread that may be in any namespace.
    fn come_home(shared: &Shared) -> Result<Self, DataplaneError> {
        shared.home.return_here().and_then(|()| Self::new(shared)).map_err(|source| DataplaneError::Kernel {
            action: "let a netlink thread return to the node's network namespace".to_owned(),
            source,
        })
    }

    fn carry_out<T>(
        &mut self,
        job: impl FnOnce(&mut Self) -> Result<T, DataplaneError>,
    ) -> Result<T, DataplaneError> {
        catch_unwind(AssertUnwindSafe(|| job(self))).unwrap_or_else(|panic| {
            // It may have been in a pod's namespace, or in the middle of an answer.
            self.lost = true;
            let said = panic.downcast_ref::<&str>().copied();
            let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            Err(DataplaneError::Backend(format!(
                "a netlink thread has panicked: {}; this is a defect, please report it with the log",
                said.unwrap_or("without a text")
            )))
        })
    }
}

fn start_thread(shared: Arc<Shared>, worker: Worker) -> io::Result<()> {
    thread::Builder::new().name(shared.name.clone()).spawn(move || serve(&shared, worker)).map(drop)
}

/// Carries out one job after the other. What a lost worker leaves behind is not used any
/// further: the thread comes home first, and where it can't, the next job tries again.
fn serve(shared: &Shared, worker: Worker) {
    let mut ready = Some(worker);
    while let Some(job) = shared.queue.next() {
        match ready.take().map_or_else(|| Worker::come_home(shared), Ok) {
            Ok(mut worker) => {
                job(Ok(&mut worker));
                if worker.lost {
                    tracing::error!("a netlink thread may be in a pod's network namespace and begins anew");
                } else {
                    ready = Some(worker);
                }
            }
            Err(error) => job(Err(error)),
        }
    }
}
