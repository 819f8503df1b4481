//! Jobs that go wrong.

use std::thread;
use std::time::Duration;

use rustix::thread::{CapabilitySet, UnshareFlags, capabilities, set_capabilities};

use super::*;

/// Nothing here takes as long, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pool like the reaper's, in a namespace of its own.
fn one_thread() -> Workers {
    leave();
    Workers::start("test", 1, &Sysctls::of("/proc".as_ref()), &OwnPorts::default()).unwrap()
}

/// Moves the calling thread into another namespace.
#[allow(deprecated)] // file descriptors, which can't be unshared safely, are not
fn leave() {
    rustix::thread::unshare(UnshareFlags::NEWNET)
        .expect("this test needs the rights of root over namespaces");
}

async fn run<T: Send + 'static>(
    workers: &Workers,
    job: impl FnOnce(&mut Worker) -> T + Send + 'static,
) -> Result<T, DataplaneError> {
    let answer = workers.run(move |worker| Ok(job(worker)));
    tokio::time::timeout(PATIENCE, answer).await.expect("nobody took up the job")
}

async fn is_at_home(workers: &Workers) -> bool {
    let namespace = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    run(workers, move |_| namespace()).await.unwrap() == namespace()
}

#[tokio::test]
async fn a_job_that_panics_is_told_to_its_caller_and_harms_no_other() {
    let workers = one_thread();
    for _ in 0..3 {
        let error = run::<()>(&workers, |_| panic!("of this test")).await.unwrap_err();
        assert!(error.to_string().contains("of this test"), "{error}");
        assert!(is_at_home(&workers).await);
    }
}

#[tokio::test]
async fn what_follows_a_job_that_stayed_in_a_pods_namespace_is_done_in_the_nodes() {
    let workers = one_thread();
    let job = |worker: &mut Worker| {
        leave();
        worker.lost = true;
    };
    run(&workers, job).await.unwrap();
    assert!(is_at_home(&workers).await);
    run::<()>(&workers, |_| {
        leave();
        panic!("of this test")
    })
    .await
    .unwrap_err();
    assert!(is_at_home(&workers).await);
}

/// The thread may not change its namespace any more.
#[tokio::test]
async fn where_no_thread_comes_home_jobs_fail_instead_of_waiting() {
    let workers = one_thread();
    run(&workers, |worker| {
        worker.lost = true;
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::SYS_ADMIN);
        set_capabilities(None, sets).unwrap();
    })
    .await
    .unwrap();
    for _ in 0..3 {
        let error = run(&workers, |_| ()).await.unwrap_err();
        assert!(error.to_string().contains("network namespace"), "{error}");
    }
}

#[tokio::test]
async fn a_job_whose_caller_went_away_is_done() {
    let workers = one_thread();
    let (start, started) = std::sync::mpsc::channel::<()>();
    let (done, is_done) = oneshot::channel();
    let job = workers.run(move |_| {
        started.recv().unwrap();
        done.send(thread::current().name().map(str::to_owned)).unwrap();
        Ok(())
    });
    drop(tokio::time::timeout(Duration::ZERO, job).await);
    start.send(()).unwrap();
    let name = tokio::time::timeout(PATIENCE, is_done).await.unwrap().unwrap();
    assert_eq!(name.as_deref(), Some("test"));
}
